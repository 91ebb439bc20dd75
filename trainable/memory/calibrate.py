"""Corrects a device profile by measured peaks: the workspace by least squares, the margin by the worst error."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainable.config import DataConfig, TrialConfig
from trainable.errors import RunError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.predict import DataSizes, Predictor, peak_phases
from trainable.memory.profile import DeviceProfile, MeasuredPeak
from trainable.record import RunFolder, TrialRecord

MOST_SHARE = 4.0
"""Largest workspace searched for, as a share of a convolution's input and output bytes."""
WORTH = 0.999
"""The old share stays unless the new one reduces the squared errors to less than this part."""


@dataclass(frozen=True)
class Measured:
    """The peak of a GPU's allocator while a configuration trained under a plan."""

    config: TrialConfig
    plan: ExecutionPlan
    peak_bytes: int
    """``torch.cuda.max_memory_allocated``."""


@dataclass(frozen=True)
class Errors:
    """Errors of a profile's predictions against measurements."""

    relative: tuple[float, ...]
    """Predicted ÷ measured − 1 for the allocator's peak, without margin, in the order of the measurements."""
    above_margin: int
    """Measurements above the prediction with its margin."""

    @property
    def median(self) -> float:
        """Median of the absolute errors."""
        return float(np.median(np.abs(self.relative)))

    @property
    def worst(self) -> float:
        return float(np.max(np.abs(self.relative)))


@dataclass(frozen=True)
class Calibration:
    """A profile before and after it was corrected by the peaks that a run's trials measured."""

    peaks: int
    """Number of measured peaks."""
    before: DeviceProfile
    after: DeviceProfile
    errors_before: Errors
    errors_after: Errors


def calibrated_by_run(run: RunFolder, profile: DeviceProfile | None = None) -> Calibration:
    """The profile that a run's measured peaks correct.

    Parameters
    ----------
    profile
        Profile to start from; None = the run's own (named when it began), or the built-in one.

    Raises
    ------
    RunError
        If the folder is not a run, or its trials measured nothing.
    """
    from trainable.data.load import load_dataset  # needs more than torch

    manifest = run.read_manifest()
    if profile is None:
        saved = manifest.options.get("profile")
        profile = DeviceProfile() if saved is None else DeviceProfile.from_dict(saved)
    measured = [peak for record in run.read_trials() for peak in peaks_of(record)]
    if not measured:
        raise RunError(f"{run.path}: no trial measured a peak; trials on a CPU measure none")
    data = DataSizes.of(load_dataset(DataConfig.from_dict(manifest.data)))
    corrected = recalibrated(profile, measured, data)
    return Calibration(
        peaks=len(measured),
        before=profile,
        after=corrected,
        errors_before=errors_of(measured, data, profile),
        errors_after=errors_of(measured, data, corrected),
    )


def peaks_of(record: TrialRecord) -> Iterator[Measured]:
    """The highest peak of a trial under each of its plans.

    Skips plans under which the trial did not reach every phase that may hold its peak, and epochs that recovered from
    running out of memory: those measure two plans, or part of an epoch.
    """
    config = record.start.config
    highest: dict[ExecutionPlan, dict[int, int]] = {}
    for epoch in record.epochs:
        if epoch.peak_bytes == 0 or epoch.plan is None or epoch.recovered:
            continue
        by_phase = highest.setdefault(epoch.plan, {})
        by_phase[epoch.phase] = max(by_phase.get(epoch.phase, 0), epoch.peak_bytes)
    phases = peak_phases(config)
    for plan, by_phase in highest.items():
        if by_phase.keys() >= set(phases):
            yield Measured(config, plan, max(by_phase[phase] for phase in phases))


def errors_of(measured: Sequence[Measured], data: DataSizes, profile: DeviceProfile) -> Errors:
    """How far a profile's predictions are from what was measured."""
    predicted = _predicted(measured, data, profile)
    pairs = list(zip(predicted, (each.peak_bytes for each in measured), strict=True))
    return Errors(
        tuple(prediction / peak - 1.0 for prediction, peak in pairs),
        sum(peak > prediction * (1.0 + profile.margin_share) for prediction, peak in pairs),
    )


def recalibrated(profile: DeviceProfile, measured: Sequence[Measured], data: DataSizes) -> DeviceProfile:
    """The profile whose workspace fits the measurements best and whose margin covers all of them.

    Without measurements it stays the same. What lies outside the allocator (context, libraries) is not measured by
    trials and stays.
    """
    if not measured:
        return profile
    fitted = replace(profile, convolution_workspace_share=workspace_share(profile, measured, data))
    pairs = zip(_predicted(measured, data, fitted), measured, strict=True)
    return fitted.recalibrated(MeasuredPeak(predicted_bytes=p, measured_bytes=m.peak_bytes) for p, m in pairs)


def workspace_share(profile: DeviceProfile, measured: Sequence[Measured], data: DataSizes) -> float:
    """Share of a convolution's input and output that its workspace takes: least squares of the relative errors."""

    def squares(share: float) -> float:
        tried = replace(profile, convolution_workspace_share=share)
        return float(np.sum(np.square(errors_of(measured, data, tried).relative)))

    best = _smallest(squares, 0.0, MOST_SHARE)
    old = profile.convolution_workspace_share
    return best if squares(best) < WORTH * squares(old) else old


def _predicted(measured: Sequence[Measured], data: DataSizes, profile: DeviceProfile) -> list[int]:
    predictor = Predictor(data, profile)
    return [predictor.allocated_bytes(each.config, each.plan) for each in measured]


def _smallest(function: Callable[[float], float], low: float, high: float) -> float:
    """Minimum of a function of one number: a grid search, then finer grids around the best point."""
    best = low
    for _ in range(4):
        points = np.linspace(low, high, 17)
        best = float(points[int(np.argmin([function(float(point)) for point in points]))])
        step = (high - low) / 16
        low, high = max(low, best - step), min(high, best + step)
    return round(best, 4)
