"""The last step to a detector: calibrates trained models, evaluates them together, and records how they were made."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from trainable.config import DensityName, FrontEndConfig
from trainable.data.clips import TestClips
from trainable.data.load import Dataset
from trainable.detection.alarm import AlarmRate
from trainable.detection.detector import Detector, Member, build_detector
from trainable.scoring.evaluate import Evaluation, evaluate

TIMED_CLIPS = 5


@dataclass(frozen=True)
class MemberPlan:
    """One pair that a detector averages: a trial's configuration with a seed, and a density model."""

    trial: int
    density: DensityName
    seed_offset: int = 0
    """Added to the trial's seed."""


@dataclass(frozen=True)
class Finished:
    """A detector and what is known of how well it detects."""

    detector: Detector
    held_out: Evaluation | None
    """None where no clip is labelled."""
    pseudo_aucs: dict[str, float]
    """AUC of each family of pseudo-anomalies; empty where labels judge the detector."""


def finish(
    members: Sequence[Member],
    plans: Sequence[MemberPlan],
    dataset: Dataset,
    front_end: FrontEndConfig,
    *,
    run: str,
    epochs: Sequence[int],
    alarm_rate: AlarmRate | None = None,
) -> Finished:
    """A detector of trained members.

    Its p-values come from held-out normal clips, or from those that were held back where none is labelled: no member
    was trained on either.

    Parameters
    ----------
    plans
        What the members are: every pair, in the order of the members and their density models.
    epochs
        Epochs that each pair's model was trained for.
    alarm_rate
        False alarms that the detector may raise; None = `trainable.detection.alarm.DEFAULT_ALARM_RATE`.

    Raises
    ------
    DataError
        If a machine id has too few normal clips to calibrate with.
    """
    labelled = dataset.labelled
    calibration = dataset.held_out if labelled or dataset.pseudo is None else dataset.pseudo.normal
    detector = build_detector(members, dataset, calibration, front_end, alarm_rate)
    held_out = evaluate(detector.score_clips(dataset.held_out), dataset.held_out) if labelled else None
    pseudo_aucs = {}
    if not labelled and dataset.pseudo is not None:
        pseudo_aucs = dataset.pseudo.aucs(detector.score_clips(dataset.pseudo.clips))
    made = {
        "run": run,
        "trial": plans[0].trial,
        "members": [asdict(plan) for plan in plans],
        "epochs": list(epochs),
        "seeds": [member.config.seed for member in members for _ in member.densities],
        "training_clips": len(dataset.train),
        "calibration_clips": int((calibration.labels == 0).sum()),
        "calibration_hours": float(calibration.lengths[calibration.labels == 0].sum())
        * detector.seconds_per_frame
        / 3600.0,
        "least_false_alarms_per_hour": {name: each.least_per_hour for name, each in detector.promises.items()},
        "data_digest": dataset.digest,
        "held_out_auc": None if held_out is None else held_out.auc,
        "held_out_pauc": None if held_out is None else held_out.pauc,
        "held_out_interval": None if held_out is None else list(held_out.interval),
        "held_out_clips": None if held_out is None else held_out.clips.to_dict(),
        "pseudo_aucs": pseudo_aucs,
        "seconds_per_clip": _seconds_per_clip(detector, calibration),
        "weights_bytes": sum(value.nbytes for each in members for value in each.state.model.state_dict().values()),
    }
    return Finished(replace(detector, made=detector.made | made), held_out, pseudo_aucs)


def _seconds_per_clip(detector: Detector, clips: TestClips) -> float:
    """Median time to score one of some clips, alone, as `trainable.score` does."""
    seconds = []
    for index in range(min(TIMED_CLIPS, len(clips))):
        features_TF = clips.clip(index) * detector.norm.std_F + detector.norm.mean_F
        begin = time.perf_counter()
        detector.score_features(features_TF, clips.machine_ids[index])
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))
