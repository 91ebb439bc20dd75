"""One sound file → its samples in one channel at one rate, and how it was stored; or one DataError."""

import io
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainable.config import Channel
from trainable.data.headers import stated_samples
from trainable.errors import DataError, SilentError

if TYPE_CHECKING:
    import soundfile

FORMATS = {
    ".wav": ("WAV", "WAVEX", "RF64"),
    ".wave": ("WAV", "WAVEX", "RF64"),
    ".flac": ("FLAC",),
    ".ogg": ("OGG",),
    ".oga": ("OGG",),
    ".opus": ("OGG",),
    ".mp3": ("MP3",),
    ".aif": ("AIFF",),
    ".aiff": ("AIFF",),
    ".aifc": ("AIFF",),
}
"""Suffix, in lower case → what libsndfile calls the formats that such a file may have."""
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Hz; resampling from an absurd rate (a damaged header) would need a filter of billions of taps."""
LONGEST_SECONDS = 3600
CANCELLED = 0.2
"""Share of what independent channels would keep of their power on average; less means that they cancel each other."""
_BLOCK = 1 << 20
_FULL_SCALE = 1.0 - 2.0**-14
"""A sample of at least this magnitude is clipped: the largest of 16 bits, but for a converter's rounding."""


@dataclass(frozen=True)
class Sound:
    """The samples of one recording and how they were stored."""

    samples: np.ndarray
    """float32 (samples,), full scale ± 1, at the rate that was asked for."""
    rate: int
    """Hz, of the file."""
    channels: int
    bits: int
    """Of a stored sample; 32 and 64 may be floats. 0 where the format does not say (MP3, Ogg)."""
    seconds: float
    peak: float
    """Largest magnitude before resampling; 1 is full scale."""
    clipped: float
    """Share of samples at full scale."""


def read_sound(path: Path, sample_rate: int, channel: Channel = "auto") -> Sound:
    """Reads a sound file and resamples it to `sample_rate` in Hz.

    Parameters
    ----------
    channel
        Which channel is heard, counted from 0; ``mean`` of all; or ``auto``: of two channels the mean, of more the
        first, as MIMII's baseline does (an array's microphones cancel each other's treble).

    Raises
    ------
    DataError
        If the file is unusable: its format, rate or length is not accepted, it is truncated or silent, its channels
        cancel each other, or it has no such channel.
    """
    # Not at the top: a machine that trains on precomputed features needs no audio library.
    import soundfile

    suffix = path.suffix.lower()
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: is empty, and so is not a readable {suffix} file")
    try:
        content, stated = stated_samples(path)
        # As bytes: a path that is not UTF-8 cannot be encoded otherwise.
        with soundfile.SoundFile(os.fsencode(path) if content is None else io.BytesIO(content)) as file:
            _check_header(path, file)
            rate, channels, announced = file.samplerate, file.channels, file.frames
            bits = _bits(file.subtype)
            mixed, powers_C = _mix(path, _blocks(file, stated), channels, channel)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        raise DataError(f"{path}: is not a readable {suffix} file ({first_line(error)})") from None
    if len(mixed) == 0:
        raise DataError(f"{path}: holds no samples")
    if stated is None and len(mixed) < announced:
        raise DataError(f"{path}: is truncated; its header announces more samples than it holds")
    if not np.isfinite(mixed).all():
        raise DataError(f"{path}: holds NaN or infinite samples")
    _refuse_silence(path, mixed, powers_C, channel)
    magnitudes = np.abs(mixed)
    # Beyond full scale, 1 is a level like any other.
    clipped = float((magnitudes >= _FULL_SCALE).mean()) if magnitudes.max() <= 1.0 else 0.0
    return Sound(
        _resampled(mixed, rate, sample_rate),
        rate,
        channels,
        bits,
        len(mixed) / rate,
        float(magnitudes.max()),
        clipped,
    )


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _check_header(path: Path, file: "soundfile.SoundFile") -> None:
    if file.format not in FORMATS[path.suffix.lower()]:
        raise DataError(f"{path}: is a {file.format} file despite its name; rename or convert it")
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        raise DataError(
            f"{path}: has a sample rate of {file.samplerate} Hz; {LOWEST_RATE} … {HIGHEST_RATE} are accepted"
        )
    if file.frames > LONGEST_SECONDS * file.samplerate:
        raise DataError(f"{path}: lasts over an hour; split it into clips")


def _bits(subtype: str) -> int:
    """Bits of a sample, of libsndfile's names: PCM_16, PCM_U8, FLOAT, DOUBLE, MPEG_LAYER_III …"""
    if subtype in ("FLOAT", "DOUBLE"):
        return 32 if subtype == "FLOAT" else 64
    found = re.fullmatch(r"PCM_[SU]?(\d+)|[AU]LAW|\w*ADPCM", subtype)
    return 0 if found is None else int(found[1] or (8 if subtype.endswith("LAW") else 4))


def _blocks(file: "soundfile.SoundFile", stated: int | None) -> Iterator[np.ndarray]:
    """float32 (samples, channels) at a time, without the padding of a compressed file's last block."""
    left = file.frames if stated is None else min(stated, file.frames)
    while left > 0:
        with np.errstate(over="ignore"):  # values that are not finite are refused later
            block = file.read(min(_BLOCK, left), dtype="float32", always_2d=True)
        if len(block) == 0:
            return
        left -= len(block)
        yield block


def _mix(path: Path, blocks: Iterator[np.ndarray], channels: int, channel: Channel) -> tuple[np.ndarray, np.ndarray]:
    """One channel (samples,), and the power of each channel summed over its samples, float64 (channels,)."""
    if isinstance(channel, int) and channel >= channels:
        there = "one channel, 0" if channels == 1 else f"channels 0 … {channels - 1}"
        raise DataError(f"{path}: has no channel {channel}; it has {there}; choose with --channel")
    chosen = _heard(channels, channel)
    parts, powers_C = [np.empty(0, np.float32)], np.zeros(channels)
    for block in blocks:
        with np.errstate(over="ignore", invalid="ignore"):
            powers_C += np.einsum("sc,sc->c", block, block, dtype=np.float64)
            parts.append(block.mean(axis=1) if chosen is None else block[:, chosen].copy())
    return np.concatenate(parts), powers_C


def _heard(channels: int, channel: Channel) -> int | None:
    """The channel that is heard of so many; None = their mean."""
    if isinstance(channel, int):
        return channel
    return None if channels == 2 or (channels > 2 and channel == "mean") else 0


def _refuse_silence(path: Path, mixed: np.ndarray, powers_C: np.ndarray, channel: Channel) -> None:
    if not powers_C.any():
        raise SilentError(f"{path}: is silent; every sample is zero")
    heard = _heard(len(powers_C), channel)
    if heard is None:
        kept = float(np.square(mixed, dtype=np.float64).sum()) * len(powers_C)
        if kept < CANCELLED * powers_C.mean():
            share = 100 * kept / len(powers_C) / powers_C.mean()
            raise DataError(
                f"{path}: its {len(powers_C)} channels cancel each other (opposite polarity): their mean has "
                f"{share:.1g} % of their power; choose one with --channel 0"
            )
    elif not mixed.any():
        loud = int(powers_C.argmax())
        raise SilentError(f"{path}: its channel {heard} is silent; try --channel {loud}")


def _resampled(samples: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    if rate != sample_rate:
        from scipy.signal import resample_poly

        divisor = math.gcd(rate, sample_rate)
        with np.errstate(over="ignore", invalid="ignore"):  # samples near the largest float become infinite features
            samples = resample_poly(samples, sample_rate // divisor, rate // divisor).astype(np.float32)
    return np.ascontiguousarray(samples)
