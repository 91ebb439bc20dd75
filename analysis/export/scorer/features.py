"""Precomputed log-mels in ``.npy`` files, and what is done to recordings that are short."""

from pathlib import Path

import numpy as np

from .errors import RecordingError
from .frontend import N_MELS

SHORTEST_FRAMES = 64
"""A shorter recording is repeated to this length."""
MOST_FRAMES = 1_000_000
MELS_FIRST, FRAMES_FIRST, EACH_BY_SHAPE = "mels first", "frames first", "each by its own shape"
MEL_COUNTS = (20, 32, 40, 80, 96, 128, 256)
"""Usual numbers of mel bands other than 64; an array of so many rows and 64 columns may be 64 frames."""
POWER_RATIO = 100.0
"""Largest value over the median from which positive values are power and no level in dB."""


def read_npy(path: Path, axes: str | None) -> np.ndarray:
    """A precomputed log-mel spectrogram, 64 × T or T × 64 in the file, as float32 (T, 64).

    Parameters
    ----------
    axes
        How the arrays lay that the detector was trained on; None if there were none.

    Raises
    ------
    RecordingError
        If it is no such array, lies otherwise than those, or holds what no log-mel spectrogram is.
    """
    array = _opened(path)
    by_shape = _by_shape(array.shape)
    if axes == EACH_BY_SHAPE:
        axes = by_shape or MELS_FIRST
    lies = by_shape or axes or _by_values(array)
    if axes is not None and lies != axes:
        raise RecordingError(f"{path}: has the shape {array.shape}, {lies}; the detector was trained on {axes}")
    if axes is None:
        _refuse_mels_as_frames(path, array)
    with np.errstate(over="ignore", invalid="ignore"):
        features_TF = np.ascontiguousarray(array.T if lies == MELS_FIRST else array, dtype=np.float32)
    _refuse_meaningless(path, features_TF)
    return features_TF


def lengthened(features_TF: np.ndarray) -> np.ndarray:
    """Repeats a recording of fewer than SHORTEST_FRAMES from its beginning to that length."""
    return features_TF if len(features_TF) >= SHORTEST_FRAMES else np.resize(features_TF, (SHORTEST_FRAMES, N_MELS))


def _opened(path: Path) -> np.ndarray:
    try:
        # Not np.load: that opens archives and pickles too.
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # NumPy parses the header as Python and lets any error through
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecordingError(f"{path}: is not a readable .npy file ({reason})") from None
    if array.ndim != 2 or N_MELS not in array.shape or not np.issubdtype(array.dtype, np.floating):
        raise RecordingError(
            f"{path}: has the shape {array.shape} of {array.dtype}; log-mels, 64 × T or T × 64 floats, are needed"
        )
    if array.size == 0 or array.size > MOST_FRAMES * N_MELS:
        raise RecordingError(f"{path}: has {array.size // N_MELS} frames; 1 … {MOST_FRAMES} are accepted")
    return array


def _by_shape(shape: tuple[int, ...]) -> str | None:
    if shape[0] == shape[1]:
        return None
    return MELS_FIRST if shape[0] == N_MELS else FRAMES_FIRST


def _by_values(array: np.ndarray) -> str:
    """Mel bands differ from each other on average over time; frames hardly do."""
    rows, columns = _spread(array)
    return FRAMES_FIRST if columns > rows else MELS_FIRST


def _spread(array: np.ndarray) -> tuple[float, float]:
    """Variance of the mean row, and of the mean column."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.nan_to_num(np.asarray(array, dtype=np.float64))
        return float(values.mean(axis=1).var()), float(values.mean(axis=0).var())


def _refuse_mels_as_frames(path: Path, array: np.ndarray) -> None:
    fewer, more = sorted(array.shape)
    along = 0 if array.shape[1] == N_MELS else 1
    spread = _spread(array)
    if fewer == N_MELS and more in MEL_COUNTS and spread[along] > spread[1 - along]:
        raise RecordingError(
            f"{path}: has the shape {array.shape}, which seems to be 64 frames; 64 mel bands are needed"
        )


def _refuse_meaningless(path: Path, features_TF: np.ndarray) -> None:
    if not np.isfinite(features_TF).all():
        raise RecordingError(f"{path}: holds NaN or infinite values")
    low, high = float(features_TF.min()), float(features_TF.max())
    if low == high:
        raise RecordingError(f"{path}: every value is {low:g}; a log-mel spectrogram is needed")
    if low >= 0 and high > POWER_RATIO * float(np.median(features_TF)):
        raise RecordingError(f"{path}: holds power or amplitude, not its logarithm; store 10 · log10(power)")
