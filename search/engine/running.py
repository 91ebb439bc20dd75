"""Everything that the search knows about one running trial."""

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from search.engine.asha import Decision
from search.engine.memory_record import MemoryRecord
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialStart

EPOCH_SECONDS = "epoch_seconds"


class RunningTrial:
    """A trial from its start to its ending.

    Parameters
    ----------
    start
        What is known before the first epoch.
    values
        Epoch → value, for epochs that an earlier process reported.
    reports
        The reports of those epochs, if the run's folder has them.
    failures
        Restarts from a checkpoint so far.
    """

    def __init__(
        self,
        start: TrialStart,
        values: Mapping[int, float] | None = None,
        reports: Iterable[EpochReport] = (),
        failures: int = 0,
    ):
        self.start = start
        self.values: dict[int, float] = dict(values or {})
        reports = list(reports)
        self.memory = MemoryRecord(reports)
        self._epoch_seconds = [report.epoch_seconds for report in reports]
        self.failures = failures
        self._decisions: dict[int, Decision] = {}

    @property
    def epoch(self) -> int:
        """The last reported epoch; 0 before the first."""
        return max(self.values, default=0)

    def add(self, report: EpochReport) -> None:
        """Adds a report."""
        self.values[report.epoch] = report.value
        self.memory.add(report)
        self._epoch_seconds.append(report.epoch_seconds)

    def attributes(self) -> dict[str, Any]:
        """User attributes that the study keeps with its ending: those of its memory, and its median seconds an epoch,
        to be read beside `predicted_epoch_seconds`."""
        seconds = {EPOCH_SECONDS: round(median(self._epoch_seconds), 4)} if self._epoch_seconds else {}
        return {**self.memory.attributes(), **seconds}

    def decided(self, epoch: int, decision: Decision) -> None:
        """Records the decision made after an epoch."""
        self._decisions[epoch] = decision

    def decision(self, epoch: int) -> Decision:
        """The decision after an epoch; CONTINUE if an earlier process made it, since the trial still runs."""
        return self._decisions.get(epoch, Decision.CONTINUE)

    def outcome(self, end: TrialEnd, reason: str) -> TrialOutcome:
        """The trial's outcome if it ends now."""
        return TrialOutcome(
            end=end,
            reason=reason,
            epochs=self.epoch,
            best_auc=max((value for value in self.values.values() if value == value), default=None),
            final_auc=self.values[self.epoch] if self.values else None,
            failures=self.failures,
        )
