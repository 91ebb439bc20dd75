"""A trial as a Ray Tune Trainable; the only module of this package that knows Ray.

The actor outlives its trials: `reset_config` releases the old trial's memory and begins the next one, so that imports,
CUDA context and data are loaded once per slot.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from ray import tune

from trainable.checkpoint_place import CheckpointPlace, begin_or_resume
from trainable.device.cap import MemoryInUse, measured_outside_bytes, memory_in_use
from trainable.failures import ending_of, storage_failure
from trainable.record import EpochReport, TrialStart

REPORT, ENDED, REASON, UNWRITTEN = "report", "ended", "reason", "unwritten"
"""Keys of a result: an epoch's report, or how the trial failed and why, or what cannot be written."""
METRIC = "value"


class MemoryKeptError(Exception):
    """An actor did not release the previous trial's memory: it is replaced, through no fault of the next trial."""


class RayTrial(tune.Trainable):
    """Drives a `trainable.trial.Trial` (or what `factory` makes) for Ray Tune.

    ``config`` holds ``start`` (a `TrialStart`), ``checkpoints`` (folder; the trial goes on from
    the newest intact checkpoint there that is not later than the epoch ``reported``), ``ends`` (epochs after which
    the trial may end: their checkpoint precedes their report), ``label`` and ``threads`` (torch's, on the CPU).
    """

    def setup(
        self,
        config: dict[str, Any],
        factory: Callable[[TrialStart], Any] | None = None,
        name_process: Callable[[str], None] = lambda _: None,
    ) -> None:
        assert factory is not None, "given by tune.with_parameters"
        self._factory = factory
        self._name_process = name_process
        self._trial: Any = None
        self._failed: Exception | None = None
        self._baseline: MemoryInUse = memory_in_use()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in this actor.

        Errors here are raised by the first `step`, since Ray would not retry after an error here.
        """
        try:
            self.cleanup()
            now = memory_in_use()
            if self._baseline.outside_bytes is None:  # nothing was measured: the first trial's rest is the baseline
                self._baseline = dataclasses.replace(self._baseline, outside_bytes=now.outside_bytes)
            kept = now.kept_since(self._baseline)
            if kept is not None:
                raise MemoryKeptError(f"the trial before left {kept} in this worker, which is replaced")
            self._begin(new_config)
        except Exception as error:
            self._failed = error
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        torch.set_num_threads(config["threads"])
        self._start: TrialStart = config["start"]
        self._place = CheckpointPlace(config["checkpoints"])
        self._ends: frozenset[int] = frozenset(config["ends"])
        self._unsaved = False
        self._ended: dict[str, Any] | None = None
        self._failed = None
        self._label = str(config["label"])
        self._name_process(self._label)
        self._trial = self._guarded(lambda: self._make(int(config["reported"])))
        if self._baseline.outside_bytes is None:
            # There was no context before the first trial: what was measured when it was capped is the baseline.
            self._baseline = dataclasses.replace(self._baseline, outside_bytes=measured_outside_bytes())

    def _make(self, reported: int) -> Any:
        return begin_or_resume(lambda: self._factory(self._start), self._place, reported)

    def step(self) -> dict[str, Any]:
        """Trains one epoch, after saving the previous one, whose report is durable by now."""
        self._name_process(self._label)  # Ray renames the process for each call
        if self._failed is not None:
            raise self._failed
        if self._ended is None:
            report = self._guarded(self._epoch)
            if report is not None:
                return {REPORT: report, METRIC: report.value}
        assert self._ended is not None
        return self._ended

    def _epoch(self) -> EpochReport:
        if self._unsaved:
            self._save()
        report: EpochReport = self._trial.step()
        may_end = report.epoch in self._ends
        if may_end:
            self._save()
        self._unsaved = not may_end
        return report

    def _save(self) -> None:
        self._trial.save(self._place.folder)
        self._place.push()

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """Runs `work`; turns a failure with an ending of its own, or a failure to write, into a result.

        Ray reports any other error as an error of the trial.
        """
        try:
            return work()
        except Exception as error:
            unwritten, end = storage_failure(error), ending_of(error)
            if unwritten is not None:
                self._ended = {UNWRITTEN: unwritten, METRIC: float("nan")}
            elif end is not None:
                reason = f"{type(error).__name__}: {error}"
                self._ended = {ENDED: end.value, REASON: reason, METRIC: float("nan")}
            else:
                raise
        return None

    def cleanup(self) -> None:
        trial, self._trial = self._trial, None
        if trial is not None:
            trial.release()
        self._place.forget_copy()

    def __repr__(self) -> str:
        return str(self.config.get("label", "slot"))


def trial_config(
    start: TrialStart, *, checkpoints: str, reported: int, ends: Iterable[int], label: str, threads: int = 1
) -> dict[str, Any]:
    """What `RayTrial` needs of a trial."""
    return {
        "start": start,
        "checkpoints": checkpoints,
        "reported": reported,
        "ends": tuple(ends),
        "label": label,
        "threads": threads,
    }
