"""Families of pseudo-anomalies: what a fault does to a recording, imitated on the log-mels of a normal one.

A family has one knob, the severity α; every other draw is seeded by the clip's name and the family's, so that a clip
that is changed more is changed in the same way. T frames, F = 64 mel bins, dB.

`python -m benchmarks.no_labels` measures how well they rank trainings, together and each alone. A new family should be
checked there, and against the transformations of `trainable.model.transforms`: one that resembles them favours
trainings that learnt to tell them apart.
"""

import hashlib
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from trainable.data.frontend import N_MELS


class Family(ABC):
    """One way to change a clip."""

    name: ClassVar[str]
    title: ClassVar[str]
    """What it does, as the end of a sentence about a clip."""
    severities: ClassVar[tuple[float, float]]
    """Smallest and largest α."""
    usual: ClassVar[tuple[float, float]]
    """Severities that the machines of `benchmarks.no_labels` need, with a factor of two on either side."""
    target_auc: ClassVar[float]
    """AUC at which a covariance of log-mel statistics is to hear it: neither obvious nor inaudible."""

    @abstractmethod
    def change(self, clip_TF: np.ndarray, other_TF: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
        """The changed clip, float32 (T, F) dB. `other_TF` is another normal clip of the same machine id, of any T."""

    def draws(self, clip_name: str) -> np.random.Generator:
        """The generator of a clip's draws."""
        digest = hashlib.sha256(f"{self.name}:{clip_name}".encode("utf-8", "surrogateescape")).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))


class Mix(Family):
    """Another clip of the same machine sounds at the same time: 10·log₁₀((1 − α)·10^(x/10) + α·10^(y/10)).

    The other clip is levelled to the same median first, so that not its loudness but its sound is added.
    """

    name = "mix"
    title = "another normal clip of the same machine is mixed in"
    severities = (0.01, 0.5)
    usual = (0.025, 0.5)
    target_auc = 0.70

    def change(self, clip_TF: np.ndarray, other_TF: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
        begin = int(rng.integers(len(other_TF)))
        frames = (begin + np.arange(len(clip_TF))) % len(other_TF)
        levelled_TF = other_TF[frames] + (np.median(clip_TF) - np.median(other_TF))
        power_TF = (1 - alpha) * 10.0 ** (clip_TF / 10) + alpha * 10.0 ** (levelled_TF / 10)
        return (10 * np.log10(power_TF)).astype(np.float32)


class BandLoss(Family):
    """A band, or everything above a frequency, is quieter by up to α dB: half of the clips each."""

    name = "bandloss"
    title = "a band, or all above a frequency, is quieter"
    severities = (0.05, 40.0)
    usual = (0.55, 13.0)
    target_auc = 0.80
    widths: ClassVar[tuple[int, int]] = (6, 20)
    """Mel bins of a band."""
    centres: ClassVar[tuple[int, int]] = (4, 60)
    """Mel bins where its middle may lie."""
    edges: ClassVar[tuple[int, int]] = (30, 58)
    """Mel bins at which a low-pass has lost half of α."""
    edge_width: ClassVar[float] = 2.0
    """Mel bins over which a low-pass's logistic edge falls by e."""

    def change(self, clip_TF: np.ndarray, other_TF: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
        return (clip_TF - alpha * self._shape(rng)).astype(np.float32)

    def _shape(self, rng: np.random.Generator) -> np.ndarray:
        """Share of α that each mel bin loses, (F,), 0 … 1."""
        bins_F = np.arange(N_MELS)
        if rng.random() < 0.5:
            half = rng.integers(self.widths[0], self.widths[1], endpoint=True) / 2
            away_F = np.abs(bins_F - rng.integers(self.centres[0], self.centres[1], endpoint=True)) / half
            return np.where(away_F < 1, np.cos(np.pi / 2 * np.minimum(away_F, 1)) ** 2, 0.0)
        edge = rng.integers(self.edges[0], self.edges[1], endpoint=True)
        return 1 / (1 + np.exp(-(bins_F - edge) / self.edge_width))


FAMILIES: tuple[Family, ...] = (Mix(), BandLoss())
