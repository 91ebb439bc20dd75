"""A recording split into stretches, a stretch into patches, and where in a stretch it is surprising."""

import math
from dataclasses import dataclass

import numpy as np


def stretches(frames: int, most: int) -> list[tuple[int, int]]:
    """Begin and end of parts of `most` frames that cover a recording; the last one ends where the recording ends."""
    count = max(1, -(-frames // most))
    return [(begin := max(0, min(index * most, frames - most)), min(begin + most, frames)) for index in range(count)]


@dataclass(frozen=True)
class Windows:
    """Which patches of a stretch are heard."""

    which: str
    """``all``: as many as cover it; ``configured``: `n_patches` of those that begin every `stride` frames."""
    n_patches: int
    """Patches that the density models compare at a time (P)."""
    stride: int
    patch_frames: int

    def __post_init__(self) -> None:
        if self.which not in ("all", "configured") or min(self.n_patches, self.stride, self.patch_frames) < 1:
            raise ValueError(f"{self} are no windows")

    def starts(self, frames: int) -> np.ndarray:
        """First frame of each patch of R passes over a stretch, int64 (R, P), ascending in each."""
        return self._all(frames) if self.which == "all" else self._configured(frames)[None]

    def _all(self, frames: int) -> np.ndarray:
        passes = max(1, math.ceil(math.ceil(frames / self.patch_frames) / self.n_patches))
        steps_Q = np.arange(passes * self.n_patches)
        if len(steps_Q) == 1:
            return np.array([[(frames - self.patch_frames) // 2]])
        starts_Q = (frames - self.patch_frames) * steps_Q // (len(steps_Q) - 1)
        return starts_Q.reshape(self.n_patches, passes).T

    def _configured(self, frames: int) -> np.ndarray:
        """Evenly spaced windows; repeated where there are too few."""
        windows = (frames - self.patch_frames) // self.stride + 1
        steps_P = np.arange(self.n_patches)
        if windows < self.n_patches:
            return np.sort(steps_P % windows) * self.stride
        if self.n_patches == 1:
            return np.array([(windows - 1) // 2 * self.stride])
        return (windows - 1) * steps_P // (self.n_patches - 1) * self.stride


def gathered(frames_TF: np.ndarray, starts_P: np.ndarray, patch_frames: int) -> np.ndarray:
    """Patches that begin at `starts_P`, float32 (P, 64, patch_frames)."""
    return np.stack([frames_TF[start : start + patch_frames].T for start in starts_P.tolist()])


def frame_surprise(surprise_PHW: np.ndarray, starts_P: np.ndarray, frames: int, patch_frames: int) -> np.ndarray:
    """Surprise of each frame, summed over frequency and averaged over the patches that hold it, (T,); NaN outside."""
    total_T, count_T = np.zeros(frames), np.zeros(frames)
    cell_frames = patch_frames // surprise_PHW.shape[2]
    for surprise_HW, start in zip(surprise_PHW, starts_P.tolist(), strict=True):
        total_T[start : start + patch_frames] += np.repeat(surprise_HW.sum(axis=0), cell_frames)
        count_T[start : start + patch_frames] += 1
    return np.where(count_T > 0, total_T / np.maximum(count_T, 1), np.nan)


def most_surprising(surprise_T: np.ndarray) -> tuple[int, int]:
    """First frame of the most surprising part and the frame after it.

    It holds the peak and extends as far as the surprise stays above the midpoint of median and peak.
    """
    peak = int(np.nanargmax(surprise_T))
    threshold = (float(np.nanmedian(surprise_T)) + float(surprise_T[peak])) / 2
    below = np.flatnonzero(~(surprise_T >= threshold))  # NaN counts as below
    before, after = below[below < peak], below[below > peak]
    begin = int(before[-1]) + 1 if len(before) else 0
    return begin, int(after[0]) if len(after) else len(surprise_T)
