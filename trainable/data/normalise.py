"""Per-bin normalisation: statistics of the training clips, saved and loaded in the recipe's ``.pt`` format.

The file holds a dict: machine type index → ``(mean (64,), std (64,))``, or → ``{"mean": …, "std": …}``. Indices follow
DCASE's order; a machine type outside the six uses its own name as key. Also read: the index as text, the name of one of
the six, and NumPy arrays or lists in place of tensors.
"""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch

from trainable.data.clips import offsets_of
from trainable.data.features import ClipFeatures, passing
from trainable.data.frontend import N_MELS
from trainable.durable import replacing
from trainable.errors import DataError

DCASE_ORDER = ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")
SMALLEST_STD = 1e-3
"""dB; a bin that never changes (a band above a recorder's cut-off) would otherwise divide by zero."""
MOST_DEVIATIONS = float(np.finfo(np.float16).max)
"""Largest number of half precision, 65,504: a bin that hardly varied in training may be further off."""
MOST_NAMED = 10
"""Entries of a file that a message names."""
FeaturePrecision = Literal["float16", "float32"]

_INSTEAD = "name another file with --norm-stats-path (a missing one is written), or leave it out"
_FORM = (
    "what torch.save wrote of {machine type's DCASE index or its name: (mean, std)} is read, with 64 finite numbers in "
    f"each and a positive std; {_INSTEAD}"
)
_NUMPY: list[Any] = [
    *(
        (rebuild, f"numpy.{core}.multiarray.{name}")  # core in files that NumPy 1 wrote
        for name, rebuild in (
            ("_reconstruct", np.zeros(1).__reduce__()[0]),
            ("scalar", np.float64(0).__reduce__()[0]),
        )
        for core in ("core", "_core")
    ),
    np.ndarray,
    np.dtype,
    *(type(np.dtype(letter)) for letter in "efdbhilqBHILQ"),
]
"""What rebuilds NumPy's arrays of numbers: the only objects beside tensors that a file may name."""


@dataclass(frozen=True)
class NormStats:
    """How log-mels become what a model sees."""

    mean_F: np.ndarray
    """Of each mel bin over all frames, float32 (64,)."""
    std_F: np.ndarray
    """Standard deviation of each mel bin over all frames, float32 (64,)."""
    precision: FeaturePrecision = "float32"
    """What normalised features are rounded to: ``float16`` changes a number by 2⁻¹¹ of itself at most, or by 2⁻²⁵."""

    def __post_init__(self) -> None:
        """Raises ValueError for what would leave no feature, or a NaN, of every recording."""
        if self.mean_F.shape != (N_MELS,) or self.std_F.shape != (N_MELS,):
            raise ValueError(f"has a mean {self.mean_F.shape} and a std {self.std_F.shape}")
        if not np.isfinite([self.mean_F, self.std_F]).all() or not (self.std_F > 0).all():
            raise ValueError("is not finite, or its std not positive")

    def apply(self, features_TF: np.ndarray) -> np.ndarray:
        """Normalised features (T, 64) in their precision; in half precision cut off at ± `MOST_DEVIATIONS`."""
        if self.precision == "float32":
            return self._in_deviations(features_TF)
        with np.errstate(over="ignore"):  # infinite numbers are cut off too
            normalised_TF = torch.from_numpy(self._in_deviations(features_TF))
        # torch rounds as NumPy does, in a seventh of the time.
        return normalised_TF.clamp_(-MOST_DEVIATIONS, MOST_DEVIATIONS).half().numpy()

    def _in_deviations(self, features_TF: np.ndarray) -> np.ndarray:
        return ((features_TF - self.mean_F) / self.std_F).astype(np.float32)

    def packed(self, clips: ClipFeatures) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
        """The first fields of a `ClipSet`: normalised frames, offsets, machine ids and names."""
        offsets = offsets_of([len(clip) for clip in clips.features])
        frames_TF = self.frames(passing(clips.features), int(offsets[-1]))
        return frames_TF, offsets, tuple(clips.machine_ids), tuple(clips.names)

    def frames(self, clips: Iterable[np.ndarray], count: int) -> np.ndarray:
        """Normalised frames of some clips (T, 64), back to back, (count, 64). Holds one clip at a time beside them.

        Raises
        ------
        ValueError
            If the clips have more or fewer than `count` frames.
        """
        frames_TF = np.empty((count, N_MELS), self.precision)
        begin = 0
        for clip_TF in clips:
            frames_TF[begin : begin + len(clip_TF)] = self.apply(clip_TF)
            begin += len(clip_TF)
        if begin != count:
            raise ValueError(f"the clips have {begin} frames, not {count}")
        return frames_TF


def compute_stats(features: list[np.ndarray]) -> NormStats:
    """Statistics over the frames of some clips, each (T, 64)."""
    frames = sum(map(len, features))
    mean_F = _sum(clip_TF.astype(np.float64) for clip_TF in passing(features)) / frames
    std_F = np.sqrt(_sum(np.square(clip_TF - mean_F) for clip_TF in passing(features)) / frames)
    return NormStats(mean_F.astype(np.float32), np.maximum(std_F, SMALLEST_STD).astype(np.float32))


def _sum(clips: Iterable[np.ndarray]) -> np.ndarray:
    """Sum of all rows of some clips, (64,); to the last bit that of one array of them, whose rows numpy adds in order.

    The clips, float64 (T, 64), are changed.
    """
    total_F = np.zeros(N_MELS)
    for clip_TF in clips:
        clip_TF[0] += total_F
        total_F = clip_TF.sum(axis=0)
    return total_F


def stats_key(machine_type: str) -> int | str:
    """Key of a machine type in the file: its DCASE index, or its own name."""
    return DCASE_ORDER.index(machine_type) if machine_type in DCASE_ORDER else machine_type


def save_stats(path: Path, by_machine: dict[str, NormStats]) -> None:
    """Writes statistics of one or more machine types, atomically. Raises DataError where nothing can be written."""
    content = {
        stats_key(name): (torch.from_numpy(stats.mean_F.copy()), torch.from_numpy(stats.std_F.copy()))
        for name, stats in by_machine.items()
    }
    try:
        with replacing(path) as file:
            torch.save(content, file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"normalisation statistics cannot be saved as {path}: {reason}; "
            "name a file in a folder that you may write to with --norm-stats-path, or leave it out"
        ) from None


def load_stats(path: Path, machine_type: str) -> NormStats:
    """Statistics of one machine type. Raises DataError if the file or the machine type in it is unusable."""
    what = f"normalisation statistics {path}"
    content = _read(path, what)
    index = stats_key(machine_type)
    keys = list(dict.fromkeys((index, str(index), machine_type)))
    key = next((each for each in keys if isinstance(content, dict) and each in content), None)
    if key is None:
        there = f"the entries {_listed(content)}" if isinstance(content, dict) else _kind(content)
        known = " or ".join(map(repr, dict.fromkeys((index, machine_type))))
        raise DataError(f"{what} hold no entry {known} for {machine_type} but {there}; {_FORM}")
    entry = content[key]
    try:
        mean, std = (entry["mean"], entry["std"]) if isinstance(entry, dict) else entry
        mean_F, std_F = _numbers(mean), _numbers(std)
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise DataError(f"{what}: entry {key!r} is not a pair of mean and std but {_kind(entry)}; {_FORM}") from None
    try:
        return NormStats(mean_F, std_F)
    except ValueError as error:
        raise DataError(f"{what}: entry {key!r} {error}; {_FORM}") from None


def _read(path: Path, what: str) -> Any:
    """What a file of statistics holds; nothing in it is run."""
    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY" or _is_npz(path):
                raise DataError(f"{what} are a NumPy file (.npy or .npz); {_FORM}")
            file.seek(0)
            with torch.serialization.safe_globals(_NUMPY):
                return torch.load(file, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except UnpicklingError:  # its text advises to switch this protection off
        reason = "it is damaged or no file of torch.save, or it holds more than numbers, text, tensors and arrays"
    except Exception as error:  # torch.load raises whatever unpickling raises
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    raise DataError(f"{what} cannot be read ({reason.splitlines()[0]}); {_FORM}")


def _is_npz(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _numbers(value: Any) -> np.ndarray:
    """A float32 vector from anything that lists numbers, without axes of length 1. Raises TypeError or ValueError."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
        value = (value if value.is_complex() else value.float()).numpy()
    array = np.squeeze(np.asarray(value))
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{array.dtype} holds no real numbers")
    with np.errstate(over="ignore"):  # becomes infinite, which is refused
        return array.astype(np.float32)


def _kind(value: Any) -> str:
    """What a file holds in place of what it should."""
    if isinstance(value, dict):
        return f"a dict of {_listed(value)}"
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"an array {tuple(value.shape)} of {value.dtype}"
    length = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return f"{type(value).__name__}{length}"


def _listed(values: dict[Any, Any]) -> str:
    names = sorted(map(repr, values))
    return ", ".join([*names[:MOST_NAMED], *(["…"] if len(names) > MOST_NAMED else [])]) or "none"
