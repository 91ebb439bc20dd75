"""The whole logic of a search, without Ray: which trial to start, whether it continues, and how it ended.

Single-threaded: a runner calls it from one thread. Every change is durable: it is in the study (and in the run's
folder) before the method returns, so a driver may be killed at any moment and another one resumes with a new
`Conductor` on the same folder and study.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from optuna.trial import TrialState

from search.engine.asha import Asha, Decision
from search.engine.feasibility import Feasibility
from search.engine.listener import Listener
from search.engine.observation import memory_constraint, observation
from search.engine.optuna_trials import frozen
from search.engine.pace import Pace
from search.engine.running import RunningTrial
from search.engine.sampler import Proposal, make_sampler
from search.engine.space_draws import distributions_of, probes
from search.engine.standing import Standing
from search.engine.trial_store import KnownTrial, TrialStore
from search.options import SearchOptions
from spaces.space import Space
from trainable.config import TrialConfig
from trainable.detection.ranking import least_epochs
from trainable.errors import BudgetError, ConfigError
from trainable.execution_plan import MemoryPlan
from trainable.printable import printable
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialStart
from trainable.units import format_bytes

logger = logging.getLogger(__name__)

__all__ = ["Conductor", "Decision"]

OVER_BUDGET_IN_A_ROW = 20
"""The search gives up after this many consecutive proposals that fit no plan, each after hundreds of draws."""


class Conductor:
    """Decides; runners obey.

    A runner's loop: ``unfinished()`` first, then ``next_trial()`` whenever a slot is free; after each epoch
    ``report(number, report)``; on STOP ``finish(number, outcome(number))``; on SUSPEND nothing more, since the trial
    stays unfinished; on a failure that is not retried ``finish(number, failed(number, end, reason))``. Once `stopped`
    is true no trial begins, and the loop ends when `done` is true or nothing runs.

    Parameters
    ----------
    store
        Stores trials durably.
    feasibility
        Decides which configurations fit the budget, and with which plan.
    listener
        Receives every start, report and ending.
    initial
        Parameters to propose first (a warm start); those that do not fit are skipped.
    pace
        Predicts seconds an epoch; without it trials have no prediction, and none is preferred for its time.
    clock
        Returns seconds; used only for the time limit, which counts from here.
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
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.space, self.options, self.store, self.feasibility = space, options, store, feasibility
        self._pace = pace
        self.asha = Asha(
            grace_period=options.grace_period,
            reduction_factor=options.reduction_factor,
            max_epochs=options.max_epochs,
            longest_warmup=space.longest_warmup,
        )
        self.sampler = make_sampler(
            options.sampler,
            space,
            seed=options.seed,
            startup_trials=options.startup,
            initial=initial,
            seconds=self._estimated_seconds if options.prefer_fast and pace is not None else None,
        )
        self.stop_reason: str | None = None
        """Why the search ended before all its trials did; None if it did not."""
        self.standing = Standing(least_epochs(options.max_epochs))
        self.listener = listener
        self._clock = clock
        self._begin = clock()
        self._running: dict[int, RunningTrial] = {}
        self._suspended: set[int] = set()
        self._unfinished: list[TrialStart] = []
        self._started = 0
        self._proposed = 0
        self._over_budget_in_a_row = 0
        self._load()

    # ---- what a runner calls -------------------------------------------------------------------------------------

    def unfinished(self) -> list[TrialStart]:
        """Trials to resume from their checkpoints, oldest first; empty on every later call."""
        given, self._unfinished = self._unfinished, []
        for start in given:
            if self.listener is not None:
                self.listener.on_start(start, resumed=True)
        return given

    def next_trial(self) -> TrialStart | None:
        """The next trial, already recorded as running; None when all have started or the search was stopped.

        Raises
        ------
        BudgetError
            If nothing in the space fits the budget; it names the smallest budget that would do.
        ConfigError
            If the sampler proposes what the space does not hold.
        """
        while not self.exhausted:
            if self.store.shared:
                self._refresh()
            start = self._propose()
            if start is not None:
                return start
        return None

    @property
    def stopped(self) -> bool:
        """Whether the search ends before all its trials do: for a `stop_reason`, or since its time is over."""
        limit = self.options.time_limit_seconds
        if limit is not None and self._clock() - self._begin >= limit:
            self.stop(f"the time limit of {limit:g} s was reached")
        return self.stop_reason is not None

    @property
    def exhausted(self) -> bool:
        """Whether no more trials will start."""
        return self.stopped or self._started >= self.options.num_samples or self.flat

    @property
    def flat(self) -> bool:
        """Whether more trials are expected to bring less than `until_flat` asks; those that run may change that."""
        least, gain = self.options.until_flat, self.standing.expected_gain
        return least is not None and gain is not None and gain < least

    @property
    def done(self) -> bool:
        """Whether no more trials will start and none runs, apart from those that were suspended."""
        return self._running.keys() <= self._suspended and self.exhausted

    @property
    def best(self) -> tuple[float, int] | None:
        """Highest final value of a completed trial, and its number."""
        return self.standing.best

    @property
    def running(self) -> Mapping[int, RunningTrial]:
        """Trials that have begun and not ended, by number; suspended ones too."""
        return MappingProxyType(self._running)

    @property
    def started(self) -> int:
        """Trials started so far, including those from before a resume."""
        return self._started

    def report(self, number: int, report: EpochReport) -> Decision:
        """Records an epoch and decides. Reporting the same epoch again records nothing and returns the same decision.

        Raises
        ------
        KeyError
            If the trial is not running.
        """
        trial = self._running[number]
        if report.epoch in trial.values:
            return trial.decision(report.epoch)
        decision = self.asha.report(number, report.epoch, report.value)
        report = replace(report, stopped=decision is Decision.STOP)
        self.store.report(number, report)
        trial.add(report)
        if self._pace is not None:
            self._pace.learn(trial.start.config, report)
        if report.epoch >= self.options.max_epochs:
            decision = Decision.STOP
        elif decision is Decision.CONTINUE and self.stopped:
            decision = Decision.SUSPEND
            self._suspended.add(number)
        trial.decided(report.epoch, decision)
        if self.listener is not None:
            self.listener.on_report(number, report, decision)
        return decision

    def outcome(self, number: int) -> TrialOutcome:
        """The outcome of a trial that got STOP: completed, or pruned by ASHA."""
        trial = self._running[number]
        if trial.epoch >= self.options.max_epochs:
            return trial.outcome(TrialEnd.COMPLETED, "")
        reason = f"not among the best 1/{self.options.reduction_factor} of the trials seen at epoch {trial.epoch}"
        return trial.outcome(TrialEnd.PRUNED, reason)

    def failed(self, number: int, end: TrialEnd, reason: str) -> TrialOutcome:
        """The outcome of a trial that failed for good. The reason is cut to one line."""
        line = printable(" ".join(reason.split()))[:500]
        return self._running[number].outcome(end, line or end.value)

    def retry(self, number: int) -> bool:
        """Whether a failed trial may resume from its checkpoint; if so, records the restart durably."""
        trial = self._running.get(number)
        if trial is None or trial.failures >= self.options.max_failures:
            return False
        self.store.restarted(number, trial.failures + 1)
        trial.failures += 1
        return True

    def finish(self, number: int, outcome: TrialOutcome) -> None:
        """Ends a trial. Must be called exactly once per trial.

        Raises
        ------
        KeyError
            If the trial is not running: it has already ended, or belongs to another search.
        """
        trial = self._running[number]
        start = trial.start
        self.store.finish(number, outcome, trial.attributes())
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
        """Starts no more trials, and suspends each running one at its next report; the first reason is kept."""
        self.stop_reason = self.stop_reason or reason

    # ---- proposals -----------------------------------------------------------------------------------------------

    def _propose(self) -> TrialStart | None:
        """A started trial, or None if the proposal was over budget and recorded as such."""
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
        seconds = None if self._pace is None else self._pace.predict(config, memory.plan)
        start = self.store.start(proposal, config, memory, seconds)
        self._started += 1
        self._run(RunningTrial(start))
        if self.listener is not None:
            self.listener.on_start(start, resumed=False)
        return start

    def _estimated_seconds(self, params: Mapping[str, Any]) -> float:
        """Seconds an epoch of a proposal, before any is measured; planning every candidate would take too long."""
        assert self._pace is not None
        return self._pace.estimate(self.space.config(params, epochs=self.options.max_epochs))

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
                f"{self.feasibility.draws_asked} draws, and the last ones did not fit; the smallest one needs "
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
        """Loads the store: ended trials become history, this run's running ones become unfinished."""
        trials = self.store.known()
        for known in trials:
            if known.mine:
                self._proposed += 1
                self._started += known.outcome is None or known.outcome.end != TrialEnd.OVER_BUDGET
            if known.mine and not known.finished:
                self._go_on(known)
            else:
                self._learn(known)
        self._compare_with(trials)
        if self.standing.same_failures:  # the user has seen it and resumed: try again
            self.standing.forget_first_endings()
            self.stop_reason = None

    def _learn(self, known: KnownTrial) -> None:
        """Adds a trial that has ended, or that another driver of the same study runs."""
        outcome = known.outcome
        params, runs = known.trial.params, known.trial.state is TrialState.RUNNING
        if outcome is None and not (runs and self.space.holds(params)):
            return  # a trial in a shared study that another program wrote, or is still asking for
        over_budget = outcome is not None and outcome.end == TrialEnd.OVER_BUDGET
        if not over_budget and self.space.covers(params):
            self.sampler.update(known.trial)
        if known.mine and outcome is not None:
            self.standing.ended(known.number, outcome)

    def _go_on(self, known: KnownTrial) -> None:
        """Resumes a trial that the previous driver left running, or ends it if only its ending was not recorded."""
        assert known.start is not None, "this run's trials have a start"
        trial = RunningTrial(known.start, known.values, known.reports, known.failures)
        self._run(trial)
        outcome = known.outcome
        stopped = bool(known.reports) and known.reports[-1].stopped
        if outcome is None and (stopped or trial.epoch >= self.options.max_epochs):
            outcome = self.outcome(known.number)
        if outcome is not None:
            self.finish(known.number, outcome)
            return
        self._unfinished.append(known.start)
        if not self.space.covers(known.start.params):
            logger.warning(
                "trial %d resumes with its original parameters, which the space no longer contains", known.number
            )

    def _refresh(self) -> None:
        """Adds what other drivers of the study have begun, reported and ended since the last call."""
        elsewhere = self.store.elsewhere()
        for known in elsewhere:
            self._learn(known)
        self._compare_with(elsewhere)

    def _compare_with(self, trials: Sequence[KnownTrial]) -> None:
        """Gives their values to the rungs; those that run may report more."""
        self.asha.rebuild({known.number: known.values for known in trials})
        for known in trials:
            if known.finished or (known.mine and known.number not in self._running):
                self.asha.forget(known.number)
