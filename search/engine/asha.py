"""Asynchronous successive halving: at each rung a trial continues only if it is among the best 1/η so far.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), in its stopping form (as in Ray Tune
and Syne Tune): no trial waits for a rung to fill, and a stopped trial never resumes. Pure: no clock, no randomness, no
Ray and no Optuna, so the same reports in the same order give the same decisions everywhere, and the rungs can be
rebuilt from a study.
"""

from bisect import bisect_right, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from trainable.errors import ConfigError


class Decision(StrEnum):
    """What a trial does after a report."""

    CONTINUE = "continue"
    STOP = "stop"
    SUSPEND = "suspend"
    """The search ends, not the trial: it keeps its checkpoint and continues when the search is resumed."""


@dataclass
class Rung:
    """All values reported at one epoch, in ascending order."""

    epoch: int
    values: list[float] = field(default_factory=list)

    def record(self, value: float, reduction_factor: int) -> bool:
        """Adds a value and returns whether it is among the best 1/η so far (always at least the best one; ties stay).

        The search is O(log n); the insertion moves memory, which takes microseconds at 10,000 values.
        """
        insort(self.values, value)
        return self.stays(value, reduction_factor)

    def stays(self, value: float, reduction_factor: int) -> bool:
        """Whether a recorded value is among the best 1/η so far."""
        better = len(self.values) - bisect_right(self.values, value)
        return better < max(1, len(self.values) // reduction_factor)


class Asha:
    """Rungs at ``grace · η^k`` epochs below `max_epochs`; higher values are better.

    Parameters
    ----------
    grace_period
        Epochs that every trial gets.
    longest_warmup
        Longest commitment warm-up in the space, in epochs. A trial that is still warming up must not be compared with
        one that is not, so the first rung is no earlier than the epoch after the warm-up, the first one trained
        entirely at full commitment.
    """

    def __init__(self, *, grace_period: int, reduction_factor: int, max_epochs: int, longest_warmup: int = 0):
        if grace_period < 1 or max_epochs < 1:
            raise ConfigError(
                f"grace period {grace_period} and max epochs {max_epochs} must be at least 1; raise the smaller one"
            )
        if reduction_factor < 2:
            raise ConfigError(f"reduction factor {reduction_factor} must be at least 2: 1/η of the trials continue")
        self.max_epochs = max_epochs
        self.reduction_factor = reduction_factor
        self.rungs: list[Rung] = []
        self.first_epoch = max(grace_period, longest_warmup + 1 if longest_warmup else 0)
        epoch = self.first_epoch
        while epoch < max_epochs:
            self.rungs.append(Rung(epoch))
            epoch *= reduction_factor
        self._passed: dict[int, int] = {}
        self._stopped: set[int] = set()

    @property
    def rung_epochs(self) -> tuple[int, ...]:
        return tuple(rung.epoch for rung in self.rungs)

    @property
    def ends(self) -> tuple[int, ...]:
        """Epochs after which a trial may end."""
        return (*self.rung_epochs, self.max_epochs)

    @property
    def warning(self) -> str:
        """One line if there is no rung before the last epoch, so no trial will be stopped early; otherwise empty."""
        if self.rungs or self.max_epochs == 1:
            return ""
        return (
            f"no trial will be stopped early: ASHA's first decision would be at epoch {self.first_epoch} (grace period "
            f"and commitment warm-up), and a trial has {self.max_epochs}; raise --max-epochs, or lower --grace-period "
            "or the space's warm-up"
        )

    def report(self, number: int, epoch: int, value: float) -> Decision:
        """The decision for trial `number` after `epoch` epochs with `value`.

        A trial is recorded once at each rung. If it never reported the rung's epoch (a driver died between checkpoint
        and report), its first later report counts. NaN is the worst value.
        """
        if number in self._stopped:
            return Decision.STOP
        if value != value:
            value = float("-inf")
        passed = self._passed.get(number, 0)
        while passed < len(self.rungs) and self.rungs[passed].epoch <= epoch:
            stays = self.rungs[passed].record(value, self.reduction_factor)
            passed += 1
            self._passed[number] = passed
            if not stays:
                self._stopped.add(number)
                return Decision.STOP
        return Decision.CONTINUE

    def forget(self, number: int) -> None:
        """Drops the state of an ended trial; its values stay in the rungs."""
        self._passed.pop(number, None)
        self._stopped.discard(number)

    def rebuild(self, values_of_trials: Mapping[int, Mapping[int, float]]) -> None:
        """Adds reported values, ``number → epoch → value``, to the rungs, in order of trial numbers.

        Past decisions stand; only the values that later trials are compared with are rebuilt. What a rung has is not
        added again, until the trial is forgotten.
        """
        for number in sorted(values_of_trials):
            values = values_of_trials[number]
            passed = self._passed.get(number, 0)
            for rung in self.rungs[passed:]:
                reported = [epoch for epoch in values if epoch >= rung.epoch]
                if not reported:
                    break
                value = values[min(reported)]
                insort(rung.values, value if value == value else float("-inf"))
                passed += 1
            self._passed[number] = passed
