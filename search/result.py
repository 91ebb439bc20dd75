"""What came out of a search, for programs: a run's folder as an object. Tables and the report come from `analysis`."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainable.config import TrialConfig
from trainable.record import RunFolder, RunManifest, TrialEnd, TrialRecord, best_first
from trainable.scoring.clip_counts import ClipCounts, auc_text

if TYPE_CHECKING:
    import pandas as pd

    from analysis.results import RunResults
    from trainable.detection.detector import Detector


@dataclass(frozen=True)
class HeldOut:
    """How well something detects on clips that took no part in any choice."""

    auc: float
    """Mean over machine ids, 0 … 1."""
    interval: tuple[float, float]
    """95 % interval of `auc`."""
    clips: ClipCounts | None
    """The clips that judged; None in runs of earlier versions."""

    def __str__(self) -> str:
        return auc_text(self.auc, self.interval, self.clips)


@dataclass(frozen=True)
class Best:
    """The completed trial with the highest value."""

    trial: int
    """Its number."""
    value: float
    """What the search maximised, after the trial's last epoch (`Result.measure`)."""
    interval: tuple[float, float] | None
    """95 % interval of the validation AUC; None where no label judges, and before the search has ended."""
    params: dict[str, Any]
    """The searched parameters, as the trial used them."""
    config: TrialConfig
    """The whole configuration."""
    epochs: int
    """Epochs that it trained."""
    held_out: HeldOut | None
    """Of this trial alone; None if no anomaly is labelled, and before the search has ended."""


@dataclass(frozen=True)
class Result:
    """A run: finished, running or stopped. It shows what the folder held when it was loaded."""

    folder: Path
    manifest: RunManifest
    """What was requested, and what it ran on."""
    summary: dict[str, Any]
    """``summary.json``, which the search writes when it ends; empty before, and again once it is resumed."""

    @property
    def ended(self) -> bool:
        """Whether the search wrote its results; if not, it runs or can be resumed."""
        return bool(self.summary)

    @property
    def stopped(self) -> str | None:
        """Why the search ended before all its trials did, a time limit for example; None if it did not."""
        return self.summary.get("stop_reason")

    @property
    def measure(self) -> str:
        """What a trial's value is called, such as ``validation AUC``."""
        return self.manifest.objective.measure

    @cached_property
    def best(self) -> Best | None:
        """None if no trial has completed."""
        best = self.summary.get("best")
        record = self._completed_best() if best is None else RunFolder(self.folder).read_trial(best["trial"])
        if record is None:
            return None
        found = Best(
            trial=record.number,
            value=record.epochs[-1].value,
            interval=None,
            params=record.start.used,
            config=record.start.config,
            epochs=len(record.epochs),
            held_out=None,
        )
        if best is None:
            return found
        held_out = _held_out(best, "held_out_auc", "held_out_interval")
        return replace(found, interval=_interval(best.get("validation_interval")), held_out=held_out)

    def _completed_best(self) -> TrialRecord | None:
        completed = [
            each
            for each in RunFolder(self.folder).read_trials()
            if each.outcome is not None and each.outcome.end is TrialEnd.COMPLETED and each.epochs
        ]
        return min(completed, key=lambda each: best_first(each.epochs[-1].value, each.number), default=None)

    @property
    def held_out(self) -> HeldOut | None:
        """Of the detector that the search left, or of its best trial where there is no detector.

        None if no anomaly is labelled, and before the search has ended.
        """
        best = self.summary.get("best") or {}
        detector = _held_out(best, "detector_held_out_auc", "detector_held_out_interval")
        return detector or (None if self.best is None else self.best.held_out)

    def table(self) -> "pd.DataFrame":
        """One row per trial, indexed by number; `analysis.results.trial_rows` names the columns.

        Needs the extra ``analysis``. Raises RunError if no trial has started yet.
        """
        return self.analysis().trials

    def analysis(self) -> "RunResults":
        """All records as tables (epochs, machine ids, density models), which the figures of `analysis` take.

        Needs the extra ``analysis``. Raises RunError if no trial has started yet.
        """
        from analysis.results import load_run

        return load_run(self.folder)

    def report(self, output: str | Path | None = None, *, with_model: bool = True, device: str = "cpu") -> Path:
        """Writes the report, one HTML page, and returns its path.

        Needs the extra ``analysis``, and a few seconds to a minute for the winner's scores and maps.

        Parameters
        ----------
        output
            File to write; by default ``report.html`` in the run's folder.
        with_model
            False leaves out what needs the winner's checkpoint and the recordings.

        Raises
        ------
        RunError
            If no trial has started yet, or the file cannot be written.
        """
        from analysis.report import write_report
        from trainable.commandline import resolve_device

        device = resolve_device(device)
        path = self.folder / "report.html" if output is None else Path(output)
        write_report(self.folder, path, with_model=with_model, device=device)
        return path

    def detector(self, *, device: str = "cpu") -> "Detector":
        """The detector that the search left. Raises CheckpointError if there is none."""
        from trainable.commandline import resolve_device
        from trainable.detection.detector import Detector

        return Detector.load(RunFolder(self.folder).detector_path, device=resolve_device(device))

    def retrain(
        self,
        output: str | Path | None = None,
        *,
        alarm_rate: str | float | None = None,
        device: str = "cpu",
        allow_changes: bool = False,
    ) -> "Detector":
        """Trains the detector again, on all normal clips but those that calibrate it; saves and returns the new one.

        It takes as long as those trainings took in the search: up to eight, for as many epochs each, one after another.
        Needs the extra ``analysis``.

        Parameters
        ----------
        output
            Folder of the new detector; by default ``retrained`` in the run's folder.
        alarm_rate
            False alarms that it may raise, such as ``"1/day"`` or 0.01 of recordings; by default 0.05 of them.
        allow_changes
            Trains on the recordings that are there now, though they are not those of the search.

        Raises
        ------
        ConfigError
            If the alarm rate or the device is none.
        RunError
            If no trial has an epoch, a training diverges, the recordings have changed or the folder cannot be written.
        BudgetError
            If no plan fits the run's memory budget, or the device runs out of memory under the smallest one.
        DataError
            If the recordings are gone.
        """
        from analysis.best import RETRAINED, members_to_retrain
        from analysis.model_view import load_run_data
        from analysis.retrain import retrain
        from trainable.commandline import resolve_device
        from trainable.detection.alarm import AlarmRate
        from trainable.detection.detector import make_folder

        rate, device = None if alarm_rate is None else AlarmRate.parse(str(alarm_rate)), resolve_device(device)
        folder = self.folder / RETRAINED if output is None else Path(output)
        make_folder(folder)
        run = self.analysis()
        data = load_run_data(run, allow_changes=allow_changes)
        finished = retrain(run, members_to_retrain(run), data, device=device, alarm_rate=rate)
        finished.detector.save(folder)
        return finished.detector

    def __repr__(self) -> str:
        how = "" if self.ended else ", not ended"
        best = "no trial completed"
        if self.best is not None:
            best = f"best trial {self.best.trial}, {self.measure} {self.best.value:.3f}"
        held_out = "" if self.held_out is None else f", held-out AUC {self.held_out}"
        return f"<Result {self.folder}{how}: {best}{held_out}>"


def load(run: str | Path | Result) -> Result:
    """The result of a run, from its folder: finished, running or stopped, of this version or an earlier one.

    Raises RunError if the folder is not a run.
    """
    folder = RunFolder(run.folder if isinstance(run, Result) else run)
    manifest = folder.read_manifest()
    return Result(folder.path, manifest, folder.read_summary(manifest))


def _held_out(best: dict[str, Any], auc: str, interval: str) -> HeldOut | None:
    bounds = _interval(best.get(interval))
    if best.get(auc) is None or bounds is None:
        return None
    return HeldOut(float(best[auc]), bounds, ClipCounts.from_dict(best.get("held_out_clips")))


def _interval(bounds: Any) -> tuple[float, float] | None:
    return None if bounds is None else (float(bounds[0]), float(bounds[1]))
