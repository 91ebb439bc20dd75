"""Runs a search on Ray Tune: adapts the conductor to Ray's searcher and scheduler interfaces.

Ray decides where a trial runs, starts its actors and moves results; the conductor decides everything else, as it does
for `search.runners.local`. Ray's own snapshot of the experiment is not used: the study and the run's folder are always
complete.
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
from search.options import SearchOptions
from search.runners._ray_private import name_process
from search.runners.packing import Node, SlotKind, counts_now
from search.runners.ray_credentials import hidden_credentials
from search.runners.ray_faults import HEAD, caused_by_low_memory, crash_reason, dead_parts, kill_worker, ray_failure
from search.store.checkpoints import CheckpointKeeper, checkpoint_place
from search.store.run_store import RunStore
from trainable import stop_signals
from trainable.errors import RunError
from trainable.ray_trainable import ENDED, METRIC, REASON, REPORT, UNWRITTEN, MemoryKeptError, RayTrial, trial_config
from trainable.record import EpochReport, TrialEnd, TrialStart

logger = logging.getLogger(__name__)

KIND = "slot_kind"
"""Key of a trial's configuration: which kind of slot it runs in."""
UNLIMITED = 10**9
"""Number of samples for Ray: the conductor decides when the search ends."""
NODES_SECONDS = 2.0
"""Interval at which the cluster is asked which nodes are alive."""


@dataclass
class _Placed:
    """A trial that has a slot, or is waiting for one in Ray's queue."""

    start: TrialStart
    kind: int
    """Index of its slot's kind."""
    last_report: float | None = None
    """When its worker started or last reported (monotonic seconds); None while it is waiting for one."""
    failure: tuple[TrialEnd, str] | None = None
    """How its worker failed."""
    timed_out: bool = False
    """Whether its worker was killed because it had not reported for too long."""
    worker: Any = None
    """Handle of its worker's actor; None while it is waiting for one."""


class _Session:
    """State shared by searcher, scheduler and timeout callback: maps Ray's trials to ours and to slots."""

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
        self.keeper = CheckpointKeeper(options, store.folder, store.study.run)
        self.numbers: dict[str, int] = {}
        """Our trial number, by Ray's trial id."""
        self.placed: dict[int, _Placed] = {}
        """Trials handed to Ray, by number."""
        self.error: BaseException | None = None
        """The error that ends the search; its trials can be resumed."""
        self.waiting = conductor.unfinished()
        self.keeper.sweep(conductor.running, conductor.standing)

    def stop(self, error: BaseException) -> None:
        """Ends the search at Ray's next step."""
        self.error = self.error or error

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Ray pickles searcher, scheduler and callbacks for its snapshot, which must not contain the session."""
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
                ends=self.conductor.asha.ends,
                label=label_of(self.conductor.space.name, start),
                threads=self.slots[kind].threads,
            ),
        }

    @property
    def workers(self) -> int:
        """Concurrent trials on the current nodes."""
        return min(sum(self.counts), self.options.concurrency or UNLIMITED)

    def lost_kinds(self) -> set[int]:
        """Kinds of slots whose nodes are all gone; asks the cluster at most every `NODES_SECONDS`.

        Raises RunError if the Ray of this machine has died.
        """
        if self._nodes_now is None or time.monotonic() - self._asked < NODES_SECONDS:
            return set()
        self._asked = time.monotonic()
        self.refuse_dead_ray()
        now = counts_now(self.slots, self._nodes_now())
        if not any(now):
            return set()  # no node is left: wait for the cluster to come back
        self.counts = now
        return {kind for kind, count in enumerate(now) if count == 0}

    def number_of(self, trial: RayTuneTrial) -> int:
        return self.numbers[trial.trial_id]

    def next_trial(self) -> TrialStart | None:
        if self.waiting and not self.conductor.stopped:
            return self.waiting.pop(0)
        return self.conductor.next_trial()

    @property
    def over(self) -> bool:
        """Whether the search ends now: for an error, or because it was stopped and no trial has a worker any more.

        A trial that waits for one may wait for ever, if its node is gone.
        """
        waits = all(placed.last_report is None for placed in self.placed.values())
        return self.error is not None or (waits and self.conductor.stopped)

    def refuse_dead_ray(self) -> None:
        """Raises RunError if the Ray of this machine has died, which is no fault of a trial."""
        dead = dead_parts()
        if not dead:
            return
        error = RunError(
            f"Ray on this machine has died (its process {dead[0]} was killed, perhaps for want of memory); "
            "all reported epochs are saved: continue with --resume"
        )
        if HEAD in dead:
            # Each call of Ray waits for it now; after a minute Ray ends this process, and nothing more can be said.
            logger.error("%s", error)
        raise error

    def wait_again(self, number: int) -> None:
        """The trial lost its slot; it takes the next free one, before any new trial."""
        self.waiting.append(self.placed.pop(number).start)

    def place_anew(self) -> None:
        """Ray Tune has ended: trials whose worker was killed for want of memory have failed, the others only wait.

        Raises RunError if no worker was killed.
        """
        placed = dict(self.placed)
        lost = {number: kill_worker(trial.worker) for number, trial in placed.items() if trial.worker is not None}
        failures = {number: failure for number, failure in lost.items() if failure is not None}
        # A trial that had no worker yet may have been about to begin in the one that was killed.
        if not failures and len(lost) == len(placed):
            raise RunError("Ray Tune has ended for want of memory, but no worker was killed; continue with --resume")
        self.numbers.clear()
        for number, failure in failures.items():
            self.failed(number, *failure)
        for number in sorted(placed.keys() - failures.keys()):
            if number in lost:
                logger.warning("trial %d begins its epoch again: its worker ended with the one that was killed", number)
            self.wait_again(number)

    def ended(self, number: int) -> None:
        self.placed.pop(number, None)
        self.keeper.ended(number, self.conductor.standing.kept, self.conductor.running)

    def failed(self, number: int, end: TrialEnd, reason: str) -> None:
        """Lets a failed trial resume from its checkpoint in any slot, or ends it."""
        self.refuse_dead_ray()
        line = " ".join(reason.split())[:300]
        if reason.startswith(MemoryKeptError.__name__):
            # The previous trial's fault: this one starts in another worker, and no restart is counted.
            logger.warning("trial %d starts in another worker: %s", number, line)
            self.wait_again(number)
            return
        if self.conductor.retry(number):
            logger.warning("trial %d failed and resumes from its checkpoint: %s", number, line)
            self.wait_again(number)
            return
        logger.info("trial %d ended, %s: %s", number, end, line)
        self.conductor.finish(number, self.conductor.failed(number, end, reason))
        self.ended(number)


def _errors_end_search(fallback: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates methods that Ray calls: an error ends the search and `RayRunner.run` raises it, not wrapped by Ray."""

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
    """Asks the conductor for a trial only when a slot is free, so that each proposal uses all results so far."""

    def __init__(self, session: _Session):
        super().__init__(metric=METRIC, mode="max")
        self._session = session

    @_errors_end_search(Searcher.FINISHED)
    def suggest(self, trial_id: str) -> Any:
        session = self._session
        if len(session.placed) >= session.workers:
            return None
        start = session.next_trial()
        if start is not None:
            return session.begin(trial_id, start)
        # Not finished while a trial runs: it may lose its worker and need a slot again.
        return None if session.placed else Searcher.FINISHED

    @_errors_end_search(None)
    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Handles crashes: the trial resumes from its checkpoint or ends. The scheduler handles all other endings."""
        session = self._session
        number = session.numbers.pop(trial_id)
        placed = session.placed.get(number)
        if error and placed is not None:
            session.failed(number, *(placed.failure or (TrialEnd.CRASHED, "the worker was lost")))

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: a resume reads the study."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search resumes from its study: python -m search.run --resume RUN")


class _ConductorScheduler(TrialScheduler):
    """Passes every report to the conductor and returns its decision."""

    def __init__(self, session: _Session):
        super().__init__()  # type: ignore[no-untyped-call]
        self._session = session

    def on_trial_add(self, tune_controller: Any, trial: RayTuneTrial) -> None:
        """Does nothing: Ray starts trials in the searcher's order."""

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
        conductor = session.conductor
        decision = conductor.report(number, report)
        if decision is Decision.STOP:
            conductor.finish(number, conductor.outcome(number))
            session.ended(number)
            return str(TrialScheduler.STOP)
        session.keeper.reported(number, report.epoch, conductor.running, conductor.standing.kept)
        if decision is Decision.CONTINUE:
            return str(TrialScheduler.CONTINUE)
        del session.placed[number]  # its checkpoint is that of the epoch before, which a resume goes on from
        return str(TrialScheduler.STOP)

    @_errors_end_search(None)
    def on_trial_error(self, tune_controller: Any, trial: RayTuneTrial) -> None:
        """Records why the trial crashed; Ray calls the searcher next."""
        session = self._session
        number = session.number_of(trial)
        placed = session.placed[number]
        if placed.timed_out:
            limit = session.options.trial_timeout_seconds
            placed.failure = TrialEnd.CRASHED, f"no report for more than {limit:g} s (--trial-timeout)"
        else:
            placed.failure = crash_reason(trial)

    def on_trial_complete(self, tune_controller: Any, trial: RayTuneTrial, result: dict[str, Any]) -> None:
        """Does nothing: `on_trial_result` has handled it."""

    def on_trial_remove(self, tune_controller: Any, trial: RayTuneTrial) -> None:
        """Does nothing: trials are never paused."""

    @_errors_end_search(None)
    def _requeue_lost(self, tune_controller: Any) -> None:
        session = self._session
        lost = session.lost_kinds()
        for trial in list(tune_controller.get_live_trials()) if lost else ():
            number = session.numbers.get(trial.trial_id)
            if trial.status == RayTuneTrial.PENDING and number is not None and session.placed[number].kind in lost:
                logger.warning("trial %d was waiting for a node that is gone; it resumes on another one", number)
                session.wait_again(number)
                trial.init_local_path()  # Ray's result table needs the path of every trial, started or not
                tune_controller.stop_trial(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> RayTuneTrial | None:
        """Returns None: Ray then starts pending trials in their order.

        Ray calls this at each step, so trials that are waiting for a kind of slot whose nodes are all gone are found
        here; they are queued again and resume from their checkpoints in another slot.
        """
        self._requeue_lost(tune_controller)
        if self._session.over:
            tune_controller.request_stop_experiment()
        return None

    def debug_string(self) -> str:
        return "conductor"

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the rungs are rebuilt from the study."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search resumes from its study: python -m search.run --resume RUN")


class _TrialTimeout(Callback):
    """Kills the actor of a trial that has not reported for too long, which then counts as a crash."""

    def __init__(self, session: _Session):
        self._session = session

    def on_trial_start(self, iteration: int, trials: list[RayTuneTrial], trial: RayTuneTrial, **info: Any) -> None:
        """The trial has a worker, so its timeout starts. Waiting for a worker has no limit."""
        number = self._session.numbers.get(trial.trial_id)
        if number in self._session.placed:
            placed = self._session.placed[number]
            placed.last_report, placed.worker = time.monotonic(), trial.temporary_state.ray_actor

    @_errors_end_search(None)
    def on_step_end(self, iteration: int, trials: list[RayTuneTrial], **info: Any) -> None:
        limit = self._session.options.trial_timeout_seconds
        if limit is None or iteration % 10:
            return
        now = time.monotonic()
        for trial in trials:
            placed = self._session.placed.get(self._session.numbers.get(trial.trial_id, -1))
            if placed is None or placed.last_report is None:
                continue
            if now - placed.last_report > limit:
                logger.warning(
                    "trial %d has not reported for more than %g s; its worker is replaced", placed.start.number, limit
                )
                placed.last_report, placed.timed_out = now, True
                ray.kill(placed.worker)


class _OwnSignals(Callback):
    """Takes SIGUSR1 back, for which Ray Tune sets a handler of its own before it calls `setup`."""

    def __init__(self, take_back: Callable[[], None]):
        self._take_back = take_back

    def setup(self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any) -> None:
        self._take_back()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """See `_Session`: Ray's snapshot is not read."""
        return (object, ())


class RayRunner:
    """Drives the conductor's trials on Ray.

    Parameters
    ----------
    trial_factory
        Creates the object that trains a trial; it is put into the object store once.
    slots
        Kinds of slots, with the number of each.
    nodes_now
        Returns the current nodes; without it, the loss of all nodes of a kind goes unnoticed.
    """

    def __init__(
        self,
        conductor: Conductor,
        *,
        store: RunStore,
        options: SearchOptions,
        trial_factory: Callable[[TrialStart], Any],
        slots: list[SlotKind],
        nodes_now: Callable[[], list[Node]] | None = None,
    ):
        self._conductor = conductor
        self._options = options
        self._session = _Session(conductor, store, options, slots, nodes_now)
        self._factory = trial_factory

    def run(self) -> None:
        """Runs until the conductor is done.

        Raises
        ------
        BudgetError
            If nothing in the space fits the budget.
        RunError
            If the study, the folder or the checkpoint storage cannot be written; all trials can still be resumed.
        """
        slots = self._session.slots
        # Starts all slots' actors at once; Ray's default for a custom searcher is one at a time.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(self._session.workers)
        trainable = tune.with_resources(
            tune.with_parameters(RayTrial, factory=self._factory, name_process=name_process),
            lambda config: PlacementGroupFactory([slots[config[KIND]].request]),
        )
        try:
            with hidden_credentials(), stop_signals.recorded(self._session.stop) as take_back:
                while self._ended_by_memory(trainable, take_back):
                    self._session.place_anew()
        except (Exception, KeyboardInterrupt) as error:
            self._session.stop(error)
        if self._session.error is not None:
            raise self._session.error

    def _ended_by_memory(self, trainable: Any, take_back: Callable[[], None]) -> bool:
        """Runs Ray Tune; returns whether it ended early because Ray had killed a worker whose node ran low on memory.

        Ray Tune 2.60 takes this for an error of its own, and stops all workers.
        """
        # For Ray's own records, which are not read and are deleted after the search.
        with tempfile.TemporaryDirectory(prefix="search-") as folder:
            try:
                self._tuner(trainable, folder, take_back).fit()
            except Exception as error:
                if self._session.error is None and caused_by_low_memory(error):
                    return True
                self._session.stop(ray_failure(error, folder))
        return False

    def _tuner(self, trainable: Any, folder: str, take_back: Callable[[], None]) -> tune.Tuner:
        """Ray Tune, made to obey the conductor."""
        return tune.Tuner(
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
                name=self._session.store.folder.name,
                storage_path=folder,
                verbose=0,
                # Failures are retried by this runner: Ray gives up at once if an actor dies between two trials.
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the trial saves itself
                callbacks=[_TrialTimeout(self._session), _OwnSignals(take_back)],
            ),
        )
