"""Precomputed log-mels in ``.npy`` files: how a set's arrays lie, and what their values cannot be."""

import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np

from trainable.data.audio import first_line
from trainable.data.frontend import N_MELS
from trainable.errors import DataError

MOST_FRAMES = 1_000_000
"""A clip of more frames than this is refused: at 64 mels and 4 bytes it alone would take 256 MB."""
MEL_COUNTS = (20, 32, 40, 80, 96, 128, 256)
"""Usual numbers of mel bands other than this project's; an array of so many rows and 64 columns may be 64 frames."""
POWER_RATIO = 100.0
"""Largest value over the median from which positive values are power: 20 dB, and a level in dB has no such ratio."""
_ARRAYS_AVERAGED = 200
"""Arrays of a set whose values tell mels from frames where shapes do not."""


class Axes(StrEnum):
    """How the arrays of a set lie in their files."""

    MELS_FIRST = "mels first"
    FRAMES_FIRST = "frames first"
    EACH_BY_SHAPE = "each by its own shape"
    """A square one has mels first: what runs and detectors of before there was a choice for a set go on with."""


def read_npy(path: Path, axes: Axes | None = None) -> np.ndarray:
    """A precomputed log-mel spectrogram, 64 × T or T × 64 in the file, as float32 (T, 64).

    Parameters
    ----------
    axes
        How the arrays of its set lie (`axes_of`), which a square one does not tell; None = this file alone.

    Raises
    ------
    DataError
        If it is no such array, lies otherwise than its set, or holds what no log-mel spectrogram is: one value
        throughout, or power.
    """
    array = _opened(path)
    _check_shape(path, array)
    by_shape = _axes_by_shape(array.shape)
    if axes is Axes.EACH_BY_SHAPE:
        axes = by_shape or Axes.MELS_FIRST
    lies = by_shape or axes or _axes_by_values([array])
    if axes is not None and lies is not axes:
        raise DataError(f"{path}: has the shape {array.shape}, {lies}; the other recordings have {axes}")
    if axes is None:
        _refuse_mels_as_frames([path], [array])
    with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 become infinite and are refused
        features = np.ascontiguousarray(array.T if lies is Axes.MELS_FIRST else array, dtype=np.float32)
    if not np.isfinite(features).all():
        raise DataError(f"{path}: holds NaN or infinite values")
    _refuse_meaningless(path, features)
    return features


def axes_of(paths: Sequence[Path]) -> Axes | None:
    """How the arrays of a set lie: by their shapes, or by their values where all are square. None without arrays.

    Files that cannot be read do not count; `read_npy` refuses them.

    Raises
    ------
    DataError
        If shapes contradict each other, or if 64 seems to be the number of frames and not of mel bands.
    """
    readable: list[tuple[Path, tuple[int, ...]]] = []
    for path in paths:
        try:
            array = _opened(path)
            _check_shape(path, array)
        except DataError:
            continue
        readable.append((path, array.shape))
    if not readable:
        return None
    first: dict[Axes, tuple[Path, tuple[int, ...]]] = {}
    for path, shape in readable:
        lies = _axes_by_shape(shape)
        if lies is not None:
            first.setdefault(lies, (path, shape))
    if len(first) == 2:
        (one, shape), (other, other_shape) = first.values()
        raise DataError(
            f"{one} has the shape {shape} and {other} has {other_shape}: some recordings have mel bands first and "
            "others frames; store all of them alike"
        )
    if len({shape for _, shape in readable}) > 1:
        return next(iter(first))  # square arrays and others, or lengths that differ
    sample = [path for path, _ in readable[:: max(1, len(readable) // _ARRAYS_AVERAGED)]]
    arrays = [_opened(path) for path in sample]
    _refuse_mels_as_frames(sample, arrays)
    return next(iter(first)) if first else _axes_by_values(arrays)


def _opened(path: Path) -> np.ndarray:
    try:
        # Not np.load: that opens archives and pickles too. A header that lies about the size fails here, before memory.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about headers from Python 2 but reads them
            return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy parses the header as Python and lets any error of tokenizer and dtype through
        raise DataError(f"{path}: is not a readable .npy file ({first_line(error)})") from None


def _check_shape(path: Path, array: np.ndarray) -> None:
    if array.ndim != 2 or N_MELS not in array.shape:
        raise DataError(f"{path}: has the shape {array.shape}; 64 × T or T × 64 is needed")
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path}: holds {array.dtype}; floating-point log-mel values are needed")
    if array.size == 0 or array.size > MOST_FRAMES * N_MELS:
        raise DataError(f"{path}: has {array.size // N_MELS} frames; 1 … {MOST_FRAMES} are accepted")


def _axes_by_shape(shape: tuple[int, ...]) -> Axes | None:
    if shape[0] == shape[1]:
        return None
    return Axes.MELS_FIRST if shape[0] == N_MELS else Axes.FRAMES_FIRST


def _axes_by_values(arrays: Sequence[np.ndarray]) -> Axes:
    """Mel bands differ from each other on average over time and clips; frames hardly do."""
    rows, columns = _spread(arrays)
    return Axes.FRAMES_FIRST if columns > rows else Axes.MELS_FIRST


def _refuse_mels_as_frames(paths: Sequence[Path], arrays: Sequence[np.ndarray]) -> None:
    shape = arrays[0].shape
    if sorted(shape)[1] in MEL_COUNTS and sorted(shape)[0] == N_MELS:
        along = 0 if shape[1] == N_MELS else 1
        spread = _spread(arrays)
        if spread[along] > spread[1 - along]:
            raise DataError(
                f"{paths[0]}: has the shape {shape}, and its {max(shape)} {'rows' if along == 0 else 'columns'} differ "
                f"as mel bands do, so 64 seems to be the number of frames; {N_MELS} mel bands are needed"
            )


def _spread(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """Variance of the mean row, and of the mean column, of arrays of one shape."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.mean([np.nan_to_num(np.asarray(array, dtype=np.float64)) for array in arrays], axis=0)
        return float(mean.mean(axis=1).var()), float(mean.mean(axis=0).var())


def _refuse_meaningless(path: Path, features: np.ndarray) -> None:
    low, high = float(features.min()), float(features.max())
    if low == high:
        raise DataError(f"{path}: every value is {low:g}; a log-mel spectrogram is needed")
    if low >= 0 and high > POWER_RATIO * float(np.median(features)):
        raise DataError(
            f"{path}: holds power or amplitude, not its logarithm (no value is negative, and the largest is over "
            f"{POWER_RATIO:g} times the median); store 10 · log10(power)"
        )
