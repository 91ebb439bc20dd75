"""The durable trial store that the engine needs, independent of its implementation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.trial import FrozenTrial

from search.engine.sampler import Proposal
from trainable.config import TrialConfig
from trainable.execution_plan import MemoryPlan
from trainable.record import EpochReport, TrialOutcome, TrialStart


@dataclass(frozen=True)
class KnownTrial:
    """A trial in the store, of this run or of another driver of the same study."""

    trial: FrozenTrial
    """The trial for the sampler's history."""
    mine: bool
    start: TrialStart | None
    """None for another driver's trial."""
    outcome: TrialOutcome | None
    """How it ended, even if the study does not record it yet; None while it runs."""
    values: dict[int, float]
    """Epoch → validation AUC."""
    failures: int = 0
    reports: tuple[EpochReport, ...] = ()
    """All reports so far, for an unfinished trial of this run only."""

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def finished(self) -> bool:
        """Whether the study records its ending."""
        return self.trial.state.is_finished()


class TrialStore(Protocol):
    """Stores trials. Each method returns only when its data is durable, so a driver may be killed at any time."""

    @property
    def shared(self) -> bool:
        """Whether other drivers write to the same study."""
        ...

    def known(self) -> list[KnownTrial]:
        """All trials by number, with full records for this run's. Raises RunError if the store is damaged."""
        ...

    def elsewhere(self) -> list[KnownTrial]:
        """Other drivers' trials that run, and those that have ended since the last call."""
        ...

    def start(
        self, proposal: Proposal, config: TrialConfig, memory: MemoryPlan, epoch_seconds: float | None = None
    ) -> TrialStart:
        """Adds a running trial, with its predicted seconds an epoch if they are known."""
        ...

    def over_budget(
        self, proposal: Proposal, config: TrialConfig, memory: MemoryPlan, outcome: TrialOutcome
    ) -> TrialStart:
        """Adds a trial that was never started."""
        ...

    def report(self, number: int, report: EpochReport) -> None:
        """Adds an epoch's report."""
        ...

    def restarted(self, number: int, failures: int) -> None:
        """Records how often a running trial has failed and resumed from its checkpoint."""
        ...

    def finish(self, number: int, outcome: TrialOutcome, attributes: Mapping[str, Any]) -> None:
        """Ends a trial and stores `attributes` with its ending."""
        ...
