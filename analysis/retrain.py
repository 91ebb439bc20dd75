"""Retrains a detector's members on all normal clips that calibration can spare: one configuration with several seeds,
or the best pairs of configuration and density model.

Where clips are labelled, validation normals and those that were held back join the training clips, because the choices
they served are made; held-out normals stay out, since p-values need clips that no model has seen. Where none is
labelled, the held-back clips are the only ones that can calibrate, so training sees what it saw in the search. Training
takes the trial's schedule and stops where the trial did, because no labelled clip is left to choose an epoch. On a GPU
it keeps to the run's memory budget as the search does: with a memory cap, a plan that fits, and smaller plans to fall
back to.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence

import numpy as np

from analysis.results import RunResults
from trainable.config import DataConfig, TrialConfig
from trainable.data.clips import ClipSet, Split, TrainClips, offsets_of
from trainable.data.load import Dataset
from trainable.detection.alarm import AlarmRate
from trainable.detection.detector import Member
from trainable.detection.finish import Finished, MemberPlan, finish
from trainable.detection.ranking import choose_members
from trainable.device.cap import ProcessCap, cap_process_memory, expandable_segments_work, gpu_name
from trainable.device.out_of_memory import is_out_of_memory
from trainable.errors import BudgetError, NonFiniteError, RunError
from trainable.execution_plan import PlanRequest, micro_batch_of, today
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.trial import PlannedTrial, Trial

_log = logging.getLogger(__name__)


def with_seeds(run: RunResults, number: int, seeds: int) -> list[MemberPlan]:
    """One trial's configuration and density model with several seeds."""
    return [MemberPlan(number, run.records[number].start.config.score.density, index) for index in range(seeds)]


def best_pairs(run: RunResults, count: int, seeds: int) -> list[MemberPlan]:
    """The best pairs of a trial and a density model. Raises RunError if there is none."""
    pairs = choose_members(run.records.values(), count)
    if not pairs:
        raise RunError(f"no trial of {run.folder.path} has trained long enough; search more, or name one with --trial")
    return [MemberPlan(pair.trial, pair.density, index) for pair in pairs for index in range(seeds)]


def all_normal_clips(dataset: Dataset) -> TrainClips:
    """Joins the training clips with the normal validation clips and those that were held back."""
    validation = dataset.validation
    normal = [validation.take(np.flatnonzero(validation.labels == 0))]
    parts: list[ClipSet] = [dataset.train, *normal, *([] if dataset.pseudo is None else [dataset.pseudo.normal])]
    return TrainClips(
        np.concatenate([part.frames_TF for part in parts]),
        offsets_of(np.concatenate([part.lengths for part in parts])),
        tuple(each for part in parts for each in part.machine_ids),
        tuple(each for part in parts for each in part.names),
        Split.TRAIN,
    )


def retrain(
    run: RunResults,
    plans: Sequence[MemberPlan],
    dataset: Dataset,
    *,
    device: str = "cpu",
    log: Callable[[str], None] = _log.info,
    alarm_rate: AlarmRate | None = None,
) -> Finished:
    """Trains the members and combines them into a detector; pairs of one trial and seed share a training.

    Parameters
    ----------
    log
        Called with one line per training and epoch.
    alarm_rate
        False alarms that the detector may raise; None = `trainable.detection.alarm.DEFAULT_ALARM_RATE`.

    Raises
    ------
    RunError
        If a training diverges.
    BudgetError
        If no plan fits the run's memory budget, or the device runs out of memory under the smallest one.
    """
    # Validation clips of a data set without labels are none; those that were held back must calibrate.
    full = dataclasses.replace(dataset, train=all_normal_clips(dataset)) if dataset.labelled else dataset
    by_training: dict[tuple[int, int], list[MemberPlan]] = {}
    for plan in plans:
        by_training.setdefault((plan.trial, plan.seed_offset), []).append(plan)
    members: list[Member] = []
    for index, ((number, offset), pairs) in enumerate(by_training.items(), start=1):
        log(f"training {index} of {len(by_training)}: trial {number}")
        trial = _trained(run, number, offset, full, device=device, log=log)
        members.append(Member.of_trial(trial, [pair.density for pair in pairs]))
    ordered = [pair for pairs in by_training.values() for pair in pairs]
    return finish(
        members,
        ordered,
        full,
        DataConfig.from_dict(run.manifest.data).front_end,
        run=run.manifest.name,
        epochs=[int(run.ranked["epochs"].loc[plan.trial]) for plan in ordered],
        alarm_rate=alarm_rate,
    )


def _trained(
    run: RunResults, number: int, seed_offset: int, dataset: Dataset, *, device: str, log: Callable[[str], None]
) -> Trial:
    """A trial's configuration, trained for as many epochs as the trial was."""
    base = run.records[number].start.config
    config = base.replace(seed=(base.seed + seed_offset) % 2**31)
    epochs = int(run.ranked["epochs"].loc[number])
    planner, cap = (None, None) if device == "cpu" else _planner(run, dataset, base, device)
    trial = _trial(config, dataset, planner, cap, device)
    try:
        while trial.epoch < epochs:
            losses = trial.trainer.train_epoch()
            log(f"epoch {trial.epoch}/{epochs}  loss {losses.total:.4f}")
    except NonFiniteError as error:
        raise RunError(f"retraining with seed {config.seed} diverged ({error}); try another trial") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise BudgetError(
            f"retraining with seed {config.seed} ran out of memory and no smaller plan exists; "
            "retrain on the CPU, or another trial"
        ) from None
    return trial


def _planner(run: RunResults, dataset: Dataset, config: TrialConfig, device: str) -> tuple[Planner, ProcessCap | None]:
    """Returns a planner for the training clips with the run's budget, flags and profile, and this process's cap."""
    options, budget_bytes = today(run.manifest.options), run.manifest.gpu_memory_budget_bytes
    steps, saved = options.get("gradient_accumulation_steps"), options.get("profile")
    micro = None if steps is None else micro_batch_of(config.patch.batch_size, steps)
    request = PlanRequest.of_options(options, micro_batch_clips=micro)
    profile = DeviceProfile.for_gpu(gpu_name(device)) if saved is None else DeviceProfile.from_dict(saved)
    profile = profile.with_segments(expandable_segments_work(device))
    cap = cap_process_memory(budget_bytes, device, profile.outside_bytes, profile.amp_precision)
    return Planner.for_dataset(dataset, budget_bytes=budget_bytes, request=request, profile=profile), cap


def _trial(
    config: TrialConfig, dataset: Dataset, planner: Planner | None, cap: ProcessCap | None, device: str
) -> Trial:
    """Returns a trial under the fastest plan that fits. Raises BudgetError if none does."""
    if planner is None:
        return Trial(PlannedTrial.whole_batch(config), dataset, device=device)
    memory = planner.plan(config)
    if not memory.fits:
        raise BudgetError(f"{memory.reason}; retrain on the CPU, or another trial")
    return Trial(PlannedTrial(config, memory, planner, cap), dataset, device=device)
