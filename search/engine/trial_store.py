"""What the engine asks of the place where trials are durable, without knowing what that place is."""

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
    """A trial that the store holds when a search asks: of this run, or of another driver of the same study."""

    trial: FrozenTrial
    """The trial as the sampler's history wants it."""
    mine: bool
    start: TrialStart | None
    """None for another driver's."""
    outcome: TrialOutcome | None
    """How it ended, also where the study does not say so yet; None while it runs."""
    values: dict[int, float]
    """Epoch → validation AUC."""
    failures: int = 0
    reports: tuple[EpochReport, ...] = ()
    """Of a trial of this run that is unfinished: all that it has reported."""

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def finished(self) -> bool:
        """Whether the study has its ending."""
        return self.trial.state.is_finished()


class TrialStore(Protocol):
    """Every method returns when what it was given is durable: a driver may be killed at any moment after."""

    @property
    def shared(self) -> bool:
        """Whether other drivers write to the same study."""
        ...

    def known(self) -> list[KnownTrial]:
        """All trials by number, those of this run complete. Raises RunError where the store is damaged."""
        ...

    def finished_elsewhere(self) -> list[KnownTrial]:
        """Trials of other drivers that have ended since they were last asked for."""
        ...

    def start(self, proposal: Proposal, config: TrialConfig, memory: MemoryPlan) -> TrialStart:
        """Adds a running trial."""
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
        """Notes how often a running trial has failed and gone on from its checkpoint."""
        ...

    def finish(self, number: int, outcome: TrialOutcome, attributes: Mapping[str, Any]) -> None:
        """Ends a trial, with what else is to be kept with its ending."""
        ...
