"""Families of pseudo-anomalies: what a fault does to a recording, imitated on the log-mels of a normal one.

A family has one knob, the severity α; every other draw is seeded by the clip's name and the family's, so that a clip
that is changed more is changed in the same way. T frames, F = 64 mel bins, dB. Lengths in frames are those of a front
end whose windows overlap by half; where they overlap more, neighbouring frames are nearly the same, and all lengths are
`scale` times as many frames.

`python -m benchmarks.no_labels` measures how well they rank trainings, together and each alone. A new family should be
checked there, and against the transformations of `trainable.model.transforms`: one that resembles them favours
trainings that learnt to tell them apart. A change that makes a clip smoother ranks them the wrong way round: a density
that predicts cells from their neighbours takes it for more normal.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.ndimage import uniform_filter1d


@dataclass(frozen=True)
class Family(ABC):
    """One way to change a clip."""

    scale: int = 1
    """Frames to one of a front end whose windows overlap by half."""
    name: ClassVar[str]
    title: ClassVar[str]
    """What it does, as the end of a sentence about a clip."""
    severities: ClassVar[tuple[float, float]]
    """Smallest and largest α."""
    usual: ClassVar[tuple[float, float]]
    """Severities that the machines of `benchmarks.no_labels` need, with a factor of two on either side."""
    target_auc: ClassVar[float | None]
    """AUC at which a covariance of log-mel statistics is to hear it: neither obvious nor inaudible. None where such a
    covariance cannot hear it: then α is the largest."""

    @abstractmethod
    def change(self, clip_TF: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
        """The changed clip, float32 (T, F) dB."""

    def draws(self, clip_name: str) -> np.random.Generator:
        """The generator of a clip's draws."""
        digest = hashlib.sha256(f"{self.name}:{clip_name}".encode("utf-8", "surrogateescape")).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))


class Roughness(Family):
    """What differs from the mean of a few frames around differs by 1 + α times as much."""

    name = "roughness"
    title = "it fluctuates more from frame to frame"
    severities = (0.02, 2.0)
    usual = (0.085, 0.6)
    target_auc = 0.75
    window: ClassVar[int] = 9
    """Frames of the mean."""

    def change(self, clip_TF: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
        mean_TF = uniform_filter1d(clip_TF, self.scale * self.window, axis=0, mode="nearest")
        return (clip_TF + alpha * (clip_TF - mean_TF)).astype(np.float32)


class Bursts(Family):
    """Now and then a few frames are louder by up to α dB around a mel bin."""

    name = "bursts"
    title = "now and then a band is louder for a moment"
    severities = (0.05, 30.0)
    usual = (3.0, 21.0)
    target_auc = 0.75
    every: ClassVar[int] = 40
    """Frames of a clip to a burst, on the average; at least one a clip."""
    frames: ClassVar[int] = 8
    """Length of a burst."""
    centres: ClassVar[tuple[int, int]] = (4, 60)
    """Mel bins from which and below which its middle lies."""
    width: ClassVar[float] = 4.0
    """Mel bins at which a burst has lost 40 % of its dB, as a Gaussian's standard deviation."""

    def change(self, clip_TF: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
        n_frames, n_mels = clip_TF.shape
        louder_TF = np.zeros_like(clip_TF)
        frames = self.scale * self.frames
        for _ in range(max(1, n_frames // (self.scale * self.every))):
            begin = int(rng.integers(max(1, n_frames - frames)))
            away_F = (np.arange(n_mels) - rng.integers(*self.centres)) / self.width
            louder_TF[begin : begin + frames] += np.exp(-0.5 * away_F**2)
        return (clip_TF + alpha * louder_TF).astype(np.float32)


class Stretch(Family):
    """Everything happens 1 + α times as fast, or as slowly: half of the clips each.

    Frames are interpolated; a faster clip begins anew where it ends. A covariance of statistics of single frames
    hardly hears it.
    """

    name = "stretch"
    title = "everything happens faster, or more slowly"
    severities = (0.6, 0.6)
    usual = (0.6, 0.6)
    target_auc = None

    def change(self, clip_TF: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
        rate = 1 + alpha if rng.random() < 0.5 else 1 / (1 + alpha)
        times_T = (rate * np.arange(len(clip_TF))) % max(1, len(clip_TF) - 1)
        before_T = times_T.astype(np.int64)
        after_T = np.minimum(before_T + 1, len(clip_TF) - 1)
        share_T1 = (times_T - before_T)[:, None]
        return ((1 - share_T1) * clip_TF[before_T] + share_T1 * clip_TF[after_T]).astype(np.float32)


def families(scale: int) -> tuple[Family, ...]:
    """All families, with lengths of `scale` times as many frames."""
    return Roughness(scale), Bursts(scale), Stretch(scale)


FAMILIES = families(1)
"""What they are called and aim at, which is the same at every scale."""
