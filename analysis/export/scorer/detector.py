"""An exported detector: loaded from its folder and applied to recordings, stretch by stretch.

Its folder::

    DIR/
      detector.json        front end, normalisation, calibration, density models; sizes and checksums of the other files
      arrays.npz           codebooks and what the density models learned, by the names that detector.json uses
      codes-0.onnx …       normalised patches (P, 64, T) and a codebook (K, D) → code indices (P, H, W, M)
"""

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .audio import SOUND_SUFFIXES, Sound, read_sound
from .calibration import CLIPPED_SHARE, QUIETER_DB, AlarmRate, Calibration, combined_p, verdict_of
from .combined import density_of
from .density import Arrays, Density, PositionDensity
from .errors import DetectorError, RecordingError, ShortError
from .features import SHORTEST_FRAMES, lengthened, read_npy
from .frontend import FrontEnd
from .layout import ARRAYS, KIND, MANIFEST, VERSION, digest_of
from .networks import Network
from .stretches import Windows, frame_surprise, gathered, most_surprising, stretches

_ID_IN_NAME = re.compile(r"(?:^|_)(?:id|section)_([0-9A-Za-z]+)(?:_|\.|$)")


@dataclass(frozen=True)
class ClipScore:
    """The result for one recording."""

    machine_id: str
    score: float
    """Mean of the pairs' scores in standard deviations of normal recordings, of the highest stretch."""
    p_value: float | None
    """None where the recording cannot be judged: see `status`."""
    span_seconds: tuple[float, float]
    """Begin and end of the most surprising part, within the highest stretch."""
    verdict: str
    """``anomaly``, ``normal`` or ``unknown``."""
    status: str
    """``ok``, ``clipped``, ``other_rate``, ``quiet`` or ``short``."""


class Member:
    """One encoder with its density models."""

    def __init__(self, entry: Mapping[str, Any], arrays: Arrays, folder: Path, windows: str):
        self.network = Network(folder / entry["network"])
        self.codebook_KD = arrays[entry["codebook"]]
        self.patch_frames = int(entry["patch_frames"])
        self.windows = Windows(windows, int(entry["n_patches"]), int(entry["stride"]), self.patch_frames)
        self.densities: list[Density] = [density_of(each, arrays, folder) for each in entry["densities"]]
        surprise = (
            self.densities[entry["mapped"]]
            if entry["surprise"] is None
            else density_of(entry["surprise"], arrays, folder)
        )
        if not isinstance(surprise, PositionDensity):
            raise DetectorError("detector.json: a model that cannot say where a clip is surprising is to say so")
        self.surprise = surprise

    def codes(self, frames_TF: np.ndarray, starts_RP: np.ndarray) -> np.ndarray:
        """Codes of the patches of each pass over a normalised stretch, int64 (R, P, H, W, M)."""
        patches = gathered(frames_TF, starts_RP.ravel(), self.patch_frames)
        codes = self.network(patches=patches, codebook=self.codebook_KD)
        return codes.reshape(*starts_RP.shape, *codes.shape[1:])

    def scores(self, codes_RPHWM: np.ndarray, machine_id: str) -> list[float]:
        """Each density model's score: the mean over the passes."""
        return [float(np.mean([each.score(codes, machine_id) for codes in codes_RPHWM])) for each in self.densities]

    def surprise_of_frames(self, frames_TF: np.ndarray, machine_id: str) -> np.ndarray:
        """Surprise of each frame of a stretch, relative to its mean, (T,)."""
        starts_RP = self.windows.starts(len(frames_TF))
        codes_RPHWM = self.codes(frames_TF, starts_RP)
        surprise = np.concatenate([self.surprise.positions(codes, machine_id) for codes in codes_RPHWM])
        surprise_T = frame_surprise(surprise, starts_RP.ravel(), len(frames_TF), self.patch_frames)
        return surprise_T / max(float(np.nanmean(surprise_T)), 1e-12)


class ExportedDetector:
    """Scores recordings of one machine type.

    Raises
    ------
    DetectorError
        If the folder holds no exported detector, or a damaged one.
    """

    def __init__(self, folder: Path):
        content = _read_manifest(folder)
        try:
            self.machine_type: str = content["machine_type"]
            self.ids: tuple[str, ...] = tuple(content["ids"])
            rate = content["alarm_rate"]
            self.alarm_rate = None if rate is None else AlarmRate.parse(rate)
            self.calibration = {name: Calibration.of(entry) for name, entry in content["calibration"].items()}
            self._read_front_end(content)
            arrays = _read_arrays(folder / ARRAYS)
            self.members = [Member(entry, arrays, folder, content["windows"]) for entry in content["members"]]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise DetectorError(
                f"{folder / MANIFEST} does not describe a detector ({error!r}); export it again"
            ) from None

    def _read_front_end(self, content: Mapping[str, Any]) -> None:
        front_end = content["front_end"]
        self.sample_rate, self.channel = int(front_end["sample_rate"]), front_end["channel"]
        self.front_end = FrontEnd(self.sample_rate, int(front_end["n_fft"]), int(front_end["hop_length"]))
        self.seconds_per_frame = self.front_end.hop_length / self.sample_rate
        self.mean_F, self.std_F = (np.asarray(content["norm"][name], np.float32) for name in ("mean", "std"))
        self.halved = {"float32": False, "float16": True}[content["norm"].get("precision", "float32")]
        self.stretch_frames = int(content["stretch_frames"])
        self.axes: str | None = content["axes"]
        self.lowest_rate_hz = float(content["lowest_rate_hz"] or self.sample_rate)
        self.most_clipped = float(content["most_clipped"] or CLIPPED_SHARE)

    def unpromised(self) -> list[str]:
        """Machine ids with too few normal recordings for the alarm rate."""
        if self.alarm_rate is None:
            return []
        share = self.alarm_rate.share(self.stretch_frames * self.seconds_per_frame)
        return [machine_id for machine_id, entry in self.calibration.items() if not entry.promises(share)]

    @property
    def shortest_frames(self) -> int:
        """Frames of the longest patch; a shorter recording cannot fill it."""
        return max(SHORTEST_FRAMES, *(member.patch_frames for member in self.members))

    def score_file(self, path: Path, machine_id: str | None = None) -> ClipScore:
        """The score of one recording, a sound file or a ``.npy`` file of log-mels.

        Raises
        ------
        RecordingError
            If the file is unusable, or if neither `machine_id` nor its name (``…_id_NN_…``) says which machine it is
            from and the detector knows several.
        SilentError, ShortError
            If every sample is zero, or the recording is shorter than a patch; both are a RecordingError.
        """
        if not path.is_file():
            raise RecordingError(f"{path}: {'is a folder; name a file' if path.is_dir() else 'does not exist'}")
        chosen = machine_id or self._id_of(path)
        if chosen not in self.calibration:
            known = ", ".join(self.ids)
            raise RecordingError(f"{path}: the detector does not know machine id {chosen}; it knows {known}")
        if path.suffix.lower() == ".npy":
            return self._score_recorded(path, read_npy(path, self.axes), chosen, None)
        if path.suffix.lower() not in SOUND_SUFFIXES:
            raise RecordingError(f"{path}: is none of {', '.join((*SOUND_SUFFIXES, '.npy'))}")
        sound = read_sound(path, self.sample_rate, self.channel)
        features_TF = self.front_end.log_mel(sound.samples)
        if not np.isfinite(features_TF).all():
            raise RecordingError(f"{path}: holds NaN or infinite values")
        return self._score_recorded(path, features_TF, chosen, sound)

    def _score_recorded(self, path: Path, features_TF: np.ndarray, machine_id: str, sound: Sound | None) -> ClipScore:
        if len(features_TF) < self.shortest_frames < self.stretch_frames:
            # Repeated until it fills a patch, it would sound like no normal clip.
            seconds = [frames * self.seconds_per_frame for frames in (len(features_TF), self.shortest_frames)]
            raise ShortError(
                f"{path}: lasts {seconds[0]:.2f} s; at least {seconds[1]:.2f} s can be compared: record longer"
            )
        return self.score_features(lengthened(features_TF), machine_id, sound)

    def _id_of(self, path: Path) -> str:
        # In some layouts a folder names the machine.
        for name in (path.name, *(folder.name for folder in path.absolute().parents)):
            if (match := _ID_IN_NAME.search(name)) and (match[1] in self.ids or name == path.name):
                return match[1]
        if len(self.ids) == 1:
            return self.ids[0]
        known = ", ".join(self.ids)
        raise RecordingError(
            f"{path}: neither its name nor its folder's holds an id_NN; give --machine-id, one of {known}"
        )

    def score_features(self, features_TF: np.ndarray, machine_id: str, sound: Sound | None = None) -> ClipScore:
        """The score of log-mels before normalisation, float32 (T, 64) with T ≥ `shortest_frames`.

        `sound` is what they were made of; None = log-mels from elsewhere.
        """
        calibration = self.calibration[machine_id]
        status = self._status(features_TF, calibration, sound)
        parts = [features_TF[begin:end] for begin, end in stretches(len(features_TF), self.stretch_frames)]
        scores_S = np.array([self._stretch_score(part_TF, machine_id) for part_TF in parts])
        worst = int(scores_S.argmax())
        begin, _ = stretches(len(features_TF), self.stretch_frames)[worst]
        span = self._span(parts[worst], machine_id, begin)
        if status not in ("ok", "clipped"):
            return ClipScore(machine_id, float(scores_S[worst]), None, span, "unknown", status)
        seconds = len(features_TF) * self.seconds_per_frame
        verdict = verdict_of(self.alarm_rate, calibration, scores_S, seconds)
        p_value = combined_p(calibration.p_values(scores_S))
        return ClipScore(machine_id, float(scores_S[worst]), p_value, span, verdict, status)

    def _status(self, features_TF: np.ndarray, calibration: Calibration, sound: Sound | None) -> str:
        """The first of the reasons not to judge a recording, or to judge it with care."""
        if calibration.shortest_frames is not None and len(features_TF) < calibration.shortest_frames / 2:
            return "short"
        level = float(features_TF.mean(dtype=np.float64))
        if calibration.lowest_level_db is not None and level < calibration.lowest_level_db - QUIETER_DB:
            return "quiet"
        if sound is None:
            return "ok"
        if sound.rate < self.lowest_rate_hz:
            return "other_rate"
        return "clipped" if sound.clipped > self.most_clipped else "ok"

    def _stretch_score(self, features_TF: np.ndarray, machine_id: str) -> float:
        frames_TF = self._normalised(features_TF)
        raw: list[float] = []
        for member in self.members:
            raw += member.scores(member.codes(frames_TF, member.windows.starts(len(frames_TF))), machine_id)
        return self.calibration[machine_id].standardised(np.array(raw))

    def _span(self, features_TF: np.ndarray, machine_id: str, first: int) -> tuple[float, float]:
        """Begin and end of the most surprising part of a stretch that begins at frame `first`, in seconds."""
        frames_TF = self._normalised(features_TF)
        surprise_T = np.mean([member.surprise_of_frames(frames_TF, machine_id) for member in self.members], axis=0)
        begin, end = most_surprising(surprise_T)
        return (first + begin) * self.seconds_per_frame, (first + end) * self.seconds_per_frame

    def _normalised(self, features_TF: np.ndarray) -> np.ndarray:
        """In half precision where training saw it so: rounded, and cut off at its largest number."""
        with np.errstate(over="ignore"):
            normalised_TF = ((features_TF - self.mean_F) / self.std_F).astype(np.float32)
        if not self.halved:
            return normalised_TF
        most = np.finfo(np.float16).max
        return normalised_TF.clip(-most, most).astype(np.float16).astype(np.float32)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """What ``detector.json`` holds, if every file that it names is as it was written."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DetectorError(
            f"{path} cannot be read ({error.strerror}); name the folder of an exported detector"
        ) from None
    except (ValueError, RecursionError):
        raise DetectorError(f"{path} is no JSON; export the detector again") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise DetectorError(
            f"{path} is of no exported detector; make one with python -m analysis.best RUN --export DIR"
        )
    if content.get("version") != VERSION:
        raise DetectorError(
            f"{path} has the version {content.get('version')!r:.40}; this scorer reads {VERSION}: export it again"
        )
    if content.get("digest") != digest_of(content):
        raise DetectorError(f"{path} is damaged: its digest is not that of what it says; export the detector again")
    for name, digest in dict(content.get("files") or {}).items():
        _check(folder / name, digest)
    return content


def _check(path: Path, digest: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DetectorError(f"{path} cannot be read ({error.strerror}); export the detector again") from None
    if found != digest:
        raise DetectorError(f"{path} is damaged: its checksum is not the one in {MANIFEST}; export the detector again")


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DetectorError(f"{path} cannot be read ({error}); export the detector again") from None
