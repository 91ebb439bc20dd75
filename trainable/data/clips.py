"""Packed clips in memory, in types that make a leak of test clips into training impossible."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np

from trainable.errors import DataLeakError


class Split(StrEnum):
    """What a clip may be used for."""

    TRAIN = "train"
    """Normal clips: training and density fitting."""
    VALIDATION = "validation"
    """Labelled clips that ASHA and selection see."""
    HELD_OUT = "held_out"
    """Labelled clips reported once, for the winner."""
    HELD_BACK = "held_back"
    """Normal clips that neither training nor a density model sees, and pseudo-anomalies made of them."""


@dataclass(frozen=True)
class ClipSet:
    """Normalised log-mel features of n clips, back to back."""

    frames_TF: np.ndarray
    """float16 (float32 in runs of earlier rules), C-contiguous, (sum of all clips' frames, 64)."""
    offsets: np.ndarray
    """Where each clip begins, int64 (n + 1,); every clip has at least 64 frames."""
    machine_ids: tuple[str, ...]
    """Per clip, such as ``00``."""
    names: tuple[str, ...]
    """Per clip, its file's name."""
    split: Split

    def __len__(self) -> int:
        return len(self.names)

    @property
    def lengths(self) -> np.ndarray:
        """Frames of each clip, int64 (n,)."""
        return np.diff(self.offsets)

    def clip(self, index: int) -> np.ndarray:
        """The frames of one clip, a view (T, 64)."""
        return self.frames_TF[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class TrainClips(ClipSet):
    """Normal training clips: the only clips that training and density fitting accept."""

    def __post_init__(self) -> None:
        if self.split is not Split.TRAIN:
            raise DataLeakError(f"clips of the {self.split} split were offered for training; only train clips may be")
        anomalous = [name for name in self.names if not name.startswith("normal")]
        if anomalous:
            raise DataLeakError(f"{anomalous[0]} is not a normal clip; training sees normal clips only")


@dataclass(frozen=True)
class TestClips(ClipSet):
    """Labelled clips for evaluation."""

    __test__ = False  # not a pytest class

    labels: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Per clip, int64: 0 normal, 1 anomaly."""
    domains: tuple[str, ...] = ()
    """Per clip, such as ``source``; empty where the recordings have no domains."""

    def __post_init__(self) -> None:
        if self.split is Split.TRAIN:
            raise DataLeakError("train clips have no labels and cannot be evaluated")

    def take(self, indices: np.ndarray) -> "TestClips":
        """Some of the clips, copied."""
        lengths = self.lengths[indices]
        frames = [self.clip(index) for index in indices.tolist()]
        return replace(
            self,
            frames_TF=np.concatenate(frames) if frames else self.frames_TF[:0],
            offsets=offsets_of(lengths),
            machine_ids=tuple(self.machine_ids[index] for index in indices.tolist()),
            names=tuple(self.names[index] for index in indices.tolist()),
            labels=self.labels[indices],
            domains=tuple(self.domains[index] for index in indices.tolist()) if self.domains else (),
        )

    @classmethod
    def joined(cls, parts: Sequence["TestClips"]) -> "TestClips":
        """All clips of some sets, copied, as of the first one's split; all of them have domains, or none has."""
        return cls(
            np.concatenate([part.frames_TF for part in parts]),
            offsets_of(np.concatenate([part.lengths for part in parts])),
            tuple(each for part in parts for each in part.machine_ids),
            tuple(each for part in parts for each in part.names),
            parts[0].split,
            labels=np.concatenate([part.labels for part in parts]),
            domains=tuple(each for part in parts for each in part.domains),
        )


def offsets_of(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Where each of n clips that lie back to back begins, and where the last ends, int64 (n + 1,)."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
