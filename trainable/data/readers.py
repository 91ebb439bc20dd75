"""One file → log-mel features (T, 64) and how it was stored, or one DataError that says what is wrong with it."""

from pathlib import Path

import numpy as np
import torch

from trainable.config import Channel, FrontEndConfig
from trainable.data.audio import FORMATS, read_sound
from trainable.data.check import Storage
from trainable.data.frontend import N_MELS, log_mel
from trainable.data.npy import MOST_FRAMES, Axes, read_npy
from trainable.errors import DataError

SUFFIXES = (*FORMATS, ".npy")
"""Of files that can be read, in lower case; capitals are read alike."""
SHORTEST_FRAMES = 64
"""A shorter clip is repeated to this length, a patch of the default model."""


def is_npy(path: Path) -> bool:
    """Whether a file holds precomputed features, by its name."""
    return path.suffix.lower() == ".npy"


def read_recording(path: Path, front_end: FrontEndConfig, axes: Axes | None = None) -> tuple[np.ndarray, Storage]:
    """Features of a recording, float32 (T, 64) of its own length, and how it was stored.

    Parameters
    ----------
    axes
        How the ``.npy`` files of its set lie (`trainable.data.npy.axes_of`).

    Raises
    ------
    DataError
        If the file is unusable.
    """
    if is_npy(path):
        features = read_npy(path, axes)
        seconds = len(features) * front_end.hop_length / front_end.sample_rate
        return features, Storage(np.nan, np.nan, np.nan, seconds, np.nan, np.nan, mean_level(features))
    sound = read_sound(path, front_end.sample_rate, front_end.channel)
    if len(sound.samples) > MOST_FRAMES * front_end.hop_length:
        raise DataError(f"{path}: has more than {MOST_FRAMES} frames of {front_end.hop_length} samples; split it")
    features = log_mel(torch.from_numpy(sound.samples), front_end).numpy()
    if not np.isfinite(features).all():
        raise DataError(f"{path}: holds NaN or infinite values")
    storage = Storage(
        sound.rate, sound.channels, sound.bits or np.nan, sound.seconds, sound.peak, sound.clipped, mean_level(features)
    )
    return features, storage


def read_features(path: Path, front_end: FrontEndConfig, axes: Axes | None = None) -> np.ndarray:
    """Features of a recording, float32 (T, 64) with T ≥ 64: see `read_recording`. Raises DataError."""
    return lengthen(read_recording(path, front_end, axes)[0])


def mean_level(features_TF: np.ndarray) -> float:
    """Mean log-mel of a recording in dB."""
    return float(features_TF.mean(dtype=np.float64))


def lengthen(features_TF: np.ndarray) -> np.ndarray:
    """Repeats a clip of fewer than SHORTEST_FRAMES from its beginning to that length: its own sound, no silence."""
    if len(features_TF) >= SHORTEST_FRAMES:
        return features_TF
    return np.resize(features_TF, (SHORTEST_FRAMES, N_MELS))


def read_wav(path: Path, sample_rate: int, channel: Channel = "auto") -> np.ndarray:
    """Samples of a sound file at `sample_rate`, float32 (samples,), full scale ± 1: see `read_sound`."""
    return read_sound(path, sample_rate, channel).samples
