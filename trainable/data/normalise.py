"""Per-bin normalisation: statistics of the training clips, saved and loaded in the recipe's ``.pt`` format.

The file holds a dict: machine type index → ``(mean (64,), std (64,))``, or → ``{"mean": …, "std": …}``. Indices follow
DCASE's order; a machine type outside the six uses its own name as key.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainable.data.clips import offsets_of
from trainable.data.features import ClipFeatures, pack
from trainable.durable import replacing
from trainable.errors import DataError

DCASE_ORDER = ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")
SMALLEST_STD = 1e-3
"""dB; a bin that never changes (a band above a recorder's cut-off) would otherwise divide by zero."""

_INSTEAD = "name another file with --norm-stats-path (a missing one is written), or leave it out"


@dataclass(frozen=True)
class NormStats:
    """Mean and standard deviation of each mel bin over all frames, float32 (64,) each."""

    mean_F: np.ndarray
    std_F: np.ndarray

    def apply(self, features_TF: np.ndarray) -> np.ndarray:
        """Normalised features, float32 (T, 64)."""
        return ((features_TF - self.mean_F) / self.std_F).astype(np.float32)

    def packed(self, clips: ClipFeatures) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
        """The first fields of a `ClipSet`: normalised frames, offsets, machine ids and names."""
        frames = pack(clips.features)
        return (
            self.apply(frames["frames"]),
            offsets_of(frames["lengths"]),
            tuple(clips.machine_ids),
            tuple(clips.names),
        )


def compute_stats(features: list[np.ndarray]) -> NormStats:
    """Statistics over the frames of some clips, each (T, 64)."""
    frames_TF = np.concatenate(features)
    mean_F = frames_TF.mean(axis=0, dtype=np.float64)
    std_F = frames_TF.std(axis=0, dtype=np.float64)
    return NormStats(mean_F.astype(np.float32), np.maximum(std_F, SMALLEST_STD).astype(np.float32))


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
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever unpickling raises
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise DataError(
            f"normalisation statistics {path} cannot be read ({reason.splitlines()[0]}); {_INSTEAD}"
        ) from None
    key = stats_key(machine_type)
    if not isinstance(content, dict) or key not in content:
        there = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DataError(
            f"normalisation statistics {path} hold no entry {key!r} for {machine_type}; there is {there}; {_INSTEAD}"
        )
    entry = content[key]
    try:
        mean, std = (entry["mean"], entry["std"]) if isinstance(entry, dict) else entry
        mean_F, std_F = (np.asarray(value, dtype=np.float32).reshape(-1) for value in (mean, std))
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise DataError(
            f"normalisation statistics {path}: entry {key!r} is not a pair of mean and std; {_INSTEAD}"
        ) from None
    if mean_F.shape != (64,) or std_F.shape != (64,) or not np.isfinite([mean_F, std_F]).all() or not (std_F > 0).all():
        raise DataError(
            f"normalisation statistics {path}: entry {key!r} needs finite mean (64,) and finite, positive std (64,); "
            f"{_INSTEAD}"
        )
    return NormStats(mean_F, std_F)
