"""One file → log-mel features (T, 64), or one DataError that says what is wrong with it."""

import math
import os
import warnings
from pathlib import Path

import numpy as np
import torch

from trainable.config import FrontEndConfig
from trainable.data.frontend import N_MELS, log_mel
from trainable.errors import DataError

MOST_FRAMES = 1_000_000
"""A clip of more frames than this is refused: at 64 mels and 4 bytes it alone would take 256 MB."""
SHORTEST_FRAMES = 64
"""A shorter clip is repeated to this length, a patch of the default model."""
WAV_FORMATS = ("WAV", "WAVEX", "RF64")
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Hz; resampling from an absurd rate (a damaged header) would need a filter of billions of taps."""
MOST_CHUNKS = 1_000
"""Chunks searched for the samples; recorders write a dozen at most."""


def read_features(path: Path, front_end: FrontEndConfig) -> np.ndarray:
    """Features of a ``.npy`` or ``.wav`` file, float32 (T, 64) with T ≥ 64. Raises DataError."""
    features = read_npy(path) if path.suffix == ".npy" else wav_features(path, front_end)
    if not np.isfinite(features).all():
        raise DataError(f"{path}: holds NaN or infinite values")
    return lengthen(features)


def lengthen(features_TF: np.ndarray) -> np.ndarray:
    """Repeats a clip of fewer than SHORTEST_FRAMES from its beginning to that length: its own sound, no silence."""
    if len(features_TF) >= SHORTEST_FRAMES:
        return features_TF
    return np.resize(features_TF, (SHORTEST_FRAMES, N_MELS))


def read_npy(path: Path) -> np.ndarray:
    """A precomputed spectrogram, 64 × T or T × 64, float. A square one is read as 64 mels × 64 frames."""
    try:
        # Not np.load: that opens archives and pickles too. A header that lies about the size fails here, before memory.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns about headers from Python 2 but reads them
            array = np.lib.format.open_memmap(path, mode="r")
        if array.ndim != 2 or N_MELS not in array.shape:
            raise DataError(f"{path}: has the shape {array.shape}; 64 × T or T × 64 is needed")
        if not np.issubdtype(array.dtype, np.floating):
            raise DataError(f"{path}: holds {array.dtype}; floating-point log-mel values are needed")
        if array.size == 0 or array.size > MOST_FRAMES * N_MELS:
            raise DataError(f"{path}: has {array.size // N_MELS} frames; 1 … {MOST_FRAMES} are accepted")
        mels_first = array.shape[0] == N_MELS
        with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused
            return np.ascontiguousarray(array.T if mels_first else array, dtype=np.float32)
    except DataError:
        raise
    except Exception as error:  # numpy parses the header as Python and lets any error of tokenizer and dtype through
        raise DataError(f"{path}: is not a readable .npy file ({_first_line(error)})") from None


def wav_features(path: Path, front_end: FrontEndConfig) -> np.ndarray:
    """Log-mel features of a recording at any rate and length; channels are averaged."""
    samples = read_wav(path, front_end.sample_rate)
    if len(samples) > MOST_FRAMES * front_end.hop_length:
        raise DataError(f"{path}: has more than {MOST_FRAMES} frames of {front_end.hop_length} samples; split it")
    return log_mel(torch.from_numpy(samples), front_end).numpy()


def read_wav(path: Path, sample_rate: int) -> np.ndarray:
    """Samples at `sample_rate`, float32 (samples,), full scale ± 1. Raises DataError if unusable."""
    # Not at the top: a machine that trains on precomputed features needs no audio library.
    import soundfile
    from scipy.signal import resample_poly

    try:
        with soundfile.SoundFile(path) as file:
            rate, announced = file.samplerate, file.frames
            if file.format not in WAV_FORMATS:
                raise DataError(f"{path}: is a {file.format} file despite its name; convert it to .wav")
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise DataError(f"{path}: has a sample rate of {rate} Hz; {LOWEST_RATE} … {HIGHEST_RATE} are accepted")
            if announced > 3600 * rate:
                raise DataError(f"{path}: lasts over an hour; split it into clips")
            with np.errstate(over="ignore", invalid="ignore"):  # values that are not finite are refused below
                samples = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        raise DataError(f"{path}: is not a readable .wav file ({_first_line(error)})") from None
    if len(samples) == 0:
        raise DataError(f"{path}: holds no samples")
    if len(samples) < announced or _is_truncated(path):
        raise DataError(f"{path}: is truncated; its header announces more samples than it holds")
    if not np.isfinite(samples).all():
        raise DataError(f"{path}: holds NaN or infinite samples")
    if not samples.any():
        raise DataError(f"{path}: is silent; every sample is zero")
    if rate != sample_rate:
        divisor = math.gcd(rate, sample_rate)
        with np.errstate(over="ignore", invalid="ignore"):  # samples near the largest float become infinite features
            samples = resample_poly(samples, sample_rate // divisor, rate // divisor).astype(np.float32)
    return np.ascontiguousarray(samples)


def _is_truncated(path: Path) -> bool:
    """Whether the header announces more samples than the file has: libsndfile reads such a file as if it were whole.

    Checks the size of the ``data`` chunk, not of the whole file, where some writers count 8 bytes too many.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(12)
        if header[:4] != b"RIFF" or header[8:12] != b"WAVE":
            return False
        for _ in range(MOST_CHUNKS):
            chunk = file.read(8)
            announced = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                # 0 and the largest value mean "unknown" (a stream that was never closed).
                return announced not in (0, 0xFFFFFFFF) and file.tell() + announced > size_bytes
            if len(chunk) < 8:
                break
            file.seek(announced + announced % 2, os.SEEK_CUR)
    return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
