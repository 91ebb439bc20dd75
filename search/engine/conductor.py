"""The whole logic of a search, without Ray: which trial next, go on or stop, and how it ended.

Single-threaded: a runner calls it from one thread. What a method has answered is durable: it is in the study (and in
the run's folder) before the method returns, so a driver may be killed at any moment and another one goes on with
`Conductor` over the same folder and study.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from optuna.trial import TrialState

from search.engine.asha import Asha, Decision
from search.engine.feasibility import Feasibility
from search.engine.listener import Listener
from search.engine.observation import memory_constraint, observation
from search.engine.optuna_trials import frozen
from search.engine.running import RunningTrial
from search.engine.sampler import Proposal, make_sampler
from search.engine.space_draws import distributions_of, probes
from search.engine.standing import Standing
from search.engine.trial_store import KnownTrial, TrialStore
from search.request import SearchOptions
from spaces.space import Space
from trainable.config import TrialConfig
from trainable.errors import BudgetError, ConfigError
from trainable.execution_plan import MemoryPlan
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialStart
from trainable.units import format_bytes

logger = logging.getLogger(__name__)

__all__ = ["Conductor", "Decision"]

OVER_BUDGET_IN_A_ROW = 20
"""Proposals in a row that fit no plan, each after hundreds of draws, before the search gives up."""


class Conductor:
    """Decides; runners obey.

    A runner's loop: ``unfinished()`` first, then as slots become free ``next_trial()``; after each epoch
    ``report(number, report)``; on STOP ``finish(number, outcome(number))``; on a failure that is not retried
    ``finish(number, failed(number, end, reason))``. `done` says when all of it is over.

    Parameters
    ----------
    store
        Where trials are durable.
    feasibility
        What fits the budget, and with which plan.
    listener
        Told of every start, report and ending.
    initial
        Parameters to propose first (a warm start), those that do not fit left out.
    clock
        Seconds; only for the time limit.
    """

    def __init__(
        self,
        space: Space,
        options: SearchOptions,
        store: TrialStore,
        feasibility: Feasibility,
        *,
        listener: Listener | None = None,
        initial: Sequence[Mapping[str, Any]] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self.space, self.options, self.store, self.feasibility = space, options, store, feasibility
        self.asha = Asha(
            grace_period=options.grace_period,
            reduction_factor=options.reduction_factor,
            max_epochs=options.max_epochs,
            longest_warmup=space.longest_warmup,
        )
        self.sampler = make_sampler(
            options.sampler, space, seed=options.seed, startup_trials=options.startup, initial=initial
        )
        self.stop_reason: str | None = None
        """Why the search ended before its trials were used up; None if it did not."""
        self.standing = Standing()
        self.listener = listener
        self._clock = clock
        self._begin = clock()
        self._running: dict[int, RunningTrial] = {}
        self._unfinished: list[TrialStart] = []
        self._started = 0
        self._proposed = 0
        self._over_budget_in_a_row = 0
        self._load()

    # ---- what a runner calls -------------------------------------------------------------------------------------

    def unfinished(self) -> list[TrialStart]:
        """After a resume: trials to go on from their checkpoints, oldest first. Given out once."""
        given, self._unfinished = self._unfinished, []
        for start in given:
            if self.listener is not None:
                self.listener.on_start(start, resumed=True)
        return given

    def next_trial(self) -> TrialStart | None:
        """A trial to start, recorded as running; None when all are started or the search was stopped.

        Raises
        ------
        BudgetError
            If nothing in the space fits the budget; it names the smallest budget that would do.
        ConfigError
            If the sampler proposes what the space does not hold.
        """
        self._stop_at_time_limit()
        while not self.exhausted:
            if self.store.shared:
                self._refresh()
            start = self._propose()
            if start is not None:
                return start
            self._stop_at_time_limit()
        return None

    @property
    def exhausted(self) -> bool:
        """Nothing more will be started."""
        return self.stop_reason is not None or self._started >= self.options.num_samples

    @property
    def done(self) -> bool:
        """Nothing runs and nothing more will be started."""
        return not self._running and self.exhausted

    @property
    def best(self) -> tuple[float, int] | None:
        """Highest final validation AUC of a completed trial, and its number."""
        return self.standing.best

    @property
    def running(self) -> Mapping[int, RunningTrial]:
        """The trials that run, by number."""
        return MappingProxyType(self._running)

    @property
    def started(self) -> int:
        """Trials started so far, those of an interrupted part included."""
        return self._started

    def report(self, number: int, report: EpochReport) -> Decision:
        """Records an epoch and decides. An epoch that was already told is not told twice: its decision is repeated.

        Raises
        ------
        KeyError
            If the trial is not running.
        """
        trial = self._running[number]
        if report.epoch in trial.values:
            return trial.decision(report.epoch)
        self.store.report(number, report)
        trial.add(report)
        self._stop_at_time_limit()
        decision = self.asha.report(number, report.epoch, report.validation_auc)
        if report.epoch >= self.options.max_epochs or self.stop_reason is not None:
            decision = Decision.STOP
        trial.decided(report.epoch, decision)
        if self.listener is not None:
            self.listener.on_report(number, report, decision)
        return decision

    def outcome(self, number: int, *, failures: int | None = None) -> TrialOutcome:
        """How a trial that was told STOP ended: completed, or pruned and why."""
        trial = self._running[number]
        if trial.epoch >= self.options.max_epochs:
            return trial.outcome(TrialEnd.COMPLETED, "", failures=failures)
        reason = self.stop_reason or (
            f"not among the best 1/{self.options.reduction_factor} of the trials seen at epoch {trial.epoch}"
        )
        return trial.outcome(TrialEnd.PRUNED, reason, failures=failures)

    def failed(self, number: int, end: TrialEnd, reason: str, *, failures: int | None = None) -> TrialOutcome:
        """How a trial that failed for good ended. The reason is cut to one line."""
        line = " ".join(reason.split())[:500]
        return self._running[number].outcome(end, line or end.value, failures=failures)

    def retry(self, number: int) -> bool:
        """Whether a trial that failed may go on from its checkpoint; counts the restart, for good."""
        trial = self._running.get(number)
        if trial is None or trial.failures >= self.options.max_failures:
            return False
        self.store.restarted(number, trial.failures + 1)
        trial.failures += 1
        return True

    def finish(self, number: int, outcome: TrialOutcome) -> None:
        """Ends a trial, exactly once.

        Raises
        ------
        KeyError
            If the trial is not running (it was finished before, or is not of this search).
        """
        trial = self._running[number]
        start = trial.start
        self.store.finish(number, outcome, trial.memory.attributes())
        del self._running[number]
        if self.space.covers(start.params):
            distributions = distributions_of(self.space, start.params)
            memory = memory_constraint(start.predicted_bytes, self.options.budget_bytes)
            ended = observation(number, start.params, distributions, trial.values, outcome, memory)
            self.sampler.update(ended)
        self.asha.forget(number)
        same_failure = self.standing.ended(number, outcome)
        if same_failure is not None:
            self.stop(same_failure)
        if self.listener is not None:
            self.listener.on_end(start, outcome)

    def stop(self, reason: str) -> None:
        """Nothing new starts from now on, and what runs is stopped at its next report."""
        self.stop_reason = self.stop_reason or reason

    def _stop_at_time_limit(self) -> None:
        limit = self.options.time_limit_seconds
        if limit is not None and self._clock() - self._begin >= limit:
            self.stop(f"the time limit of {limit:g} s was reached")

    # ---- proposals -----------------------------------------------------------------------------------------------

    def _propose(self) -> TrialStart | None:
        """A started trial, or None for a proposal that had to be recorded as over budget."""
        if self._proposed == 0:
            self.feasibility.require(probes(self.space, self.options.seed))
        proposal = self.sampler.suggest(self._proposed, self.feasibility.fits)
        if not self.space.holds(proposal.params):
            raise ConfigError(
                f"the sampler {self.options.sampler} proposed {proposal.params}, which space {self.space.name!r} does "
                "not hold: a value for each parameter whose condition holds, and for no other"
            )
        # The trial's seed comes from the proposal's number, which is known before the study gives the trial one.
        seed = self.options.trial_seed(self._proposed)
        config = self.space.config(proposal.params, epochs=self.options.max_epochs, seed=seed)
        self._proposed += 1
        memory = self.feasibility.plan(config)
        if not memory.fits:
            self._record_over_budget(proposal, config, memory)
            return None
        self._over_budget_in_a_row = 0
        start = self.store.start(proposal, config, memory)
        self._started += 1
        self._run(RunningTrial(start))
        if self.listener is not None:
            self.listener.on_start(start, resumed=False)
        return start

    def _record_over_budget(self, proposal: Proposal, config: TrialConfig, memory: MemoryPlan) -> None:
        assert self.options.budget_bytes is not None, "without a budget everything fits"
        outcome = TrialOutcome(end=TrialEnd.OVER_BUDGET, reason=memory.reason, epochs=0, best_auc=None, final_auc=None)
        start = self.store.over_budget(proposal, config, memory, outcome)
        self.standing.ended(start.number, outcome)
        if self.listener is not None:
            self.listener.on_end(start, outcome)
        self._over_budget_in_a_row += 1
        if self._over_budget_in_a_row >= OVER_BUDGET_IN_A_ROW:
            raise BudgetError(
                f"hardly anything in the space fits {format_bytes(self.options.budget_bytes)}: "
                f"{self.feasibility.draws_asked} draws, none fitted of late; the smallest seen needs "
                f"{format_bytes(self.feasibility.smallest_bytes)}; raise --gpu-memory-budget or narrow the space"
            )

    # ---- state ---------------------------------------------------------------------------------------------------

    def _run(self, trial: RunningTrial) -> None:
        start = trial.start
        self._running[start.number] = trial
        if self.space.covers(start.params):
            distributions = distributions_of(self.space, start.params)
            self.sampler.update(frozen(start.number, TrialState.RUNNING, start.params, distributions))

    # ---- resume --------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Takes over what the store holds: finished trials as history, this run's running ones as unfinished."""
        reported: dict[int, dict[int, float]] = {}
        for known in self.store.known():
            if known.mine:
                self._proposed += 1
                self._started += known.outcome is None or known.outcome.end != TrialEnd.OVER_BUDGET
            if known.finished:
                reported[known.number] = known.values
                self._learn(known)
            elif known.mine:
                reported[known.number] = known.values
                self._go_on(known)
        self.asha.rebuild(reported)
        for number in reported:
            if number not in self._running:
                self.asha.forget(number)
        self._prune_unfinished()
        if self.standing.all_alike:  # the user saw it, mended the cause (or not) and resumed: try again
            self.standing.forget_first_endings()
            self.stop_reason = None

    def _learn(self, known: KnownTrial) -> None:
        """A trial that ended, here or under another driver of the study."""
        if known.outcome is None:
            return  # somebody's trial in a shared study that no driver of ours wrote
        if known.outcome.end != TrialEnd.OVER_BUDGET and self.space.covers(known.trial.params):
            self.sampler.update(known.trial)
        if known.mine:
            self.standing.ended(known.number, known.outcome)

    def _go_on(self, known: KnownTrial) -> None:
        """A trial that the driver before left running; one whose ending only lacks its word is ended now."""
        assert known.start is not None, "its own trials are known from their start"
        trial = RunningTrial(known.start, known.values, known.reports, known.failures)
        self._run(trial)
        outcome = known.outcome
        if outcome is None and trial.epoch >= self.options.max_epochs:
            outcome = self.outcome(known.number)
        if outcome is not None:
            self.finish(known.number, outcome)
            return
        self._unfinished.append(known.start)
        if not self.space.covers(known.start.params):
            logger.warning("trial %d goes on as it was begun; the space no longer holds it", known.number)

    def _prune_unfinished(self) -> None:
        """Ends trials whose last report was at a rung and below its cut: the driver died before it could say so."""
        for start in list(self._unfinished):
            trial = self._running[start.number]
            if trial.epoch and not self.asha.stays(trial.epoch, trial.values[trial.epoch]):
                self._unfinished.remove(start)
                self.finish(start.number, self.outcome(start.number))

    def _refresh(self) -> None:
        """Learns what other drivers of the same study have finished since."""
        finished = self.store.finished_elsewhere()
        for known in finished:
            self._learn(known)
        self.asha.rebuild({known.number: known.values for known in finished})
        for known in finished:
            self.asha.forget(known.number)
