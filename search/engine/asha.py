"""Asynchronous successive halving: at each rung a trial goes on only if it is among the best 1/η seen there so far.

Li et al., "A System for Massively Parallel Hyperparameter Tuning" (MLSys 2020), in its stopping form (as in Ray Tune
and Syne Tune): nobody waits for a rung to fill, and a stopped trial is not taken up again. Pure: no clock, no
randomness, no Ray and no Optuna, so the same reports in the same order give the same decisions everywhere, and the
rungs can be rebuilt from what a study remembers.
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


@dataclass
class Rung:
    """All values reported at one epoch, in ascending order."""

    epoch: int
    values: list[float] = field(default_factory=list)

    def record(self, value: float, reduction_factor: int) -> bool:
        """Adds a value; whether it is among the best 1/η of all so far (at least the best one; ties stay).

        Finding the place is O(log n); the insertion moves memory, which at 10,000 values takes microseconds.
        """
        insort(self.values, value)
        return self.stays(value, reduction_factor)

    def stays(self, value: float, reduction_factor: int) -> bool:
        """Whether a recorded value is among the best 1/η of those seen so far."""
        better = len(self.values) - bisect_right(self.values, value)
        return better < max(1, len(self.values) // reduction_factor)


class Asha:
    """Rungs at ``grace · η^k`` epochs below `max_epochs`; higher values are better.

    Parameters
    ----------
    grace_period
        Epochs that every trial gets.
    longest_warmup
        Most epochs that a commitment warm-up may last in the space searched. A trial still warming up must not be
        judged against one that is not, so the first rung is no earlier than the epoch after it: with a warm-up of w
        epochs that is the first one trained at full commitment from its beginning to its end.
    """

    def __init__(self, *, grace_period: int, reduction_factor: int, max_epochs: int, longest_warmup: int = 0):
        if grace_period < 1 or max_epochs < 1:
            raise ConfigError(
                f"grace period {grace_period} and max epochs {max_epochs} must be at least 1; raise the smaller one"
            )
        if reduction_factor < 2:
            raise ConfigError(f"reduction factor {reduction_factor} must be at least 2: 1/η of the trials go on")
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
    def warning(self) -> str:
        """One line where there is no rung below the last epoch, so that nothing will be stopped early; or empty."""
        if self.rungs or self.max_epochs == 1:
            return ""
        return (
            f"no trial will be stopped early: ASHA's first decision would be at epoch {self.first_epoch} (grace period "
            f"and commitment warm-up), and a trial has {self.max_epochs}; raise --max-epochs, or lower --grace-period "
            "or the space's warm-up"
        )

    def report(self, number: int, epoch: int, value: float) -> Decision:
        """What trial `number` does after `epoch` epochs with `value`.

        A trial is recorded once at each rung. If the very epoch of a rung was not heard of (a driver died between
        checkpoint and report), the first one after it counts. A value that is not a number is the worst there is.
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

    def stays(self, epoch: int, value: float) -> bool:
        """Whether a value already recorded goes on at this epoch, by what the rungs hold now; True off the rungs."""
        for rung in self.rungs:
            if rung.epoch == epoch:
                return rung.stays(value if value == value else float("-inf"), self.reduction_factor)
        return True

    def forget(self, number: int) -> None:
        """The trial ended: what is kept for it alone goes; its values stay in the rungs."""
        self._passed.pop(number, None)
        self._stopped.discard(number)

    def rebuild(self, values_of_trials: Mapping[int, Mapping[int, float]]) -> None:
        """Rungs from reported values, ``number → epoch → value``, in the order of trial numbers.

        Decisions of the past stand (the study keeps them); only what later trials are compared with is rebuilt.
        """
        for number in sorted(values_of_trials):
            values = values_of_trials[number]
            passed = 0
            for rung in self.rungs:
                heard = [epoch for epoch in values if epoch >= rung.epoch]
                if not heard:
                    break
                value = values[min(heard)]
                insort(rung.values, value if value == value else float("-inf"))
                passed += 1
            self._passed[number] = passed
