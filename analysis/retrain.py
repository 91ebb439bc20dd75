"""Retrains the winner with several seeds, on all normal clips that calibration can spare, into a detector.

Validation normals join the training clips, because the choice they served is made. Held-out normals stay out: p-values
need clips that no model has seen. Training takes the winner's schedule and stops where the winner did, because no
labelled clip is left to choose an epoch. On a GPU it keeps to the run's memory budget as the search does: with a
memory cap, a plan that fits, and smaller plans to fall back to.
"""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np

from analysis.results import RunResults
from trainable.config import DataConfig, TrialConfig
from trainable.data.clips import ClipSet, Split, TrainClips
from trainable.data.load import Dataset
from trainable.detection.detector import Detector, build_detector
from trainable.device.cap import ProcessCap, cap_process_memory, expandable_segments_work, gpu_name
from trainable.device.out_of_memory import is_out_of_memory
from trainable.errors import BudgetError, NonFiniteError, RunError
from trainable.execution_plan import PlanRequest, micro_batch_of, today
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.scoring.evaluate import Evaluation, evaluate
from trainable.trial import PlannedTrial, Trial

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Retrained:
    """A detector and its evaluation on held-out clips."""

    detector: Detector
    held_out: Evaluation


def all_normal_clips(dataset: Dataset) -> TrainClips:
    """Joins the training clips and the normal validation clips into one training set."""
    normal = np.flatnonzero(dataset.validation.labels == 0).tolist()
    parts: list[ClipSet] = [dataset.train]
    frames = [dataset.train.frames_TF]
    lengths = dataset.train.lengths.tolist()
    for index in normal:
        begin, end = dataset.validation.offsets[index : index + 2]
        frames.append(dataset.validation.frames_TF[begin:end])
        lengths.append(int(end - begin))
    ids = [*parts[0].machine_ids, *(dataset.validation.machine_ids[index] for index in normal)]
    names = [*parts[0].names, *(dataset.validation.names[index] for index in normal)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return TrainClips(np.concatenate(frames), offsets, tuple(ids), tuple(names), Split.TRAIN)


def retrain(
    run: RunResults,
    number: int,
    dataset: Dataset,
    *,
    seeds: int,
    device: str = "cpu",
    log: Callable[[str], None] = _log.info,
) -> Retrained:
    """Trains a trial's configuration with `seeds` seeds and combines them into a detector.

    Parameters
    ----------
    log
        Called with one line per epoch.

    Raises
    ------
    RunError
        If a training diverges.
    BudgetError
        If no plan fits the run's memory budget, or the device runs out of memory under the smallest one.
    """
    record = run.records[number]
    base = record.start.config
    epochs = int(run.ranked["epochs"].loc[number])
    full = dataclasses.replace(dataset, train=all_normal_clips(dataset))
    planner, cap = (None, None) if device == "cpu" else _planner(run, full, base, device)
    trials = []
    for index in range(seeds):
        config = base.replace(seed=(base.seed + index) % 2**31)
        trial = _trial(config, full, planner, cap, device)
        try:
            while trial.epoch < epochs:
                losses = trial.trainer.train_epoch()
                log(f"seed {index + 1}/{seeds}  epoch {trial.epoch}/{epochs}  loss {losses.total:.4f}")
        except NonFiniteError as error:
            raise RunError(f"retraining with seed {config.seed} diverged ({error}); try another trial") from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise BudgetError(
                f"retraining with seed {config.seed} ran out of memory and no smaller plan exists; "
                "retrain on the CPU, or another trial"
            ) from None
        trials.append(trial)
    front_end = DataConfig.from_dict(run.manifest.data).front_end
    detector = build_detector(trials, dataset.held_out, front_end, made={})
    held_out = evaluate(detector.score_clips(dataset.held_out), dataset.held_out)
    made = {
        "run": run.manifest.name,
        "trial": number,
        "epochs": epochs,
        "seeds": [trial.config.seed for trial in trials],
        "training_clips": len(full.train),
        "calibration_clips": int((dataset.held_out.labels == 0).sum()),
        "data_digest": dataset.digest,
        "held_out_auc": held_out.auc,
        "held_out_pauc": held_out.pauc,
        "held_out_interval": list(held_out.interval),
    }
    return Retrained(dataclasses.replace(detector, made=made), held_out)


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
