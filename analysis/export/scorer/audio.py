"""One sound file → its samples in one channel at one rate.

The standard library reads `.wav` files of integers; any other needs the package soundfile.
"""

import math
import os
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import RecordingError, SilentError

SOUND_SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc")
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Hz."""
LONGEST_SECONDS = 3600
CANCELLED = 0.2
"""Share of what independent channels would keep of their power on average; less means that they cancel each other."""


_FULL_SCALE = 1.0 - 2.0**-14
"""A sample of at least this magnitude is clipped: the largest of 16 bits, but for a converter's rounding."""


@dataclass(frozen=True)
class Sound:
    """The samples of one recording and how they were stored."""

    samples: np.ndarray
    """float32 (samples,), full scale ± 1, at the rate that was asked for."""
    rate: int
    """Hz, of the file."""
    clipped: float
    """Share of samples at full scale."""


def read_sound(path: Path, sample_rate: int, channel: int | str) -> Sound:
    """One channel of a sound file at `sample_rate` in Hz.

    Parameters
    ----------
    channel
        Number of the channel, counted from 0; ``mean`` of all; or ``auto``: of two the mean, of more the first.

    Raises
    ------
    RecordingError
        If the file is unusable: its format, rate or length is not accepted, it is truncated, its channels cancel each
        other, or it has no such channel.
    SilentError
        If every sample is zero.
    """
    samples_SC, rate = _read(path)
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise RecordingError(f"{path}: has a sample rate of {rate} Hz; {LOWEST_RATE} … {HIGHEST_RATE} are accepted")
    if len(samples_SC) > LONGEST_SECONDS * rate:
        raise RecordingError(f"{path}: lasts over an hour; split it into clips")
    if len(samples_SC) == 0:
        raise RecordingError(f"{path}: holds no samples")
    if not np.isfinite(samples_SC).all():
        raise RecordingError(f"{path}: holds NaN or infinite samples")
    mixed = _heard(path, samples_SC, channel)
    if not mixed.any():
        raise SilentError(f"{path}: is silent; every sample that is heard of it is zero")
    magnitudes = np.abs(mixed)
    # Beyond full scale, 1 is a level like any other.
    clipped = float((magnitudes >= _FULL_SCALE).mean()) if magnitudes.max() <= 1.0 else 0.0
    return Sound(resampled(mixed, rate, sample_rate), rate, clipped)


def _read(path: Path) -> tuple[np.ndarray, int]:
    """Samples, float32 (samples, channels), and their rate."""
    if path.suffix.lower() in (".wav", ".wave"):
        try:
            return _read_wave(path)
        except (wave.Error, EOFError) as error:
            reason = str(error) or "it ends within its header"
    else:
        reason = f"{path.suffix} is no .wav file"
    return _read_with_soundfile(path, reason)


def _read_wave(path: Path) -> tuple[np.ndarray, int]:
    with wave.open(os.fspath(path), "rb") as file:
        announced, channels, width = file.getnframes(), file.getnchannels(), file.getsampwidth()
        content = file.readframes(announced)
        if len(content) < announced * channels * width:
            raise RecordingError(f"{path}: is truncated; its header announces more samples than it holds")
        return _floats(content, width).reshape(-1, channels), file.getframerate()


def _floats(content: bytes, width: int) -> np.ndarray:
    """Samples of some bytes each, full scale ± 1, as libsndfile converts them."""
    if width == 1:
        return (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / np.float32(128)
    if width == 3:
        # The three bytes are the upper ones of a 32-bit integer.
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    return np.frombuffer(content, f"<i{width}").astype(np.float32) / np.float32(2 ** (8 * width - 1))


def _read_with_soundfile(path: Path, reason: str) -> tuple[np.ndarray, int]:
    try:
        soundfile: Any = __import__("soundfile")
    except ImportError:
        raise RecordingError(
            f"{path}: cannot be read by Python alone ({reason}); install soundfile, or convert it to 16-bit .wav"
        ) from None
    try:
        samples_SC, rate = soundfile.read(os.fsencode(path), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise RecordingError(f"{path}: is not a readable {path.suffix} file ({error})") from None
    return samples_SC, int(rate)


def _heard(path: Path, samples_SC: np.ndarray, channel: int | str) -> np.ndarray:
    """The channel that is heard, or the mean of all."""
    channels = samples_SC.shape[1]
    if isinstance(channel, int) and channel >= channels:
        raise RecordingError(f"{path}: has no channel {channel}; it has {channels}, counted from 0")
    averaged = not isinstance(channel, int) and (channels == 2 or (channels > 2 and channel == "mean"))
    if not averaged:
        return np.ascontiguousarray(samples_SC[:, channel if isinstance(channel, int) else 0])
    mixed: np.ndarray = samples_SC.mean(axis=1)
    powers_C = np.square(samples_SC, dtype=np.float64).sum(axis=0)
    if np.square(mixed, dtype=np.float64).sum() * channels < CANCELLED * powers_C.mean():
        raise RecordingError(
            f"{path}: its {channels} channels cancel each other (opposite polarity); record or convert it with one"
        )
    return mixed


def resampled(samples_S: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Samples at another rate, float32, by the filter of ``scipy.signal.resample_poly``.

    A low-pass of 20 · max(up, down) + 1 taps with a Kaiser window of β = 5. Of the samples between which it
    interpolates, only those that are kept are reckoned: outputs that see the same taps at a time.
    """
    if rate == sample_rate:
        return samples_S
    divisor = math.gcd(rate, sample_rate)
    up, down = sample_rate // divisor, rate // divisor
    half = 10 * max(up, down)
    taps = np.sinc(np.arange(-half, half + 1) / max(up, down)) * np.kaiser(2 * half + 1, 5.0)
    taps = (taps / taps.sum()).astype(np.float32).astype(np.float64) * up
    length = -(-len(samples_S) * up // down)
    result = np.zeros(length, np.float32)
    for first in range(min(up, length)):
        centre = first * down + half  # of this output, on the grid of the interpolated samples
        mine = taps[centre % up :: up]
        begin = centre // up - len(mine) + 1
        count = -(-(length - first) // up)
        result[first::up] = _strided(samples_S, begin, down, count, len(mine)) @ mine[::-1]
    return result


def _strided(samples_S: np.ndarray, begin: int, step: int, count: int, width: int) -> np.ndarray:
    """`count` windows of `width` samples, `step` apart, the first at `begin`; outside of the samples there is 0."""
    before = max(0, -begin)
    end = begin + (count - 1) * step + width
    padded = np.pad(samples_S.astype(np.float64), (before, max(0, end - len(samples_S))))
    return np.lib.stride_tricks.sliding_window_view(padded, width)[begin + before :: step][:count]
