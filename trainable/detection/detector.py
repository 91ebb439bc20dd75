"""A finished detector: trained models, each with one density model or several, calibrated on unseen normal clips.

A detector's folder::

    DIR/
      detector.json     front end, normalisation, machine ids, calibration, how it was made
      member-0.pt …     configuration, weights, states of its density models; loaded with weights_only=True

It scores one recording at a time, so that a stream of any length needs the memory of one. A recording longer than the
training clips is scored in stretches of their length; its worst stretch decides.

M pairs of a model and a density model, B clips, P patches, F = 64 mel bins, T frames, H frequency rows and W columns in
time of the code grid.
"""

import hashlib
import io
import json
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
from trainable.data.load import Dataset
from trainable.data.normalise import NormStats
from trainable.data.npy import Axes
from trainable.data.patches import patch_starts
from trainable.data.readers import SHORTEST_FRAMES, lengthen, read_recording
from trainable.detection.stretches import CutClips, cut_clips, frame_surprise, most_surprising, stretches
from trainable.durable import write_bytes
from trainable.errors import CheckpointError, DataError
from trainable.execution_plan import ExecutionPlan
from trainable.scoring.codes import ClipCodes
from trainable.scoring.density import DensityModel, PositionModel
from trainable.scoring.registry import density_from_state, make_density
from trainable.training.encode import encode_clips
from trainable.training.seeds import derived_seed
from trainable.training.state import TrainState, make_state
from trainable.trial import Trial

FORMAT = 3
"""2: with the length of a stretch. A detector of format 1 silently scored only part of a long recording.
3: a model may have several density models."""
READ_FORMATS = (2, 3)
MAP_DENSITY: DensityName = "grid_neighbours"
"""Locates what is surprising in a clip when the configured density model scores whole clips only."""
ENOUGH_CLIPS = 19
"""Calibration clips of a machine id from which a p-value of 0.05 can be reached: 1/(n + 1)."""
_ID_IN_NAME = re.compile(r"(?:^|_)(?:id|section)_([0-9A-Za-z]+)(?:_|\.|$)")


@dataclass(frozen=True)
class ClipScore:
    """A detector's result for one recording."""

    machine_id: str
    """The machine id whose normal sound it was compared with."""
    score: float
    """Mean of the pairs' scores in standard deviations of the calibration clips; higher = more anomalous.

    A recording longer than a training clip gets the score of its highest stretch."""
    p_value: float
    """Share of calibration clips, counting the recording itself, that score at least as high: 1/(n + 1) … 1.

    A recording of m stretches gets Šidák's 1 − (1 − p)^m of its lowest p: one of many scores high by chance."""
    span_seconds: tuple[float, float]
    """Begin and end of the most surprising part, within the stretch that decided."""
    stretches: int = 1
    """Stretches that were scored."""


@dataclass(frozen=True)
class Calibration:
    """Scores of normal clips that no member was trained on."""

    centres_M: tuple[float, ...]
    """Mean score of each pair of a model and a density model."""
    scales_M: tuple[float, ...]
    scores: tuple[float, ...]
    """Ensemble scores of normal stretches (whole clips if none is longer than the training clips), ascending, each in
    centres and scales of the other clips; of all machine ids where this one has fewer than `ENOUGH_CLIPS`."""

    def standardise(self, raw_M: Sequence[float]) -> float:
        """The ensemble's score from the pairs' scores."""
        return float(np.mean([(r - c) / s for r, c, s in zip(raw_M, self.centres_M, self.scales_M, strict=True)]))

    def p_value(self, score: float, *, stretches: int = 1) -> float:
        """Conformal p-value (Vovk et al. 2005) of the highest score of some stretches, corrected for their number.

        Valid if the recording is as normal as the calibration clips and recorded as they were; exact for one member and
        one stretch. For several stretches, which sound similar, Šidák's correction (1967) is conservative.
        """
        at_least = len(self.scores) - int(np.searchsorted(self.scores, score, side="left"))
        p = (1 + at_least) / (1 + len(self.scores))
        return p if stretches == 1 else float(1.0 - (1.0 - p) ** stretches)


class Member:
    """One trained model with its fitted density models."""

    def __init__(self, state: TrainState, densities: Sequence[DensityModel], surprise: PositionModel, n_ids: int):
        self.state = state
        self.densities = tuple(densities)
        self.surprise = surprise
        self.n_ids = n_ids
        state.model.eval()

    @property
    def config(self) -> TrialConfig:
        return self.state.config

    @classmethod
    def of_trial(cls, trial: Trial, densities: Sequence[DensityName] = ()) -> "Member":
        """The trial's current model, with density models fitted to its training clips: those named, or its own."""
        codes, codebook = trial.train_codes(), trial.codebook()
        seed = derived_seed(trial.config.seed, "density")

        def fitted(name: DensityName) -> DensityModel:
            return make_density(trial.config.score, name=name, seed=seed).fit(codes, codebook)

        models = [fitted(name) for name in densities or (trial.config.score.density,)]
        surprise = next((model for model in models if isinstance(model, PositionModel)), None) or fitted(MAP_DENSITY)
        assert isinstance(surprise, PositionModel)
        return cls(trial.trainer.state, models, surprise, len(trial.dataset.ids))

    def scores(self, codes: ClipCodes) -> np.ndarray:
        """Each density model's scores, float64 (density models, clips)."""
        return np.stack([density.score_samples(codes) for density in self.densities])

    @property
    def _mapped(self) -> int | None:
        """Which of the density models locates what is surprising; None if it is one of its own."""
        return next((index for index, density in enumerate(self.densities) if density is self.surprise), None)

    def codes(self, frames_TF: Tensor, offsets: np.ndarray, ids: tuple[str, ...]) -> ClipCodes:
        """Codes of normalised clips that lie back to back."""
        config = self.config
        starts_BP = patch_starts(
            offsets,
            torch.arange(len(offsets) - 1),
            n_patches=config.score.score_patches or config.patch.n_patches,
            stride=config.patch.stride,
            patch_frames=self.state.geometry.patch_frames,
            generator=None,
        )
        plan = ExecutionPlan(micro_batch_clips=8)
        encoded = encode_clips(self.state, frames_TF.to(self.state.device), starts_BP, plan)
        relative_BP = starts_BP - torch.from_numpy(offsets[:-1].copy())[:, None]
        return ClipCodes(encoded.codes_BPHWM, relative_BP, ids, Split.HELD_OUT)

    def to_plain(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "config": self.config.flat(),
            "n_ids": self.n_ids,
            "model": {name: value.cpu() for name, value in self.state.model.state_dict().items()},
            "densities": [density.state() for density in self.densities],
            "surprise": None if self._mapped is not None else self.surprise.state(),
            "mapped": self._mapped,
        }

    @classmethod
    def from_plain(cls, values: dict[str, Any], device: torch.device) -> "Member":
        """The inverse of `to_plain`. Raises CheckpointError if the values do not describe a member."""
        try:
            state = make_state(TrialConfig.from_flat(values["config"]), int(values["n_ids"]), device)
            state.model.load_state_dict(values["model"])
            states = values["densities"] if "densities" in values else [values["density"]]  # format 2 had one
            densities = [density_from_state(state) for state in states]
            mapped = densities[values.get("mapped") or 0]
            surprise = mapped if values["surprise"] is None else density_from_state(values["surprise"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"this is not a member of a detector: {error}") from None
        if not isinstance(surprise, PositionModel):
            raise CheckpointError(f"{surprise.name} cannot say where a clip is surprising; the detector is damaged")
        return cls(state, densities, surprise, int(values["n_ids"]))


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
    """How it was made and how well it performs, for readers: plain JSON values."""
    stretch_frames: int
    """Frames of the longest training clip, the length of a stretch."""
    axes: Axes | None = None
    """How precomputed training features lay in their files; None if there were none."""

    def score_file(self, path: Path, machine_id: str | None = None) -> ClipScore:
        """The score of one recording, a sound file or precomputed features.

        Raises
        ------
        DataError
            If the file is unusable or shorter than a patch, or if neither `machine_id` nor its name (``…_id_NN_…``)
            says which machine it is from and the detector knows several.
        """
        if not path.is_file():
            raise DataError(f"{path}: {'is a folder; name a file' if path.is_dir() else 'does not exist'}")
        chosen = machine_id or self._id_of(path)
        if chosen not in self.calibration:
            raise DataError(f"{path}: {self._unknown(chosen)}")
        features_TF, _ = read_recording(path, self.front_end, self.axes)
        if len(features_TF) < self.shortest_frames < self.stretch_frames:
            # Repeated until it fills a patch, it would sound like no normal clip.
            seconds = [count * self.seconds_per_frame for count in (len(features_TF), self.shortest_frames)]
            raise DataError(
                f"{path}: lasts {len(features_TF)} frames ({seconds[0]:.2f} s); at least {self.shortest_frames} "
                f"({seconds[1]:.2f} s) can be compared with normal clips; record longer"
            )
        return self.score_features(lengthen(features_TF), chosen)

    def _id_of(self, path: Path) -> str:
        # In some layouts a folder names the machine.
        for name in (path.name, *(folder.name for folder in path.absolute().parents)):
            if (match := _ID_IN_NAME.search(name)) and (match[1] in self.ids or name == path.name):
                return match[1]
        if len(self.ids) == 1:
            return self.ids[0]
        raise DataError(
            f"{path}: neither its name nor its folder's holds an id_NN; give --machine-id, one of {', '.join(self.ids)}"
        )

    def _unknown(self, machine_id: str) -> str:
        return f"the detector does not know machine id {machine_id}; it knows {', '.join(self.ids)}"

    @property
    def shortest_frames(self) -> int:
        """Frames of the longest patch among the members; a shorter recording cannot fill it."""
        return max(SHORTEST_FRAMES, *(member.state.geometry.patch_frames for member in self.members))

    @property
    def seconds_per_frame(self) -> float:
        return self.front_end.hop_length / self.front_end.sample_rate

    def score_features(self, features_TF: np.ndarray, machine_id: str) -> ClipScore:
        """The score of a recording's log-mel features before normalisation, float32 (T, 64), T ≥ `shortest_frames`.

        One stretch is normalised and encoded at a time, whatever T is.
        """
        if machine_id not in self.calibration:
            raise DataError(self._unknown(machine_id))
        spans = stretches(len(features_TF), self.stretch_frames)
        best, surprise_T, first = -np.inf, np.empty(0), 0
        for begin, end in spans:
            score, mean_T = self._score_stretch(features_TF[begin:end], machine_id)
            if score > best:
                best, surprise_T, first = score, mean_T, begin
        span = most_surprising(surprise_T)
        return ClipScore(
            machine_id,
            best,
            self.calibration[machine_id].p_value(best, stretches=len(spans)),
            ((first + span[0]) * self.seconds_per_frame, (first + span[1]) * self.seconds_per_frame),
            len(spans),
        )

    def _score_stretch(self, features_TF: np.ndarray, machine_id: str) -> tuple[float, np.ndarray]:
        """Ensemble score of one stretch, and the surprise of its frames (T,)."""
        frames_TF = torch.from_numpy(self.norm.apply(features_TF))
        offsets = np.array([0, len(frames_TF)], dtype=np.int64)
        raw, maps = [], []
        for member in self.members:
            codes = member.codes(frames_TF, offsets, (machine_id,))
            raw += member.scores(codes)[:, 0].tolist()
            geometry = member.state.geometry
            surprise_PHW = member.surprise.position_scores(codes)[0].numpy()
            maps.append(frame_surprise(surprise_PHW, codes.starts_BP[0].numpy(), len(frames_TF), geometry))
        # Each member's map in its own unit, so that none dominates the others.
        mean_T = np.mean([m / max(float(np.nanmean(m)), 1e-12) for m in maps], axis=0)
        return self.calibration[machine_id].standardise(raw), mean_T

    def score_clips(self, clips: TestClips) -> np.ndarray:
        """Ensemble scores of normalised clips, float64 (clips,): for evaluation."""
        cut = cut_clips(clips, self.stretch_frames)
        raw_MS = raw_scores(self.members, cut)
        scores = np.full(len(clips), -np.inf)
        for index, (machine_id, owner) in enumerate(zip(cut.ids, cut.owners, strict=True)):
            scores[owner] = max(scores[owner], self.calibration[machine_id].standardise(raw_MS[:, index].tolist()))
        return scores

    def save(self, folder: Path) -> None:
        """Writes the detector; `detector.json` comes last, so that a folder that has it is complete."""
        folder.mkdir(parents=True, exist_ok=True)
        digests = []
        for index, member in enumerate(self.members):
            buffer = io.BytesIO()
            torch.save(member.to_plain(), buffer)
            write_bytes(folder / f"member-{index}.pt", buffer.getvalue())
            digests.append(hashlib.sha256(buffer.getvalue()).hexdigest())
        content = {
            "format": FORMAT,
            "machine_type": self.machine_type,
            "ids": list(self.ids),
            "stretch_frames": self.stretch_frames,
            "front_end": asdict(self.front_end),
            "axes": self.axes,
            "norm": {"mean": self.norm.mean_F.tolist(), "std": self.norm.std_F.tolist()},
            "members": digests,
            "calibration": {machine_id: asdict(entry) for machine_id, entry in self.calibration.items()},
            "made": self.made,
        }
        write_bytes(folder / "detector.json", json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, folder: Path, *, device: str = "cpu") -> "Detector":
        """Raises CheckpointError if the folder holds no detector or a damaged one."""
        path = folder / "detector.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] not in READ_FORMATS:
                raise CheckpointError(
                    f"{path} has the format {content['format']}; this version reads {READ_FORMATS}: make the detector "
                    "again with python -m analysis.best RUN --retrain"
                )
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
                FrontEndConfig(**{"channel": "mean", **content["front_end"]}),  # before there was a choice
                norm,
                members,
                calibration,
                content["made"],
                int(content["stretch_frames"]),
                None if (axes := content.get("axes", Axes.EACH_BY_SHAPE)) is None else Axes(axes),
            )
        except OSError as error:
            raise CheckpointError(
                f"{path} cannot be read ({error.strerror}); --model names a detector's folder"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} does not describe a detector: {error!r}") from None


def build_detector(
    members: Sequence[Member], dataset: Dataset, calibration: TestClips, front_end: FrontEndConfig
) -> Detector:
    """A detector of trained members, calibrated on the normal clips of some set that none of them was trained on.

    Raises DataError if a machine id has fewer than two normal clips to calibrate with.
    """
    stretch_frames = int(dataset.train.lengths.max())
    cut = cut_clips(calibration, stretch_frames)
    raw_MS, ids = raw_scores(members, cut), np.array(cut.ids)
    normal_S = calibration.labels[cut.owners] == 0
    found: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    few = []
    for machine_id in dataset.ids:
        mine = normal_S & (ids == machine_id)
        if (clips := len(set(cut.owners[mine].tolist()))) < 2:
            raise DataError(f"machine id {machine_id} has {clips} normal clips to calibrate with; it needs two")
        found[machine_id] = calibrated(raw_MS[:, mine], cut.owners[mine])
        few += [machine_id] if clips < ENOUGH_CLIPS else []
    pooled = np.concatenate([scores for _, _, scores in found.values()])
    entries = {
        machine_id: Calibration(
            tuple(centres.tolist()),
            tuple(scales.tolist()),
            tuple(np.sort(pooled if machine_id in few else scores).tolist()),
        )
        for machine_id, (centres, scales, scores) in found.items()
    }
    made = {"pooled_ids": few}
    return Detector(
        dataset.machine_type,
        dataset.ids,
        front_end,
        dataset.norm,
        tuple(members),
        entries,
        made,
        stretch_frames,
        dataset.axes,
    )


def calibrated(raw_MN: np.ndarray, owners_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre and scale of each pair (M,), and the ensemble score of each stretch (N,) by those of the other clips.

    A stretch that helped to set its own centre and scale would score less than a new one. Of two clips, each alone has
    no scale: theirs are not left out.
    """
    scores_N = np.empty(raw_MN.shape[1])
    for owner in set(owners_N.tolist()):
        mine = owners_N == owner
        rest_MN = raw_MN[:, ~mine] if len(set(owners_N.tolist())) > 2 else raw_MN
        centres, scales = _location(rest_MN)
        scores_N[mine] = ((raw_MN[:, mine] - centres[:, None]) / scales[:, None]).mean(axis=0)
    return *_location(raw_MN), scores_N


def _location(raw_MN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return raw_MN.mean(axis=1), np.maximum(raw_MN.std(axis=1), 1e-12)


def raw_scores(members: Sequence[Member], cut: CutClips) -> np.ndarray:
    """Each pair's own scores, float64 (pairs, stretches)."""
    frames_TF = torch.from_numpy(cut.frames_TF)
    return np.concatenate([member.scores(member.codes(frames_TF, cut.offsets, cut.ids)) for member in members])


def _read_member(path: Path, digest: str) -> dict[str, Any]:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one in detector.json")
    try:
        values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error type of its own
        raise CheckpointError(f"{path} cannot be loaded: {(str(error).splitlines() or [''])[0]}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a member of a detector")
    return values
