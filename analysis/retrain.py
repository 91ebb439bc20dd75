"""Retrains a detector's members on all normal clips that calibration can spare: one configuration with several seeds,
or the best pairs of configuration and density model, as after a search without anomalies.

Where clips are labelled, validation normals and those that were held back join the training clips, because the choices
they served are made; held-out normals stay out, since p-values need clips that no model has seen. Where none is
labelled, the held-back clips are the only ones that can calibrate, so training sees what it saw in the search. Training
takes the trial's schedule and stops where the trial did, because no labelled clip is left to choose an epoch. On a GPU
it keeps to the run's memory budget as the search does: with a memory cap, a plan that fits, and smaller plans to fall
back to.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from analysis.results import RunResults
from trainable.config import DataConfig, DensityName, TrialConfig
from trainable.data.clips import ClipSet, Split, TestClips, TrainClips, offsets_of
from trainable.data.load import Dataset
from trainable.detection.detector import Detector, Member, build_detector
from trainable.device.cap import ProcessCap, cap_process_memory, expandable_segments_work, gpu_name
from trainable.device.out_of_memory import is_out_of_memory
from trainable.errors import BudgetError, NonFiniteError, RunError
from trainable.execution_plan import PlanRequest, micro_batch_of, today
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.normal_only.ranking import choose_members
from trainable.scoring.evaluate import Evaluation, evaluate
from trainable.trial import PlannedTrial, Trial

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MemberPlan:
    """One member of a detector: a trial's configuration with a seed and a density model."""

    trial: int
    density: DensityName
    seed_offset: int = 0
    """Added to the trial's seed."""


@dataclasses.dataclass(frozen=True)
class Retrained:
    """A detector and what is known of how well it detects."""

    detector: Detector
    held_out: Evaluation | None
    """None where no clip is labelled."""
    pseudo_aucs: dict[str, float]
    """AUC of each family of pseudo-anomalies; empty where held-back clips joined the training clips."""


def with_seeds(run: RunResults, number: int, seeds: int) -> list[MemberPlan]:
    """One trial's configuration and density model with several seeds."""
    return [MemberPlan(number, run.records[number].start.config.score.density, index) for index in range(seeds)]


def best_pairs(run: RunResults, count: int, seeds: int) -> list[MemberPlan]:
    """The best pairs of a trial and a density model. Raises RunError if there is none."""
    pairs = choose_members(run.records.values(), count)
    if not pairs:
        raise RunError(f"no trial of {run.folder.path} has completed; search more, or name one with --trial")
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
) -> Retrained:
    """Trains the members and combines them into a detector; members of one trial and seed share a training.

    Parameters
    ----------
    log
        Called with one line per training and epoch.

    Raises
    ------
    RunError
        If a training diverges.
    BudgetError
        If no plan fits the run's memory budget, or the device runs out of memory under the smallest one.
    """
    labelled = dataset.labelled
    full = dataclasses.replace(dataset, train=all_normal_clips(dataset)) if labelled else dataset
    calibration = dataset.held_out if labelled or dataset.pseudo is None else dataset.pseudo.normal
    trainings = list(dict.fromkeys((plan.trial, plan.seed_offset) for plan in plans))
    members: list[Member] = []
    for index, (number, offset) in enumerate(trainings, start=1):
        log(f"training {index} of {len(trainings)}: trial {number}")
        trial = _trained(run, number, offset, full, device=device, log=log)
        densities = [plan.density for plan in plans if (plan.trial, plan.seed_offset) == (number, offset)]
        members += [Member.of_trial(trial, density) for density in densities]
    detector = build_detector(members, full, calibration, DataConfig.from_dict(run.manifest.data).front_end)
    held_out = evaluate(detector.score_clips(dataset.held_out), dataset.held_out) if labelled else None
    pseudo_aucs = {}
    if not labelled and dataset.pseudo is not None:
        pseudo_aucs = dataset.pseudo.aucs(detector.score_clips(dataset.pseudo.clips))
    made = {
        "run": run.manifest.name,
        "trial": plans[0].trial,
        "members": [dataclasses.asdict(plan) for plan in plans],
        "epochs": [int(run.ranked["epochs"].loc[plan.trial]) for plan in plans],
        "seeds": [member.config.seed for member in members],
        "training_clips": len(full.train),
        "calibration_clips": int((calibration.labels == 0).sum()),
        "data_digest": dataset.digest,
        "held_out_auc": None if held_out is None else held_out.auc,
        "held_out_pauc": None if held_out is None else held_out.pauc,
        "held_out_interval": None if held_out is None else list(held_out.interval),
        "pseudo_aucs": pseudo_aucs,
        "seconds_per_clip": _seconds_per_clip(detector, calibration),
        "weights_bytes": sum(value.nbytes for each in members for value in each.state.model.state_dict().values()),
    }
    return Retrained(dataclasses.replace(detector, made=detector.made | made), held_out, pseudo_aucs)


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


TIMED_CLIPS = 5


def _seconds_per_clip(detector: Detector, clips: TestClips) -> float:
    """Median time to score one of some clips, alone, as `trainable.score` does."""
    seconds = []
    for index in range(min(TIMED_CLIPS, len(clips))):
        features_TF = clips.clip(index) * detector.norm.std_F + detector.norm.mean_F
        begin = time.perf_counter()
        detector.score_features(features_TF, clips.machine_ids[index])
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


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
