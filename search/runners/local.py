"""Runs a search in this process: no daemon, no pickling, and debugger breakpoints work.

With a concurrency above one, several trials are alive at once and take turns, one epoch each: ASHA and the sampler see
the same interleaving as with parallel slots, and it is deterministic.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from search.engine.conductor import Conductor, Decision
from search.options import SearchOptions
from search.runners.deadline import deadline
from search.store.checkpoints import CheckpointKeeper, checkpoint_place
from search.store.run_store import RunStore
from trainable import stop_signals
from trainable.checkpoint_place import CheckpointPlace, begin_or_resume
from trainable.errors import RunError
from trainable.failures import ending_of, storage_failure
from trainable.record import EpochReport, TrialEnd, TrialStart

logger = logging.getLogger(__name__)


class TrialLike(Protocol):
    """A trial that a runner drives: `trainable.trial.Trial`, or a synthetic one in tests and benchmarks."""

    def step(self) -> EpochReport: ...

    def save(self, folder: Path) -> Any: ...

    def load(self, folder: Path, at_most: int | None = None) -> int: ...

    def release(self) -> None: ...


TrialFactory = Callable[[TrialStart], TrialLike]


@dataclass
class _Slot:
    start: TrialStart
    trial: TrialLike
    place: CheckpointPlace


class LocalRunner:
    """Drives the conductor's trials in turn, in this process.

    Parameters
    ----------
    store
        The run's folder and study.
    trial_factory
        Creates the object that trains a trial.
    """

    def __init__(self, conductor: Conductor, *, store: RunStore, options: SearchOptions, trial_factory: TrialFactory):
        self._conductor = conductor
        self._store = store
        self._options = options
        self._make = trial_factory
        self._keeper = CheckpointKeeper(options, store.folder, store.study.run)
        self._slots: list[_Slot] = []
        self._waiting: list[TrialStart] = []

    def run(self) -> None:
        """Runs until the conductor is done. A signal leaves every trial at its last saved epoch, to be resumed.

        Raises
        ------
        ProjectError
            If the study, the folder or the checkpoint storage cannot be written; all trials can still be resumed.
        """
        self._waiting = self._conductor.unfinished()
        self._keeper.sweep(self._conductor.running, self._conductor.standing)
        interrupts: list[KeyboardInterrupt] = []
        try:
            with stop_signals.recorded(interrupts.append):
                self._until_done(interrupts)
        finally:
            with ExitStack() as closing:  # one that cannot be closed keeps no other open
                for slot in self._slots:
                    closing.callback(slot.place.forget_copy)
                    closing.callback(slot.trial.release)

    def _until_done(self, interrupts: list[KeyboardInterrupt]) -> None:
        while not self._conductor.done:
            while len(self._slots) < self._options.workers and (start := self._next()) is not None:
                self._begin(start)
            if not self._slots:
                return  # stopped: the trials that wait for a slot begin when the search is resumed
            for slot in list(self._slots):
                self._step(slot)
                if interrupts:  # the exception was swallowed where it was raised
                    raise interrupts[0]

    def _next(self) -> TrialStart | None:
        if self._waiting and not self._conductor.stopped:
            return self._waiting.pop(0)
        return self._conductor.next_trial()

    def _begin(self, start: TrialStart) -> None:
        """Fills a slot; an interrupted trial resumes from its newest intact checkpoint."""
        place = checkpoint_place(self._options, self._store.folder, self._store.study.run, start.number)
        try:
            with deadline(self._options.trial_timeout_seconds):
                trial = begin_or_resume(lambda: self._make(start), place, self._conductor.running[start.number].epoch)
        except Exception as error:
            self._failed(start, error)
            return
        self._slots.append(_Slot(start, trial, place))

    def _step(self, slot: _Slot) -> None:
        number = slot.start.number
        # An epoch that may be the trial's last is saved before its report: a detector's weights must be those that were
        # reported. All others are saved after it: if the process is killed in between, the epoch is trained again but
        # no result is lost.
        with self._attempt(slot):
            report = slot.trial.step()
            may_end = report.epoch in self._conductor.asha.ends
            if may_end:
                self._save(slot)
        if slot not in self._slots:
            return
        decision = self._conductor.report(number, report)
        if decision is Decision.STOP:
            outcome = self._conductor.outcome(number)
            self._close(slot)
            self._conductor.finish(number, outcome)
            self._ended(number)
        elif not may_end:
            with self._attempt(slot):
                self._save(slot)
        if decision is Decision.SUSPEND and slot in self._slots:
            self._close(slot)
        self._keeper.reported(number, report.epoch, self._conductor.running, self._conductor.standing.kept)

    @contextmanager
    def _attempt(self, slot: _Slot) -> Iterator[None]:
        """No error of a single trial may end the search: one empties its slot, and the trial is retried or ended."""
        try:
            with deadline(self._options.trial_timeout_seconds):
                yield
        except Exception as error:
            self._close(slot)
            self._failed(slot.start, error)

    def _save(self, slot: _Slot) -> None:
        slot.trial.save(slot.place.folder)
        slot.place.push()

    def _failed(self, start: TrialStart, error: Exception) -> None:
        """Retries a failure from the trial's checkpoint, or ends the trial with the reason.

        Raises
        ------
        RunError
            If the storage is full or unreachable, which is not the trial's failure.
        """
        unwritten = storage_failure(error)
        if unwritten is not None:
            raise RunError(unwritten) from None
        reason = f"{type(error).__name__}: {error}"
        if self._conductor.retry(start.number):
            logger.warning("trial %d failed and resumes from its checkpoint: %s", start.number, reason)
            self._waiting.insert(0, start)
            return
        end = ending_of(error) or TrialEnd.CRASHED
        logger.info("trial %d ended, %s: %s", start.number, end, reason, exc_info=logger.isEnabledFor(logging.DEBUG))
        self._conductor.finish(start.number, self._conductor.failed(start.number, end, reason))
        self._ended(start.number)

    def _close(self, slot: _Slot) -> None:
        self._slots.remove(slot)
        slot.trial.release()
        slot.place.forget_copy()

    def _ended(self, number: int) -> None:
        self._keeper.ended(number, self._conductor.standing.kept, self._conductor.running)
