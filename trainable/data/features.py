"""Clips between reading and splitting: unnormalised features, and how a set of them is packed for the cache."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainable.data.cache import Arrays
from trainable.data.frontend import N_MELS


@dataclass(frozen=True)
class ClipFeatures:
    """Unnormalised log-mel features of some clips, and what is known about each."""

    features: list[np.ndarray]
    """Per clip float32 (T, 64)."""
    machine_ids: list[str]
    names: list[str]
    labels: list[int]
    """0 normal, 1 anomaly."""

    def take(self, indices: Sequence[int]) -> "ClipFeatures":
        """Some of the clips; their features are not copied."""
        return ClipFeatures(
            [self.features[index] for index in indices],
            [self.machine_ids[index] for index in indices],
            [self.names[index] for index in indices],
            [self.labels[index] for index in indices],
        )

    def and_(self, other: "ClipFeatures") -> "ClipFeatures":
        """These clips and then the others."""
        return ClipFeatures(
            self.features + other.features,
            self.machine_ids + other.machine_ids,
            self.names + other.names,
            self.labels + other.labels,
        )


@dataclass(frozen=True)
class Recordings:
    """The recordings of one machine type: training and test clips, not yet normalised or split."""

    train: ClipFeatures
    test: ClipFeatures
    skipped: tuple[str, ...]
    """One sentence per recording that could not be used."""
    digest: str
    """Digest of the recordings' contents and the front end."""


def pack(features: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Clips as two arrays, ``frames`` float32 (sum of T, 64) and ``lengths`` int64 (n,)."""
    frames = np.concatenate(features) if len(features) else np.empty((0, N_MELS), np.float32)
    return {"frames": frames, "lengths": np.array([len(clip) for clip in features], dtype=np.int64)}


def unpack(arrays: Arrays) -> list[np.ndarray]:
    """The clips that `pack` packed, as views."""
    lengths = arrays["lengths"]
    return np.split(arrays["frames"], np.cumsum(lengths)[:-1]) if len(lengths) else []
