"""Runs a search on Ray Tune: the conductor behind Ray's searcher and scheduler interfaces.

Ray decides where a trial runs, restarts actors that die and moves results; the conductor decides everything else, as
it does for `search.runners.local`. Ray's own snapshot of the experiment is not used: the study and the run's folder are
complete at every moment.
"""

import functools
import logging
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, PlacementGroupFactory
from ray.tune.experiment import Trial as RayTuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from search.engine.conductor import Conductor, Decision
from search.engine.label import label_of
from search.request import SearchOptions
from search.runners._ray_private import name_process
from search.runners.packing import Node, SlotKind, counts_now
from search.runners.ray_faults import crash_reason, ray_failure
from search.runners.signals import record_interrupt
from search.store.checkpoints import CheckpointKeeper, checkpoint_place
from search.store.run_store import RunStore
from trainable.errors import RunError
from trainable.ray_trainable import ENDED, METRIC, REASON, REPORT, UNWRITTEN, MemoryKeptError, RayTrial, trial_config
from trainable.record import EpochReport, TrialEnd, TrialStart

logger = logging.getLogger(__name__)

KIND = "slot_kind"
"""Key of a trial's configuration: which kind of slot it runs in."""
UNLIMITED = 10**9
"""Samples that Ray may ask for: the conductor knows when it is enough."""
NODES_SECONDS = 2.0
"""How often the cluster is asked which nodes are still there."""


@dataclass
class _Placed:
    """A trial that has a slot, or waits in Ray's queue for one."""

    start: TrialStart
    kind: int
    """Kind of its slot."""
    last_report: float | None = None
    """When its worker started or last reported (monotonic seconds); None while it waits for one."""
    failure: tuple[TrialEnd, str] | None = None
    """How its worker failed."""
    timed_out: bool = False
    """Its worker was killed since it had not reported for too long."""


class _Session:
    """What searcher, scheduler and watch share: which of Ray's trials is which of ours, and where it runs."""

    def __init__(
        self,
        conductor: Conductor,
        store: RunStore,
        options: SearchOptions,
        slots: list[SlotKind],
        nodes_now: Callable[[], list[Node]] | None,
    ):
        self.conductor, self.store, self.options, self.slots = conductor, store, options, slots
        self.counts = [kind.count for kind in slots]
        self._nodes_now = nodes_now
        self._asked = time.monotonic()
        self.keeper = CheckpointKeeper(options, store.folder, store.study.run, conductor.standing.leaders)
        self.numbers: dict[str, int] = {}
        """Our number of each of Ray's trials."""
        self.placed: dict[int, _Placed] = {}
        """Trials that Ray has, by number."""
        self.error: BaseException | None = None
        """What ends the search; its trials stay as they are, to be resumed."""
        self.waiting = conductor.unfinished()
        self.keeper.sweep(conductor.running, conductor.standing.leaders)

    def stop(self, error: BaseException) -> None:
        """Ends the search at Ray's next step."""
        self.error = self.error or error

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Ray pickles searcher, scheduler and callbacks for its snapshot; of this nothing is to be kept there."""
        return (object, ())

    def begin(self, trial_id: str, start: TrialStart) -> dict[str, Any]:
        number = start.number
        busy = Counter(placed.kind for placed in self.placed.values())
        free = [count - busy[kind] for kind, count in enumerate(self.counts)]
        kind = next(kind for kind, slots in enumerate(free) if slots > 0)
        self.numbers[trial_id], self.placed[number] = number, _Placed(start, kind)
        return {
            KIND: kind,
            **trial_config(
                start,
                checkpoints=checkpoint_place(self.options, self.store.folder, self.store.study.run, number).address,
                reported=self.conductor.running[number].epoch,
                max_epochs=self.options.max_epochs,
                label=label_of(self.conductor.space.name, start),
            ),
        }

    @property
    def workers(self) -> int:
        """Trials at a time, by the nodes that are there."""
        return min(sum(self.counts), self.options.concurrency or UNLIMITED)

    def lost_kinds(self) -> set[int]:
        """Kinds of slots of which no node is there any more; the cluster is asked every few seconds."""
        if self._nodes_now is None or time.monotonic() - self._asked < NODES_SECONDS:
            return set()
        self._asked = time.monotonic()
        now = counts_now(self.slots, self._nodes_now())
        if not any(now):
            return set()  # nothing is left to go to: wait for the cluster to come back
        self.counts = now
        return {kind for kind, count in enumerate(now) if count == 0}

    def number_of(self, trial: RayTuneTrial) -> int:
        return self.numbers[trial.trial_id]

    def wait_again(self, number: int) -> None:
        """The trial lost its slot; it takes the next free one, before any new trial."""
        self.waiting.append(self.placed.pop(number).start)

    def ended(self, number: int) -> None:
        self.placed.pop(number, None)
        self.keeper.ended(number, self.conductor.standing.leaders, self.conductor.running)

    def failed(self, number: int, end: TrialEnd, reason: str) -> None:
        """Lets a trial that failed go on from its checkpoint, in any slot, or ends it."""
        line = " ".join(reason.split())[:300]
        if reason.startswith(MemoryKeptError.__name__):
            # The fault of the trial before; in another worker this one begins as if nothing had happened.
            logger.warning("trial %d begins in another worker: %s", number, line)
            self.wait_again(number)
            return
        if self.conductor.retry(number):
            logger.warning("trial %d failed and goes on from its checkpoint: %s", number, line)
            self.wait_again(number)
            return
        logger.info("trial %d ended, %s: %s", number, end, line)
        self.conductor.finish(number, self.conductor.failed(number, end, reason))
        self.ended(number)


def _errors_end_search(fallback: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For what Ray calls: an error there would be wrapped into Ray's own; it is kept for `RayRunner.run` instead."""

    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            session: _Session = self._session
            if session.error is not None:
                return fallback
            try:
                return method(self, *arguments, **options)
            except Exception as error:
                session.stop(error)
                return fallback

        return call

    return wrap


class _ConductorSearcher(Searcher):
    """Asks the conductor for the next trial, never ahead of a free slot: each proposal knows all results so far."""

    def __init__(self, session: _Session):
        super().__init__(metric=METRIC, mode="max")
        self._session = session

    @_errors_end_search(Searcher.FINISHED)
    def suggest(self, trial_id: str) -> Any:
        session = self._session
        if len(session.placed) >= session.workers:
            return None
        start = session.waiting.pop(0) if session.waiting else session.conductor.next_trial()
        if start is not None:
            return session.begin(trial_id, start)
        # Not finished while anything runs: it may lose its worker and then wait for a slot again.
        return None if session.placed else Searcher.FINISHED

    @_errors_end_search(None)
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Endings are told by the scheduler already, except a crash: the trial goes on from its checkpoint, or not."""
        session = self._session
        number = session.numbers.pop(trial_id)
        placed = session.placed.get(number)
        if error and placed is not None:
            session.failed(number, *(placed.failure or (TrialEnd.CRASHED, "the worker was lost")))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is what a resume reads."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search resumes from its study: python -m search.run --resume RUN")


class _ConductorScheduler(TrialScheduler):
    """Passes every report to the conductor and its decision back."""

    def __init__(self, session: _Session):
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = session

    def on_trial_add(self, tune_controller: Any, trial: RayTuneTrial) -> None:
        """Ray starts what the searcher gave, in that order."""

    @_errors_end_search(TrialScheduler.STOP)
    def on_trial_result(self, tune_controller: Any, trial: RayTuneTrial, result: dict[str, Any]) -> str:
        session = self._session
        number = session.number_of(trial)
        session.placed[number].last_report = time.monotonic()
        if UNWRITTEN in result:
            raise RunError(result[UNWRITTEN])
        if ENDED in result:
            session.failed(number, TrialEnd(result[ENDED]), result[REASON])
            return str(TrialScheduler.STOP)
        report: EpochReport = result[REPORT]
        if session.conductor.report(number, report) is Decision.CONTINUE:
            conductor = session.conductor
            session.keeper.reported(number, report.epoch, conductor.running, conductor.standing.leaders)
            return str(TrialScheduler.CONTINUE)
        session.conductor.finish(number, session.conductor.outcome(number))
        session.ended(number)
        return str(TrialScheduler.STOP)

    @_errors_end_search(None)
    def on_trial_error(self, tune_controller: Any, trial: RayTuneTrial) -> None:
        """A crash; Ray tells the searcher next."""
        session = self._session
        number = session.number_of(trial)
        placed = session.placed[number]
        if placed.timed_out:
            limit = session.options.trial_timeout_seconds
            placed.failure = TrialEnd.CRASHED, f"silent for more than {limit:g} s (--trial-timeout)"
        else:
            placed.failure = crash_reason(trial)

    def on_trial_complete(self, tune_controller: Any, trial: RayTuneTrial, result: dict[str, Any]) -> None:
        """Told in `on_trial_result` already."""

    def on_trial_remove(self, tune_controller: Any, trial: RayTuneTrial) -> None:
        """Trials are never paused."""

    @_errors_end_search(None)
    def _take_back(self, tune_controller: Any) -> None:
        session = self._session
        lost = session.lost_kinds()
        for trial in list(tune_controller.get_live_trials()) if lost else ():
            number = session.numbers.get(trial.trial_id)
            if trial.status == RayTuneTrial.PENDING and number is not None and session.placed[number].kind in lost:
                logger.warning("trial %d waits for a machine that is gone; it goes on elsewhere", number)
                session.wait_again(number)
                trial.init_local_path()  # Ray's table of results wants one of each trial, started or not
                tune_controller.stop_trial(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> RayTuneTrial | None:
        """None: Ray starts pending trials in their order by itself.

        Asked at each of Ray's steps, so this is where trials are seen that wait for a kind of slot whose nodes are
        all gone; they are taken back and begin again elsewhere, from their checkpoints.
        """
        self._take_back(tune_controller)
        if self._session.error is not None:
            tune_controller.request_stop_experiment()
        return None

    def debug_string(self) -> str:
        return "conductor"

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the rungs are rebuilt from the study."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search resumes from its study: python -m search.run --resume RUN")


class _Watch(Callback):
    """Kills the actor of a trial that was not heard of for too long; Ray then retries it as it does any crash."""

    def __init__(self, session: _Session):
        self._session = session

    def on_trial_start(self, iteration: int, trials: list[RayTuneTrial], trial: RayTuneTrial, **info: Any) -> None:
        """It has a worker: from now on it is expected to report. Until then it may wait as long as the cluster does."""
        number = self._session.numbers.get(trial.trial_id)
        if number in self._session.placed:
            self._session.placed[number].last_report = time.monotonic()

    @_errors_end_search(None)
    def on_step_end(self, iteration: int, trials: list[RayTuneTrial], **info: Any) -> None:
        limit = self._session.options.trial_timeout_seconds
        if limit is None or iteration % 10:
            return
        now = time.monotonic()
        for trial in trials:
            placed = self._session.placed.get(self._session.numbers.get(trial.trial_id, -1))
            actor = trial.temporary_state.ray_actor
            if placed is None or placed.last_report is None or actor is None:
                continue
            if now - placed.last_report > limit:
                logger.warning(
                    "trial %d was silent for more than %g s; its worker is replaced", placed.start.number, limit
                )
                placed.last_report, placed.timed_out = now, True
                ray.kill(actor)


class RayRunner:
    """Drives the conductor's trials on Ray.

    Parameters
    ----------
    trial_factory
        Makes the object that trains a trial; it is put into the object store once.
    slots
        Kinds of slots and how many of each.
    threads
        CPU threads of torch in each slot.
    callbacks
        Of Ray Tune's kind, such as its MLflow logger.
    nodes_now
        Which nodes are there; without it nobody notices that all nodes of a kind are gone.
    """

    def __init__(
        self,
        conductor: Conductor,
        *,
        store: RunStore,
        options: SearchOptions,
        trial_factory: Callable[[TrialStart], Any],
        slots: list[SlotKind],
        threads: int = 1,
        callbacks: list[Callback] | None = None,
        nodes_now: Callable[[], list[Node]] | None = None,
    ):
        self._conductor = conductor
        self._options = options
        self._session = _Session(conductor, store, options, slots, nodes_now)
        self._factory = trial_factory
        self._threads = threads
        self._callbacks = callbacks or []

    def run(self) -> None:
        """Until the conductor is done.

        Raises
        ------
        BudgetError
            If nothing in the space fits the budget.
        RunError
            If the study, the folder or the checkpoints' place cannot be written; every trial can be resumed then.
        """
        slots = self._session.slots
        # All slots' actors start at once; Ray's default for a custom searcher is one after the other.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self._session.workers)
        trainable = tune.with_resources(
            tune.with_parameters(RayTrial, factory=self._factory, threads=self._threads, name_process=name_process),
            lambda config: PlacementGroupFactory([slots[config[KIND]].request]),
        )
        # A place for Ray's own bookkeeping, which nobody reads and which is gone when the search is.
        with tempfile.TemporaryDirectory(prefix="search-") as folder:
            tuner = tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=_ConductorSearcher(self._session),
                    scheduler=_ConductorScheduler(self._session),
                    num_samples=UNLIMITED,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: str(trial.config["label"]),
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name=self._session.store.folder.path.name,
                    storage_path=folder,
                    verbose=0,
                    # Retried by us: Ray gives up at once where an actor dies between two trials.
                    failure_config=tune.FailureConfig(max_failures=0),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the trial saves itself
                    callbacks=[_Watch(self._session), *self._callbacks],
                ),
            )
            try:
                with record_interrupt(self._session.stop):
                    tuner.fit()
            except Exception as error:
                self._session.stop(ray_failure(error, folder))
        if self._session.error is not None:
            raise self._session.error
