"""A finished detector: an ensemble of trained models with their density models, calibrated on held-out normal clips.

A detector's folder::

    DIR/
      detector.json     front end, normalisation, machine ids, calibration, how it was made
      member-0.pt …     one a seed: configuration, weights, density state; loaded with weights_only=True

It scores one recording at a time, so that a stream of any length needs the memory of one.

B clips, P patches, F = 64 mel bins, T frames, H = 8 frequency rows, W = 8 columns in time.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainable.config import DensityName, FrontEndConfig, TrialConfig
from trainable.data.clips import Split, TestClips
from trainable.data.normalise import NormStats
from trainable.data.patches import PATCH_FRAMES, patch_starts
from trainable.data.readers import read_features
from trainable.errors import CheckpointError, DataError
from trainable.plan import ExecutionPlan
from trainable.scoring.codes import ClipCodes
from trainable.scoring.density import DensityModel, PositionModel
from trainable.scoring.registry import density_from_state, make_density
from trainable.training.encode import encode_clips
from trainable.training.seeds import derived_seed
from trainable.training.state import TrainState, make_state
from trainable.trial import Trial

FORMAT = 1
MAP_DENSITY: DensityName = "grid_neighbours"
"""Says where a clip is surprising when the configured density model scores whole clips only."""
CELL_FRAMES = 8
"""Frames of a column of the code grid."""
_ID_IN_NAME = re.compile(r"(?:^|_)id_([0-9A-Za-z]+)(?:_|\.|$)")


@dataclass(frozen=True)
class ClipScore:
    """What a detector says of one recording."""

    machine_id: str
    """Whose normal sound it was compared with."""
    score: float
    """Mean of the members' scores in standard deviations of held-out normal clips; higher = more anomalous."""
    p_value: float
    """Share of held-out normal clips, itself counted among them, that score at least as high: 1/(n + 1) … 1."""
    span_seconds: tuple[float, float]
    """Begin and end of the most surprising stretch."""


@dataclass(frozen=True)
class Calibration:
    """Scores of normal clips that no member was trained on."""

    centres_M: tuple[float, ...]
    """Mean score of each member."""
    scales_M: tuple[float, ...]
    scores: tuple[float, ...]
    """Ensemble scores, ascending."""

    def standardise(self, raw_M: Sequence[float]) -> float:
        """The ensemble's score of the members' scores."""
        return float(np.mean([(r - c) / s for r, c, s in zip(raw_M, self.centres_M, self.scales_M, strict=True)]))

    def p_value(self, score: float) -> float:
        """Conformal p-value (Vovk et al. 2005): valid if the clip is as normal as the calibration clips.

        Exact for one member; with several, their centres and scales are estimated from the same clips.
        """
        at_least = len(self.scores) - int(np.searchsorted(self.scores, score, side="left"))
        return (1 + at_least) / (1 + len(self.scores))


class Member:
    """One trained model with its fitted density models."""

    def __init__(self, state: TrainState, density: DensityModel, surprise: PositionModel, n_ids: int):
        self.state = state
        self.density = density
        self.surprise = surprise
        self.n_ids = n_ids
        state.model.eval()

    @property
    def config(self) -> TrialConfig:
        return self.state.config

    @classmethod
    def of_trial(cls, trial: Trial) -> "Member":
        """The model of a trial as it stands, with density models fitted to its training clips."""
        codes, codebook = trial.train_codes(), trial.codebook()
        seed = derived_seed(trial.config.seed, "density")
        density = make_density(trial.config.score, seed=seed).fit(codes, codebook)
        surprise = density
        if not isinstance(surprise, PositionModel):
            surprise = make_density(trial.config.score, name=MAP_DENSITY, seed=seed).fit(codes, codebook)
        assert isinstance(surprise, PositionModel)
        return cls(trial.trainer.state, density, surprise, len(trial.dataset.ids))

    def codes(self, frames_TF: Tensor, offsets: np.ndarray, ids: tuple[str, ...]) -> ClipCodes:
        """Codes of normalised clips that lie back to back."""
        config = self.config
        starts_BP = patch_starts(
            offsets,
            torch.arange(len(offsets) - 1),
            n_patches=config.score.score_patches or config.patch.n_patches,
            stride=config.patch.stride,
            generator=None,
        )
        plan = ExecutionPlan(micro_batch_clips=8)
        encoded = encode_clips(self.state, frames_TF.to(self.state.device), starts_BP, plan)
        relative_BP = starts_BP - torch.from_numpy(offsets[:-1].copy())[:, None]
        return ClipCodes(encoded.codes_BPHW, relative_BP, ids, Split.HELD_OUT)

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "config": self.config.flat(),
            "n_ids": self.n_ids,
            "model": {name: value.cpu() for name, value in self.state.model.state_dict().items()},
            "density": self.density.state(),
            "surprise": None if self.surprise is self.density else self.surprise.state(),
        }

    @classmethod
    def from_plain(cls, values: dict[str, Any], device: torch.device) -> "Member":
        """The inverse of `to_plain`. Raises CheckpointError if the values are no member's."""
        try:
            state = make_state(TrialConfig.from_flat(values["config"]), int(values["n_ids"]), device)
            state.model.load_state_dict(values["model"])
            density = density_from_state(values["density"])
            surprise = density if values["surprise"] is None else density_from_state(values["surprise"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"this is no member of a detector: {error}") from None
        if not isinstance(surprise, PositionModel):
            raise CheckpointError(f"{surprise.name} cannot say where a clip is surprising; the detector is damaged")
        return cls(state, density, surprise, int(values["n_ids"]))


@dataclass(frozen=True)
class Detector:
    """Scores recordings of one machine type."""

    machine_type: str
    ids: tuple[str, ...]
    front_end: FrontEndConfig
    norm: NormStats
    members: tuple[Member, ...]
    calibration: dict[str, Calibration]
    """By machine id."""
    made: dict[str, Any]
    """How it was made and what it is worth, for readers: plain JSON values."""

    def score_file(self, path: Path, machine_id: str | None = None) -> ClipScore:
        """The score of one recording (``.wav`` or ``.npy``).

        Raises
        ------
        DataError
            If the file is unusable, or nobody says which machine it is of: not `machine_id`, not its name
            (``…_id_NN_…``), and the detector knows several.
        """
        chosen = machine_id or self._id_of(path.name)
        return self.score_features(read_features(path, self.front_end), chosen)

    def _id_of(self, name: str) -> str:
        match = _ID_IN_NAME.search(name)
        if match is not None:
            return match[1]
        if len(self.ids) == 1:
            return self.ids[0]
        raise DataError(f"{name}: its name holds no id_NN; say with --machine-id which of {', '.join(self.ids)} it is")

    def score_features(self, features_TF: np.ndarray, machine_id: str) -> ClipScore:
        """The score of one clip's log-mel features before normalisation, float32 (T, 64), T ≥ 64."""
        if machine_id not in self.calibration:
            raise DataError(f"the detector does not know machine id {machine_id}; it knows {', '.join(self.ids)}")
        frames_TF = torch.from_numpy(self.norm.apply(features_TF))
        offsets = np.array([0, len(frames_TF)], dtype=np.int64)
        raw, maps = [], []
        for member in self.members:
            codes = member.codes(frames_TF, offsets, (machine_id,))
            raw.append(float(member.density.score_samples(codes)[0]))
            surprise_PHW = member.surprise.position_scores(codes)[0].numpy()
            maps.append(frame_surprise(surprise_PHW, codes.starts_BP[0].numpy(), len(frames_TF)))
        calibration = self.calibration[machine_id]
        score = calibration.standardise(raw)
        # Each member's map in its own unit, so that none outshouts the others.
        mean_T = np.mean([m / max(float(np.nanmean(m)), 1e-12) for m in maps], axis=0)
        seconds = self.front_end.hop_length / self.front_end.sample_rate
        begin, end = most_surprising(mean_T)
        return ClipScore(machine_id, score, calibration.p_value(score), (begin * seconds, end * seconds))

    def score_clips(self, clips: TestClips) -> np.ndarray:
        """Ensemble scores of normalised clips, float64 (clips,): for evaluation."""
        raw_MB = raw_scores(self.members, clips)
        return np.array(
            [
                self.calibration[machine_id].standardise(raw_MB[:, index].tolist())
                for index, machine_id in enumerate(clips.machine_ids)
            ]
        )

    def save(self, folder: Path) -> None:
        """Writes the detector; `detector.json` comes last, so that a folder with it is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        digests = []
        for index, member in enumerate(self.members):
            buffer = io.BytesIO()
            torch.save(member.to_plain(), buffer)
            _write(folder / f"member-{index}.pt", buffer.getvalue())
            digests.append(hashlib.sha256(buffer.getvalue()).hexdigest())
        content = {
            "format": FORMAT,
            "machine_type": self.machine_type,
            "ids": list(self.ids),
            "front_end": asdict(self.front_end),
            "norm": {"mean": self.norm.mean_F.tolist(), "std": self.norm.std_F.tolist()},
            "members": digests,
            "calibration": {machine_id: asdict(entry) for machine_id, entry in self.calibration.items()},
            "made": self.made,
        }
        _write(folder / "detector.json", json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> "Detector":
        """Raises CheckpointError if the folder holds no detector or a damaged one."""
        path = folder / "detector.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise CheckpointError(f"{path} has the format {content['format']}; this version reads {FORMAT}")
            members = tuple(
                Member.from_plain(_read_member(folder / f"member-{index}.pt", digest), torch.device(device))
                for index, digest in enumerate(content["members"])
            )
            norm = NormStats(*(np.asarray(content["norm"][name], dtype=np.float32) for name in ("mean", "std")))
            calibration = {
                machine_id: Calibration(**{name: tuple(values) for name, values in entry.items()})
                for machine_id, entry in content["calibration"].items()
            }
            return cls(
                content["machine_type"],
                tuple(content["ids"]),
                FrontEndConfig(**content["front_end"]),
                norm,
                members,
                calibration,
                content["made"],
            )
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error.strerror}); --model names a detector's folder"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not the description of a detector: {error!r}") from None


def build_detector(
    trials: Sequence[Trial], calibration: TestClips, front_end: FrontEndConfig, *, made: dict[str, Any]
) -> Detector:
    """A detector of trained trials (one a seed), calibrated on the normal clips of a labelled set.

    Raises DataError if a machine id has fewer than two normal clips to calibrate with.
    """
    members = tuple(Member.of_trial(trial) for trial in trials)
    raw_MB = raw_scores(members, calibration)
    ids = np.array(calibration.machine_ids)
    entries = {}
    dataset = trials[0].dataset
    for machine_id in dataset.ids:
        mine = raw_MB[:, (ids == machine_id) & (calibration.labels == 0)]
        if mine.shape[1] < 2:
            raise DataError(f"machine id {machine_id} has {mine.shape[1]} held-out normal clips; calibration needs two")
        centres, scales = mine.mean(axis=1), np.maximum(mine.std(axis=1), 1e-12)
        scores = np.sort(((mine - centres[:, None]) / scales[:, None]).mean(axis=0))
        entries[machine_id] = Calibration(tuple(centres.tolist()), tuple(scales.tolist()), tuple(scores.tolist()))
    return Detector(dataset.machine_type, dataset.ids, front_end, dataset.norm, members, entries, made)


def raw_scores(members: Sequence[Member], clips: TestClips) -> np.ndarray:
    """Each member's own scores, float64 (members, clips)."""
    frames_TF = torch.from_numpy(clips.frames_TF)
    return np.stack(
        [member.density.score_samples(member.codes(frames_TF, clips.offsets, clips.machine_ids)) for member in members]
    )


def frame_surprise(surprise_PHW: np.ndarray, starts_P: np.ndarray, n_frames: int) -> np.ndarray:
    """Surprise of each frame, summed over frequency and averaged over the patches that hold it, (T,); NaN outside."""
    total, count = np.zeros(n_frames), np.zeros(n_frames)
    for surprise_HW, start in zip(surprise_PHW, starts_P.tolist(), strict=True):
        total[start : start + PATCH_FRAMES] += np.repeat(surprise_HW.sum(axis=0), CELL_FRAMES)
        count[start : start + PATCH_FRAMES] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def most_surprising(surprise_T: np.ndarray) -> tuple[int, int]:
    """First frame of the most surprising stretch and the frame after it.

    The stretch holds the peak and reaches as far as the surprise stays above the middle between median and peak.
    """
    peak = int(np.nanargmax(surprise_T))
    threshold = (float(np.nanmedian(surprise_T)) + float(surprise_T[peak])) / 2
    below = np.flatnonzero(~(surprise_T >= threshold))  # NaN counts as below
    before, after = below[below < peak], below[below > peak]
    begin = int(before[-1]) + 1 if len(before) else 0
    return begin, int(after[0]) if len(after) else len(surprise_T)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read_member(path: Path, digest: str) -> dict[str, Any]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one in detector.json")
    try:
        values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error type of its own
        raise CheckpointError(f"{path} cannot be loaded: {(str(error).splitlines() or [''])[0]}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is no member of a detector")
    return values
