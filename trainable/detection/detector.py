"""A finished detector: trained models, each with one density model or several, calibrated on unseen normal clips.

A detector's folder::

    DIR/
      detector.json     front end, normalisation, machine ids, calibration, how it was made
      member-0.pt …     configuration, weights, states of its density models; loaded with weights_only=True

It scores one recording at a time, so that a stream of any length needs the memory of one. A recording longer than the
training clips is scored in stretches of their length: its score is that of the worst, its p-value combines all.

M pairs of a model and a density model, S stretches, X passes over them, P patches, F = 64 mel bins, T frames, H
frequency rows and W columns in time of the code grid.
"""

import hashlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from trainable.config import DensityName, FrontEndConfig, TrialConfig
from trainable.data.check import Storage
from trainable.data.clips import Split, TestClips
from trainable.data.load import Dataset
from trainable.data.normalise import NormStats
from trainable.data.npy import Axes
from trainable.data.readers import SHORTEST_FRAMES, lengthen, mean_level, read_recording
from trainable.data.windows import Passes, Windows, choose_windows
from trainable.detection.alarm import DEFAULT_ALARM_RATE, AlarmRate, Promise, Verdict
from trainable.detection.calibration import ENOUGH_CLIPS, Calibration, calibrated
from trainable.detection.recorded import Limits, Status
from trainable.detection.saved import FILE_NAME, FORMAT, SavedDetector, SavedNorm, read_saved
from trainable.detection.stretches import CutClips, cut_clips, frame_surprise, most_surprising, stretches
from trainable.device.out_of_memory import is_out_of_memory
from trainable.durable import write_bytes
from trainable.errors import CheckpointError, DataError, RunError, ShortError
from trainable.execution_plan import ExecutionPlan
from trainable.finite import FiniteTensor
from trainable.scoring.codes import ClipCodes
from trainable.scoring.density import DensityModel, PositionModel
from trainable.scoring.registry import density_from_state, make_density
from trainable.training.encode import encode_clips
from trainable.training.seeds import derived_seed
from trainable.training.state import TrainState, load_weights, make_state
from trainable.trial import Trial
from trainable.typed import Count, Within, build

MAP_DENSITY: DensityName = "grid_neighbours"
"""Locates what is surprising in a clip when the configured density model scores whole clips only."""
_ID_IN_NAME = re.compile(r"(?:^|_)(?:id|section)_([0-9A-Za-z]+)(?:_|\.|$)")


@dataclass(frozen=True)
class ClipScore:
    """A detector's result for one recording."""

    machine_id: str
    """The machine id whose normal sound it was compared with."""
    score: float
    """Mean of the pairs' scores in standard deviations of the calibration clips; higher = more anomalous.

    A recording longer than a training clip gets the score of its highest stretch."""
    p_value: float | None
    """How rarely a normal recording scores so high, 1/(n + 1) … 1 (`Calibration.p_value`); None if it is not judged."""
    span_seconds: tuple[float, float]
    """Begin and end of the most surprising part, within the highest stretch."""
    verdict: Verdict
    """What that is at the detector's alarm rate."""
    status: Status
    """How it was recorded: whether it can be compared with the calibration recordings."""
    stretches: int = 1
    """Stretches that were scored."""


@dataclass(frozen=True)
class Heard:
    """Codes of stretches, one pass after another."""

    codes: ClipCodes
    """Of each pass, in the place of a clip."""
    passes: Passes


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
        """The trial's current model, with density models fitted to its training clips: those named, or its own.

        They are fitted to windows that lie as those of what the detector will score, and not to those of the search: a
        coarse grid tells where in a clip a window begins.
        """
        state, codebook = trial.trainer.state, trial.codebook()
        passes = _passes(state, trial.dataset.train.offsets, Windows.ALL).one_each()
        codes = trial.train_codes(passes.starts_XP)
        seed = derived_seed(trial.config.seed, "density")

        def fitted(name: DensityName) -> DensityModel:
            return make_density(trial.config.score, name=name, seed=seed).fit(codes, codebook)

        models = [fitted(name) for name in densities or (trial.config.score.density,)]
        surprise = next((model for model in models if isinstance(model, PositionModel)), None) or fitted(MAP_DENSITY)
        assert isinstance(surprise, PositionModel)
        return cls(state, models, surprise, len(trial.dataset.ids))

    def scores(self, heard: Heard) -> np.ndarray:
        """Each density model's scores, float64 (density models, stretches)."""
        return heard.passes.means(np.stack([density.score_samples(heard.codes) for density in self.densities]))

    def surprise_of_frames(self, heard: Heard, n_frames: int) -> np.ndarray:
        """Surprise of each frame of the only stretch that was heard, (T,); NaN between windows."""
        surprise_PHW = self.surprise.position_scores(heard.codes).flatten(0, 1).numpy()
        starts_P = heard.codes.starts_BP.flatten().numpy()
        return frame_surprise(surprise_PHW, starts_P, n_frames, self.state.geometry)

    @property
    def _mapped(self) -> int | None:
        """Which of the density models locates what is surprising; None if it is one of its own."""
        return next((index for index, density in enumerate(self.densities) if density is self.surprise), None)

    def hear(self, frames_TF: Tensor, offsets: np.ndarray, ids: tuple[str, ...], windows: Windows) -> Heard:
        """Codes of normalised stretches that lie back to back."""
        passes = _passes(self.state, offsets, windows)
        plan = ExecutionPlan(micro_batch_clips=8)
        encoded = encode_clips(self.state, frames_TF.to(self.state.device), passes.starts_XP, plan)
        relative_XP = passes.starts_XP - torch.from_numpy(offsets[passes.owners_X])[:, None]
        of_passes = tuple(ids[owner] for owner in passes.owners_X.tolist())
        return Heard(ClipCodes(encoded.codes_BPHWM, relative_XP, of_passes, Split.HELD_OUT), passes)

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
        """The inverse of `to_plain`. Raises CheckpointError or ValueError if the values do not describe a member."""
        if "density" in values:  # format 2 had one
            values = {name: value for name, value in values.items() if name != "density"} | {
                "densities": [values["density"]]
            }
        saved = build(_SavedMember, values)
        state = make_state(TrialConfig.from_flat(saved.config), saved.n_ids, device)
        load_weights(state.model, saved.model)
        densities = [density_from_state(each) for each in saved.densities]
        surprise = densities[saved.mapped or 0] if saved.surprise is None else density_from_state(saved.surprise)
        if not isinstance(surprise, PositionModel):
            raise CheckpointError(f"{surprise.name} cannot say where a clip is surprising; the detector is damaged")
        return cls(state, densities, surprise, saved.n_ids)


@dataclass(frozen=True, kw_only=True)
class _SavedMember:
    """What `Member.to_plain` gives, as it is read back."""

    config: dict[str, Any]
    n_ids: Annotated[int, Within(low=1, high=1_000_000)]
    model: dict[str, FiniteTensor]
    densities: tuple[dict[str, Any], ...]
    surprise: dict[str, Any] | None
    mapped: Count | None = None


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
    windows: Windows = Windows.CONFIGURED
    """Which windows of a stretch are heard, in calibration as in scoring."""
    alarm_rate: AlarmRate | None = None
    """False alarms that may be; None = no verdicts, as before format 4."""
    limits: Limits | None = None
    """How the normal recordings were recorded; None = not known, as before format 4."""

    def with_alarm_rate(self, rate: AlarmRate) -> "Detector":
        """The same detector with another alarm rate."""
        return replace(self, alarm_rate=rate)

    @property
    def stretch_seconds(self) -> float:
        return self.stretch_frames * self.seconds_per_frame

    @property
    def promises(self) -> dict[str, Promise]:
        """By machine id, what its calibration allows to promise; empty without an alarm rate."""
        if self.alarm_rate is None:
            return {}
        return {
            machine_id: Promise(self.alarm_rate, entry.recordings, self.stretch_seconds)
            for machine_id, entry in self.calibration.items()
        }

    @property
    def thresholds(self) -> dict[str, float | None]:
        """By machine id the score above which a recording of one whole stretch alarms; None if no score can."""
        if self.alarm_rate is None:
            return dict.fromkeys(self.calibration)
        share = self.alarm_rate.share(self.stretch_seconds)
        return {machine_id: entry.threshold(share) for machine_id, entry in self.calibration.items()}

    def score(self, path: str | Path, machine_id: str | None = None) -> ClipScore:
        """The score of one recording, whose path may be a text; the rest is as `score_file` has it."""
        return self.score_file(Path(path), machine_id)

    def score_file(self, path: Path, machine_id: str | None = None) -> ClipScore:
        """The score of one recording, a sound file or precomputed features.

        Raises
        ------
        DataError
            If the file is unusable, or if neither `machine_id` nor its name (``…_id_NN_…``) says which machine it is
            from and the detector knows several.
        SilentError, ShortError
            If every sample is zero, or the recording is shorter than a patch: both are a DataError.
        """
        if not path.is_file():
            raise DataError(f"{path}: {'is a folder; name a file' if path.is_dir() else 'does not exist'}")
        chosen = machine_id or self._id_of(path)
        if chosen not in self.calibration:
            raise DataError(f"{path}: {self._unknown(chosen)}")
        features_TF, storage = read_recording(path, self.front_end, self.axes)
        if len(features_TF) < self.shortest_frames < self.stretch_frames:
            # Repeated until it fills a patch, it would sound like no normal clip.
            seconds = [count * self.seconds_per_frame for count in (len(features_TF), self.shortest_frames)]
            raise ShortError(
                f"{path}: lasts {len(features_TF)} frames ({seconds[0]:.2f} s); at least {self.shortest_frames} "
                f"({seconds[1]:.2f} s) can be compared with normal clips; record longer"
            )
        return self.score_features(lengthen(features_TF), chosen, storage)

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

    def score_features(self, features_TF: np.ndarray, machine_id: str, storage: Storage | None = None) -> ClipScore:
        """The score of a recording's log-mel features before normalisation, float32 (T, 64), T ≥ `shortest_frames`.

        One stretch is normalised and encoded at a time, whatever T is.

        Parameters
        ----------
        storage
            How the recording was stored; None = as the normal recordings.
        """
        if machine_id not in self.calibration:
            raise DataError(self._unknown(machine_id))
        spans = stretches(len(features_TF), self.stretch_frames)
        scores: list[float] = []
        span = (0, len(features_TF))
        for begin, end in spans:
            score, mean_T = self._score_stretch(features_TF[begin:end], machine_id)
            if score > max(scores, default=-np.inf):
                first, last = most_surprising(mean_T)
                span = (begin + first, begin + last)
            scores.append(score)
        status = self._status(features_TF, machine_id, storage)
        calibration = self.calibration[machine_id]
        return ClipScore(
            machine_id,
            max(scores),
            calibration.p_value(scores) if status.judged else None,
            (span[0] * self.seconds_per_frame, span[1] * self.seconds_per_frame),
            self._verdict(calibration, scores, len(features_TF)) if status.judged else Verdict.UNKNOWN,
            status,
            len(spans),
        )

    def _status(self, features_TF: np.ndarray, machine_id: str, storage: Storage | None) -> Status:
        stored = storage or Storage(np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, mean_level(features_TF))
        limits = self.limits or Limits(self.front_end.sample_rate)
        return limits.status(stored, len(features_TF), self.calibration[machine_id])

    def _verdict(self, calibration: Calibration, scores: Sequence[float], frames: int) -> Verdict:
        if self.alarm_rate is None:
            return Verdict.UNKNOWN
        lowest_p = float(calibration.stretch_p_values(np.array(scores)).min())
        seconds = frames * self.seconds_per_frame
        if self.alarm_rate.alarms(calibration.p_value(scores), lowest_p, len(scores), seconds):
            return Verdict.ANOMALY
        return Verdict.UNKNOWN if max(scores) > calibration.highest else Verdict.NORMAL

    def _score_stretch(self, features_TF: np.ndarray, machine_id: str) -> tuple[float, np.ndarray]:
        """Ensemble score of one stretch, and the surprise of its frames (T,)."""
        frames_TF = torch.from_numpy(self.norm.apply(features_TF))
        offsets = np.array([0, len(frames_TF)], dtype=np.int64)
        raw, maps = [], []
        for member in self.members:
            heard = member.hear(frames_TF, offsets, (machine_id,), self.windows)
            raw += member.scores(heard)[:, 0].tolist()
            maps.append(member.surprise_of_frames(heard, len(frames_TF)))
        # Each member's map in its own unit, so that none dominates the others.
        mean_T = np.mean([m / max(float(np.nanmean(m)), 1e-12) for m in maps], axis=0)
        return self.calibration[machine_id].standardise(raw), mean_T

    def score_clips(self, clips: TestClips) -> np.ndarray:
        """Ensemble scores of normalised clips, float64 (clips,): for evaluation."""
        cut = cut_clips(clips, self.stretch_frames)
        raw_MS = raw_scores(self.members, cut, self.windows)
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
        saved = SavedDetector(
            format=FORMAT,
            machine_type=self.machine_type,
            ids=self.ids,
            stretch_frames=self.stretch_frames,
            front_end=self.front_end,
            axes=self.axes,
            norm=SavedNorm.of(self.norm),
            members=tuple(digests),
            calibration=self.calibration,
            windows=self.windows,
            alarm_rate=None if self.alarm_rate is None else str(self.alarm_rate),
            thresholds=self.thresholds,
            lowest_rate_hz=None if self.limits is None else self.limits.lowest_rate_hz,
            most_clipped=None if self.limits is None else self.limits.most_clipped,
            made=self.made,
        )
        write_bytes(folder / FILE_NAME, saved.to_json().encode())

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> "Detector":
        """Raises CheckpointError if the folder holds no detector or a damaged one."""
        folder = Path(folder)
        saved = read_saved(folder)
        files = [(folder / f"member-{index}.pt", digest) for index, digest in enumerate(saved.members)]
        contents = [_read_member(path, digest) for path, digest in files]
        try:
            detector = cls(
                saved.machine_type,
                saved.ids,
                saved.front_end,
                saved.norm.stats,
                tuple(Member.from_plain(content, torch.device(device)) for content in contents),
                saved.calibration,
                saved.made,
                saved.stretch_frames,
                saved.axes,
                saved.windows,
                saved.rate,
                saved.limits,
            )
            detector._rehearse()
        except Exception as error:  # a state that fits nothing fails in torch, in any of many ways
            if is_out_of_memory(error):
                raise
            reason = " ".join((str(error).splitlines() or [type(error).__name__])[:2])
            raise CheckpointError(
                f"{folder} does not hold a detector that can score: {reason[:300]}; copy it again from where it was "
                "made, or make it again with python -m analysis.best RUN --retrain"
            ) from None
        return detector

    def _rehearse(self) -> None:
        """Scores the training clips' mean sound as each machine id. Raises ValueError unless a finite number results.

        So what was read back is tried before it judges recordings, whatever its density models are.
        """
        features_TF = np.tile(self.norm.mean_F, (self.shortest_frames, 1))
        for machine_id in self.ids:
            score, surprise_T = self._score_stretch(features_TF, machine_id)
            if not np.isfinite(score) or not np.isfinite(np.nansum(surprise_T)):
                raise ValueError(f"the mean sound of the training clips scores {score} as id {machine_id}")


def _passes(state: TrainState, offsets: np.ndarray, windows: Windows) -> Passes:
    """The windows that a model hears of stretches that lie back to back."""
    config = state.config
    return choose_windows(
        offsets,
        windows,
        count=config.scored_patches,
        stride=config.patch.stride,
        patch_frames=state.geometry.patch_frames,
    )


def make_folder(folder: Path) -> None:
    """Creates the folder of a detector before its models are trained. Raises RunError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be a detector's folder: {error.strerror}; name another one") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"{folder} cannot be written; name another folder for the detector")


def build_detector(
    members: Sequence[Member],
    dataset: Dataset,
    calibration: TestClips,
    front_end: FrontEndConfig,
    alarm_rate: AlarmRate | None = None,
) -> Detector:
    """A detector of trained members, calibrated on the normal clips of some set that none of them was trained on.

    Parameters
    ----------
    alarm_rate
        None = `DEFAULT_ALARM_RATE`.

    Raises
    ------
    DataError
        If a machine id has fewer than two normal clips to calibrate with.
    """
    stretch_frames = int(dataset.train.lengths.max())
    normal = calibration.take(np.flatnonzero(calibration.labels == 0))
    entries, few = _calibrate(members, normal, dataset, stretch_frames)
    return Detector(
        dataset.machine_type,
        dataset.ids,
        front_end,
        dataset.norm,
        tuple(members),
        entries,
        {"pooled_ids": few},
        stretch_frames,
        dataset.axes,
        Windows.ALL,
        alarm_rate or AlarmRate.parse(DEFAULT_ALARM_RATE),
        Limits.of_check(dataset.check, front_end.sample_rate),
    )


def _calibrate(
    members: Sequence[Member], normal: TestClips, dataset: Dataset, stretch_frames: int
) -> tuple[dict[str, Calibration], list[str]]:
    """Calibrations by machine id, and the ids that have too few clips and compare with all."""
    cut = cut_clips(normal, stretch_frames)
    raw_MS, ids = raw_scores(members, cut, Windows.ALL), np.array(cut.ids)
    weights_S = 1.0 / np.bincount(cut.owners, minlength=len(normal))[cut.owners]
    norm = dataset.norm
    levels_N = np.array([mean_level(normal.clip(i) * norm.std_F + norm.mean_F) for i in range(len(normal))])
    entries: dict[str, Calibration] = {}
    few = []
    for machine_id in dataset.ids:
        mine = ids == machine_id
        clips = np.unique(cut.owners[mine])
        if len(clips) < 2:
            raise DataError(f"machine id {machine_id} has {len(clips)} normal clips to calibrate with; it needs two")
        centres_M, scales_M, scores = calibrated(raw_MS[:, mine], cut.owners[mine])
        ascending = np.argsort(scores)
        entries[machine_id] = Calibration(
            tuple(centres_M.tolist()),
            tuple(scales_M.tolist()),
            tuple(scores[ascending].tolist()),
            tuple(weights_S[mine][ascending].tolist()),
            shortest_frames=int(normal.lengths[clips].min()),
            lowest_level_db=float(levels_N[clips].min()),
        )
        few += [machine_id] if len(clips) < ENOUGH_CLIPS else []
    scores = np.concatenate([entry.scores for entry in entries.values()])
    weights = np.concatenate([entry.weights or () for entry in entries.values()])
    ascending = np.argsort(scores)
    pooled, their_weights = tuple(scores[ascending].tolist()), tuple(weights[ascending].tolist())
    for name in few:
        entries[name] = replace(entries[name], scores=pooled, weights=their_weights)
    return entries, few


def raw_scores(members: Sequence[Member], cut: CutClips, windows: Windows) -> np.ndarray:
    """Each pair's own scores, float64 (pairs, stretches)."""
    frames_TF = torch.from_numpy(cut.frames_TF)
    return np.concatenate([member.scores(member.hear(frames_TF, cut.offsets, cut.ids, windows)) for member in members])


def _read_member(path: Path, digest: str) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); the detector is incomplete") from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{path} is damaged: its checksum is not the one in {FILE_NAME}")
    try:
        values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error type of its own
        raise CheckpointError(f"{path} cannot be loaded: {(str(error).splitlines() or [''])[0]}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a member of a detector")
    return values
