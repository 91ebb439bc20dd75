"""Clips between reading and splitting: unnormalised features, and how a set of them is packed for the cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainable.data.cache import Arrays, release
from trainable.data.check import DataCheck
from trainable.data.frontend import N_MELS
from trainable.data.npy import Axes
from trainable.errors import DataError

_RELEASED_BYTES = 64 << 20
"""Memory-mapped features that are in memory at a time."""


@dataclass(frozen=True)
class ClipInfo:
    """What is known about a clip besides its sound."""

    machine_id: str
    name: str
    label: Literal[0, 1]
    """0 normal, 1 anomaly."""
    group: str = ""
    """What this clip and others were cut from; empty = it is a recording of its own."""
    domain: str = ""
    """Such as ``source``; empty where a data set has no domains."""


@dataclass(frozen=True)
class ClipFeatures:
    """Unnormalised log-mel features of some clips, and what is known about each."""

    features: list[np.ndarray]
    """Per clip float32 (T, 64)."""
    infos: list[ClipInfo]

    @property
    def machine_ids(self) -> list[str]:
        return [info.machine_id for info in self.infos]

    @property
    def names(self) -> list[str]:
        return [info.name for info in self.infos]

    @property
    def labels(self) -> list[int]:
        return [info.label for info in self.infos]

    @property
    def groups(self) -> list[str]:
        return [info.group for info in self.infos]

    @property
    def domains(self) -> tuple[str, ...]:
        """Of every clip; empty where none has one."""
        domains = tuple(info.domain for info in self.infos)
        return domains if any(domains) else ()

    def take(self, indices: Sequence[int]) -> "ClipFeatures":
        """Some of the clips; their features are not copied."""
        return ClipFeatures([self.features[index] for index in indices], [self.infos[index] for index in indices])

    def and_(self, other: "ClipFeatures") -> "ClipFeatures":
        """These clips and then the others."""
        return ClipFeatures(self.features + other.features, self.infos + other.infos)


@dataclass(frozen=True)
class Recordings:
    """The recordings of one machine type: training and test clips, not yet normalised or split."""

    train: ClipFeatures
    test: ClipFeatures
    skipped: tuple[str, ...]
    """One sentence per recording that could not be used."""
    digest: str
    """Digest of the recordings' contents and the front end."""
    axes: Axes | None = None
    """How precomputed features lie in their files; None without such files."""
    check: DataCheck | None = None
    """How the recordings were stored; None for embedded machines."""


def pack(features: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Clips as two arrays, ``frames`` float32 (sum of T, 64) and ``lengths`` int64 (n,)."""
    frames = np.concatenate(features) if len(features) else np.empty((0, N_MELS), np.float32)
    return {"frames": frames, "lengths": np.array([len(clip) for clip in features], dtype=np.int64)}


def unpack(arrays: Arrays) -> list[np.ndarray]:
    """The clips that `pack` packed, as views. Raises DataError if the two arrays do not belong together."""
    frames, lengths = arrays["frames"], arrays["lengths"]
    same = lengths.dtype == np.int64 and lengths.ndim == 1 and frames.shape == (int(lengths.sum()), N_MELS)
    if not same or frames.dtype != np.float32 or (lengths < 0).any():
        raise DataError("the cached features do not belong together; remove the folder of the cache ($AD_CACHE_DIR)")
    return np.split(frames, np.cumsum(lengths)[:-1]) if len(lengths) else []


def passing(features: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The clips one after the other, of which few are in memory at a time if they are memory-mapped."""
    read_bytes = 0
    for clip in features:
        yield clip
        read_bytes += clip.nbytes
        if read_bytes >= _RELEASED_BYTES:
            release(clip)
            read_bytes = 0
    if len(features):
        release(features[-1])
