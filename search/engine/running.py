"""Everything that the search knows about one running trial."""

from collections.abc import Iterable, Mapping

from search.engine.asha import Decision
from search.engine.memory_record import MemoryRecord
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialStart


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
        self.memory = MemoryRecord(reports)
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

    def decided(self, epoch: int, decision: Decision) -> None:
        """Records the decision made after an epoch."""
        self._decisions[epoch] = decision

    def decision(self, epoch: int) -> Decision:
        """The decision after an epoch; CONTINUE if an earlier process made it, since the trial still runs."""
        return self._decisions.get(epoch, Decision.CONTINUE)

    def outcome(self, end: TrialEnd, reason: str, *, failures: int | None = None) -> TrialOutcome:
        """The trial's outcome if it ends now; `failures` overrides the count kept here."""
        return TrialOutcome(
            end=end,
            reason=reason,
            epochs=self.epoch,
            best_auc=max((value for value in self.values.values() if value == value), default=None),
            final_auc=self.values[self.epoch] if self.values else None,
            failures=self.failures if failures is None else failures,
        )
