"""Study and folder of a run as one store: every write goes to both, in the order that recovery relies on."""

from collections.abc import Mapping
from typing import Any

from search.engine.sampler import Proposal
from search.engine.space_draws import distributions_of
from search.engine.trial_store import KnownTrial
from search.store.recovery import of_another_driver, recovered_trials
from search.store.study import SearchStudy
from spaces.space import Space
from trainable.config import TrialConfig
from trainable.execution_plan import MemoryPlan
from trainable.record import EpochReport, RunFolder, TrialOutcome, TrialStart


class RunStore:
    """A run's trials, in its folder and in its study (`search.engine.trial_store.TrialStore`).

    Parameters
    ----------
    space
        Gives the distributions of trials that only the folder has.
    budget_bytes
        Memory budget of each trial; None = no budget.
    """

    def __init__(self, folder: RunFolder, study: SearchStudy, space: Space, *, budget_bytes: int | None):
        self.folder, self.study = folder, study
        self._space, self._budget_bytes = space, budget_bytes

    @property
    def shared(self) -> bool:
        return self.study.shared

    def known(self) -> list[KnownTrial]:
        trials = recovered_trials(self.study, self.folder, self._space, budget_bytes=self._budget_bytes)
        for known in trials:
            self.study.mark_read(known.trial)
        return trials

    def elsewhere(self) -> list[KnownTrial]:
        return [
            of_another_driver(self.study, trial)
            for trial in self.study.unread_trials()
            if not self.study.is_mine(trial)
        ]

    def start(
        self, proposal: Proposal, config: TrialConfig, memory: MemoryPlan, epoch_seconds: float | None = None
    ) -> TrialStart:
        known = TrialStart(
            number=0,  # the study decides
            params=proposal.params,
            config=config,
            plan=memory.plan,
            predicted_bytes=memory.predicted_bytes,
            predicted_allocated_bytes=memory.allocated_bytes,
            predicted_epoch_seconds=epoch_seconds,
        )
        distributions = distributions_of(self._space, proposal.params)
        start = self.study.start(known, distributions, budget_bytes=self._budget_bytes, draws=proposal.draws)
        self.folder.write_start(start)
        return start

    def over_budget(
        self, proposal: Proposal, config: TrialConfig, memory: MemoryPlan, outcome: TrialOutcome
    ) -> TrialStart:
        assert self._budget_bytes is not None, "without a budget everything fits"
        known = TrialStart(
            number=0, params=proposal.params, config=config, plan=None, predicted_bytes=memory.predicted_bytes
        )
        distributions = distributions_of(self._space, proposal.params)
        start = self.study.over_budget(
            known, distributions, outcome, budget_bytes=self._budget_bytes, draws=proposal.draws
        )
        self.folder.write_start(start)
        self.folder.write_outcome(start.number, outcome)
        return start

    def report(self, number: int, report: EpochReport) -> None:
        # The folder first: it holds the whole report, and a resume copies missing epochs from it to the study.
        self.folder.append_epoch(number, report)
        self.study.report(number, report.epoch, report.value)

    def restarted(self, number: int, failures: int) -> None:
        self.study.restarted(number, failures)

    def finish(self, number: int, outcome: TrialOutcome, attributes: Mapping[str, Any]) -> None:
        self.study.finish(number, outcome, attributes)
        self.folder.write_outcome(number, outcome)
