"""A device profile corrected by the peaks that a run's trials measured: ``python -m search.plan --recalibrate RUN``."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from trainable.config import DataConfig, TrialConfig
from trainable.data.load import load_dataset
from trainable.errors import RunError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.calibrate import Measured, errors_of, recalibrated
from trainable.memory.key import peak_phases
from trainable.memory.predict import DataSizes
from trainable.memory.profile import DeviceProfile
from trainable.record import RunFolder, TrialRecord


def recalibrate(console: Console, run: Path, profile: DeviceProfile | None, output: Path | None) -> DeviceProfile:
    """Prints how far predictions were from the peaks of a run before and after, and saves the corrected profile.

    Parameters
    ----------
    profile
        To start from; None = the run's own (named when it began), or the built-in one.

    Raises
    ------
    RunError
        If the folder is no run, or its trials measured nothing.
    """
    folder = RunFolder(run)
    manifest = folder.read_manifest()
    if profile is None:
        saved = manifest.options.get("profile")
        profile = DeviceProfile() if saved is None else DeviceProfile.from_dict(saved)
    measured = [peak for record in folder.read_trials() for peak in peaks_of(record)]
    if not measured:
        raise RunError(f"{run}: no trial measured a peak; trials on a CPU measure none")
    data = DataSizes.of(load_dataset(DataConfig.from_dict(manifest.data)))
    corrected = recalibrated(profile, measured, data)
    console.print(f"{len(measured)} measured peaks of {run}; error of what the allocator was predicted to hold:")
    for word, which in (("before", profile), ("after", corrected)):
        errors = errors_of(measured, data, which)
        console.print(
            f"  {word:6}  median {errors.median:.1%}, worst {errors.worst:.1%}; margin {which.margin_share:.1%}, "
            f"{errors.above_margin} peaks above it; workspace share {which.convolution_workspace_share:.2f}"
        )
    if output is not None:
        corrected.save(output)
        console.print(f"saved as {output}; plan with it: --profile {output}")
    return corrected


def peaks_of(record: TrialRecord) -> Iterator[Measured]:
    """The highest peak of a trial under each of its plans.

    Plans under which the trial did not reach every phase that may hold its peak are left out. So are epochs that
    recovered from running out of memory: they tell of two plans, or of part of an epoch.
    """
    config = TrialConfig.from_flat(record.start.config)
    measured = [epoch for epoch in record.epochs if epoch.peak_bytes > 0 and not epoch.events]
    highest: dict[ExecutionPlan, dict[int, int]] = {}
    for epoch in measured:
        by_phase = highest.setdefault(ExecutionPlan.from_dict(epoch.plan), {})
        by_phase[epoch.phase] = max(by_phase.get(epoch.phase, 0), epoch.peak_bytes)
    phases = peak_phases(config.phase)
    for plan, by_phase in highest.items():
        if by_phase.keys() >= set(phases):
            yield Measured(config, plan, max(by_phase[phase] for phase in phases))
