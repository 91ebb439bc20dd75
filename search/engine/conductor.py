"""The whole logic of a search, without Ray: which trial next, go on or stop, and how it ended.

Single-threaded: a runner calls it from one thread. What a method has answered is durable: it is in the study (and in
the run's folder) before the method returns, so a driver may be killed at any moment and another one goes on with
`Conductor` over the same folder and study.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.engine.asha import Asha, Decision
from search.engine.feasibility import Choice, Planning
from search.engine.listener import Listener
from search.engine.memory_record import MemoryRecord
from search.engine.optuna_trials import frozen
from search.engine.sampler import Proposal, SpaceProposer
from search.engine.standing import Standing
from search.request import SearchOptions
from search.store.recovery import Found, take_up
from search.store.study import SearchStudy, as_observation, memory_constraint, outcome_of
from spaces.space import Space
from trainable.errors import BudgetError
from trainable.record import EpochReport, RunFolder, TrialEnd, TrialOutcome, TrialStart
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
    planning
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
        folder: RunFolder,
        study: SearchStudy,
        planning: Planning,
        *,
        listener: Listener | None = None,
        initial: Sequence[Mapping[str, Any]] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self.space, self.options, self.folder, self.study, self.planning = space, options, folder, study, planning
        self.asha = Asha(
            grace_period=options.grace_period,
            reduction_factor=options.reduction_factor,
            max_epochs=options.max_epochs,
            longest_warmup=space.longest_warmup,
        )
        self.sampler = SpaceProposer(space, seed=options.seed, startup_trials=options.startup, initial=initial)
        self.stop_reason: str | None = None
        """Why the search ended before its trials were used up; None if it did not."""
        self.standing = Standing()
        self.listener = listener
        self._clock = clock
        self._begin = clock()
        self._starts: dict[int, TrialStart] = {}
        self._values: dict[int, dict[int, float]] = {}
        self._memory: dict[int, MemoryRecord] = {}
        self._decisions: dict[int, dict[int, Decision]] = {}
        self._failures: dict[int, int] = {}
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
        """
        while not self.exhausted:
            if self.study.shared:
                self._refresh()
            start = self._propose()
            if start is not None:
                return start
        return None

    @property
    def exhausted(self) -> bool:
        """Nothing more will be started."""
        limit = self.options.time_limit_seconds
        if self.stop_reason is None and limit is not None and self._clock() - self._begin >= limit:
            self.stop_reason = f"the time limit of {limit:g} s was reached"
        return self.stop_reason is not None or self._started >= self.options.num_samples

    @property
    def done(self) -> bool:
        """Nothing runs and nothing more will be started."""
        return not self._starts and self.exhausted

    @property
    def best(self) -> tuple[float, int] | None:
        """Highest final validation AUC of a completed trial, and its number."""
        return self.standing.best

    @property
    def running(self) -> tuple[int, ...]:
        """Numbers of the trials that run."""
        return tuple(self._starts)

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
        self._starts[number]
        values, decisions = self._values[number], self._decisions[number]
        if report.epoch in values:
            return decisions.get(report.epoch, Decision.CONTINUE)
        # The folder first: it holds the whole report, and a resume copies from it what the study does not have yet.
        self.folder.append_epoch(number, report)
        self.study.report(number, report.epoch, report.validation_auc)
        values[report.epoch] = report.validation_auc
        self._memory[number].add(report)
        decision = self.asha.report(number, report.epoch, report.validation_auc)
        if report.epoch >= self.options.max_epochs or (self.exhausted and self.stop_reason is not None):
            decision = Decision.STOP
        decisions[report.epoch] = decision
        if self.listener is not None:
            self.listener.on_report(number, report, decision)
        return decision

    def outcome(self, number: int, *, failures: int | None = None) -> TrialOutcome:
        """How a trial that was told STOP ended: completed, or pruned and why."""
        values = self._values[number]
        last = max(values, default=0)
        if last >= self.options.max_epochs:
            return self._outcome(number, TrialEnd.COMPLETED, "", failures)
        reason = self.stop_reason or (
            f"not among the best 1/{self.options.reduction_factor} of the trials seen at epoch {last}"
        )
        return self._outcome(number, TrialEnd.PRUNED, reason, failures)

    def failed(self, number: int, end: TrialEnd, reason: str, *, failures: int | None = None) -> TrialOutcome:
        """How a trial that failed for good ended. The reason is cut to one line."""
        line = " ".join(reason.split())[:500]
        return self._outcome(number, end, line or end.value, failures)

    def retry(self, number: int) -> bool:
        """Whether a trial that failed may go on from its checkpoint; counts the restart, for good."""
        failures = self._failures.get(number, 0) + 1
        if number not in self._starts or failures > self.options.max_failures:
            return False
        self.study.restarted(number, failures)
        self._failures[number] = failures
        return True

    def reported(self, number: int) -> int:
        """The last epoch that a running trial has reported; 0 before its first report."""
        return max(self._values[number], default=0)

    def finish(self, number: int, outcome: TrialOutcome) -> None:
        """Ends a trial, exactly once.

        Raises
        ------
        KeyError
            If the trial is not running (it was finished before, or is not of this search).
        """
        start = self._starts[number]
        self.study.finish(number, outcome, self._memory[number].attributes())
        self.folder.write_outcome(number, outcome)
        del self._starts[number]
        observation = None
        if self.space.covers(start.params):
            distributions = self.sampler.distributions(start.params)
            memory = memory_constraint(start.predicted_bytes, self.options.budget_bytes)
            observation = as_observation(number, start.params, distributions, self._values[number], outcome, memory)
        self._ended(number, observation, outcome)
        if self.listener is not None:
            self.listener.on_end(start, outcome)

    def stop(self, reason: str) -> None:
        """Nothing new starts from now on, and what runs is stopped at its next report."""
        self.stop_reason = self.stop_reason or reason

    # ---- proposals -----------------------------------------------------------------------------------------------

    def _propose(self) -> TrialStart | None:
        """A started trial, or None for a proposal that had to be recorded as over budget."""
        if self._proposed == 0:
            self.planning.require(self.sampler.probes())
        proposal = self.sampler.suggest(self._proposed, self.planning.fits)
        self._proposed += 1
        choice = self.planning.choose(proposal.params)
        if not choice.fits:
            self._record_over_budget(proposal, choice)
            return None
        self._over_budget_in_a_row = 0
        config = self.space.config(proposal.params, epochs=self.options.max_epochs).flat()
        plan = choice.plan.to_dict()
        # The trial's seed comes from the proposal's number, which is known before the study gives the trial one.
        config["seed"] = self.options.trial_seed(self._proposed - 1)
        number = self.study.start(
            proposal.params,
            proposal.distributions,
            config=config,
            plan=plan,
            predicted_bytes=choice.predicted_bytes,
            budget_bytes=self.options.budget_bytes,
            predicted_allocated_bytes=choice.allocated_bytes,
            draws=proposal.draws,
        )
        start = TrialStart(
            number=number,
            params=proposal.params,
            config=config,
            plan=plan,
            predicted_bytes=choice.predicted_bytes,
            predicted_allocated_bytes=choice.allocated_bytes,
        )
        self.folder.write_start(start)
        self._started += 1
        self._run(start, {})
        if self.listener is not None:
            self.listener.on_start(start, resumed=False)
        return start

    def _record_over_budget(self, proposal: Proposal, choice: Choice) -> None:
        assert self.options.budget_bytes is not None, "without a budget everything fits"
        params, predicted_bytes = proposal.params, choice.predicted_bytes
        outcome = TrialOutcome(end=TrialEnd.OVER_BUDGET, reason=choice.reason, epochs=0, best_auc=None, final_auc=None)
        config = self.space.config(params, epochs=self.options.max_epochs).flat()
        number = self.study.over_budget(
            params,
            proposal.distributions,
            config=config,
            predicted_bytes=predicted_bytes,
            budget_bytes=self.options.budget_bytes,
            outcome=outcome,
            draws=proposal.draws,
        )
        start = TrialStart(number=number, params=params, config=config, plan=None, predicted_bytes=predicted_bytes)
        self.folder.write_start(start)
        self.folder.write_outcome(number, outcome)
        self.standing.ended(number, outcome)
        if self.listener is not None:
            self.listener.on_end(start, outcome)
        self._over_budget_in_a_row += 1
        if self._over_budget_in_a_row >= OVER_BUDGET_IN_A_ROW:
            raise BudgetError(
                f"hardly anything in the space fits {format_bytes(self.options.budget_bytes)}: "
                f"{self.planning.draws_asked} draws, none fitted of late; the smallest seen needs "
                f"{format_bytes(self.planning.smallest_bytes)}; raise --gpu-memory-budget or narrow the space"
            )

    # ---- state ---------------------------------------------------------------------------------------------------

    def _run(self, start: TrialStart, values: dict[int, float], reports: Sequence[EpochReport] = ()) -> None:
        self._starts[start.number] = start
        self._values[start.number] = values
        self._memory[start.number] = MemoryRecord(reports)
        self._decisions[start.number] = {}
        if self.space.covers(start.params):
            distributions = self.sampler.distributions(start.params)
            self.sampler.update(frozen(start.number, TrialState.RUNNING, start.params, distributions))

    def _ended(self, number: int, observation: FrozenTrial | None, outcome: TrialOutcome) -> None:
        if observation is not None:
            self.sampler.update(observation)
        self.asha.forget(number)
        for table in (self._values, self._memory, self._decisions, self._failures):
            table.pop(number, None)
        alike = self.standing.ended(number, outcome)
        if alike is not None:
            self.stop(alike)

    def _outcome(self, number: int, end: TrialEnd, reason: str, failures: int | None) -> TrialOutcome:
        values = self._values[number]
        return TrialOutcome(
            end=end,
            reason=reason,
            epochs=max(values, default=0),
            best_auc=max((value for value in values.values() if value == value), default=None),
            final_auc=values[max(values)] if values else None,
            failures=self._failures.get(number, 0) if failures is None else failures,
        )

    # ---- resume --------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Takes up what study and folder hold: finished trials as history, this run's running ones as unfinished."""
        told: dict[int, dict[int, float]] = {}
        for found in take_up(self.study, self.folder, self.space, budget_bytes=self.options.budget_bytes):
            self.study.seen(found.trial)
            if found.mine:
                self._proposed += 1
                self._started += found.outcome is None or found.outcome.end != TrialEnd.OVER_BUDGET
            if found.finished:
                told[found.number] = found.values
                self._learn(found)
            elif found.mine:
                told[found.number] = found.values
                self._go_on(found)
        self.asha.rebuild(told)
        for number in told:
            if number not in self._starts:
                self.asha.forget(number)
        self._prune_unfinished()
        if self.standing.all_alike:  # the user saw it, mended the cause (or not) and resumed: try again
            self.standing.forget_first_endings()
            self.stop_reason = None

    def _learn(self, found: Found) -> None:
        """A trial that ended, here or under another driver of the study."""
        if found.outcome is None:
            return  # somebody's trial in a shared study that no driver of ours wrote
        if found.outcome.end != TrialEnd.OVER_BUDGET and self.space.covers(found.trial.params):
            self.sampler.update(found.trial)
        if found.mine:
            self.standing.ended(found.number, found.outcome)

    def _go_on(self, found: Found) -> None:
        """A trial that the driver before left running; one whose ending only lacks its word is ended now."""
        assert found.start is not None, "its own trials are known from their start"
        self._run(found.start, found.values, self.folder.read_trial(found.number).epochs)
        self._failures[found.number] = found.failures
        outcome = found.outcome
        if outcome is None and max(found.values, default=0) >= self.options.max_epochs:
            outcome = self.outcome(found.number)
        if outcome is not None:
            self.finish(found.number, outcome)
            return
        self._unfinished.append(found.start)
        if not self.space.covers(found.start.params):
            logger.warning("trial %d goes on as it was begun; the space no longer holds it", found.number)

    def _prune_unfinished(self) -> None:
        """Ends trials whose last report was at a rung and below its cut: the driver died before it could say so."""
        for start in list(self._unfinished):
            values = self._values[start.number]
            last = max(values, default=0)
            if last and not self.asha.stays(last, values[last]):
                self._unfinished.remove(start)
                self.finish(start.number, self.outcome(start.number))

    def _refresh(self) -> None:
        """Takes up what other drivers of the same study have finished since."""
        fresh: dict[int, dict[int, float]] = {}
        for trial in self.study.fresh():
            if trial.state.is_finished() and not self.study.is_mine(trial):
                found = Found(trial, False, None, outcome_of(trial), dict(trial.intermediate_values))
                self._learn(found)
                fresh[trial.number] = found.values
        self.asha.rebuild(fresh)
        for number in fresh:
            self.asha.forget(number)
