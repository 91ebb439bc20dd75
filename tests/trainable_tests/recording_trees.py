"""Small trees of recordings in DCASE's layout, for tests of the data room."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

Writer = Callable[[Path, int], None]
"""Writes one recording; the number makes each one different."""


def mel_clip(number: int, frames: int = 80) -> np.ndarray:
    """A made-up spectrogram, float32 (frames, 64), mels and frames told apart by its values."""
    rng = np.random.default_rng(number)
    return (rng.standard_normal((frames, 64)) + np.arange(64)).astype(np.float32)


def write_frames_first(path: Path, number: int) -> None:
    np.save(path.with_suffix(".npy"), mel_clip(number))


def write_mels_first(path: Path, number: int) -> None:
    np.save(path.with_suffix(".npy"), mel_clip(number).T)


def tone(number: int, rate: int = 16_000, seconds: float = 0.3) -> np.ndarray:
    """A tone with a little noise, float64 (samples,)."""
    times = np.arange(int(rate * seconds)) / rate
    noise = np.random.default_rng(number).standard_normal(len(times))
    return 0.2 * np.sin(2 * np.pi * (300 + 10 * number) * times) + 0.01 * noise


def write_wav(path: Path, number: int) -> None:
    soundfile.write(path.with_suffix(".wav"), tone(number), 16_000)


def write_tree(
    root: Path,
    machine_type: str = "fan",
    *,
    write: Writer = write_frames_first,
    ids: Sequence[str] = ("00", "02"),
    train: int = 3,
    normal: int = 2,
    anomalous: int = 2,
) -> Path:
    """``root/machine_type/{train,test}`` with so many clips an id; gives the machine type's folder."""
    folder = root / machine_type
    number = 0
    for part, word, count in (("train", "normal", train), ("test", "normal", normal), ("test", "anomaly", anomalous)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for machine_id in ids:
            for index in range(count):
                number += 1
                write(folder / part / f"{word}_id_{machine_id}_{index:08d}", number)
    return folder
