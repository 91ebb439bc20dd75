"""Which windows of a clip are scored: those that cover it, or those at the stride of training.

L frames of a stretch, P windows of T frames in a pass, R passes, X passes of all stretches.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch

from trainable.config import ScoreWindows
from trainable.data.patches import check_lengths, patch_starts


class Windows(StrEnum):
    """How many windows of a stretch are heard."""

    ALL = "all"
    """As many as cover every frame."""
    CONFIGURED = "configured"
    """`score_patches` of the configuration, as detectors of formats 2 and 3 were calibrated."""


@dataclass(frozen=True)
class Passes:
    """The windows of some stretches. A density model hears each pass as a clip of as many windows as it was fitted to;
    a stretch scores the mean of its passes."""

    starts_XP: torch.Tensor
    """First frame of each window among the packed frames, int64."""
    owners_X: np.ndarray
    """Stretch of each pass, int64, ascending."""

    def one_each(self) -> "Passes":
        """One pass of each stretch, by turns its first, second and so on.

        Two stretches take the same turn: those of even and of odd numbers, which calibrate each other, have all turns.
        """
        first = np.flatnonzero(np.diff(self.owners_X, prepend=-1))
        counts = np.diff(first, append=len(self.owners_X))
        chosen = first + np.arange(len(first)) // 2 % counts
        return Passes(self.starts_XP[torch.from_numpy(chosen)], self.owners_X[chosen])

    def means(self, values_KX: np.ndarray) -> np.ndarray:
        """Means over the passes of each stretch, float64 (…, stretches), of values (…, X)."""
        first = np.flatnonzero(np.diff(self.owners_X, prepend=-1))
        counts = np.diff(first, append=len(self.owners_X))
        return np.add.reduceat(values_KX, first, axis=-1, dtype=np.float64) / counts


def choose_windows(offsets: np.ndarray, windows: Windows, *, count: int, stride: int, patch_frames: int) -> Passes:
    """The windows of stretches that lie back to back.

    Parameters
    ----------
    offsets
        First frame of each stretch and the end of the last, int64 (stretches + 1,).
    count
        Windows of a pass, P.
    stride
        Of the configuration: where it may set windows if it chooses their number.

    Raises
    ------
    DataError
        If a stretch is shorter than a window.
    """
    if windows is Windows.CONFIGURED or len(offsets) == 1:
        everything = torch.arange(len(offsets) - 1)
        starts_BP = patch_starts(
            offsets, everything, n_patches=count, stride=stride, patch_frames=patch_frames, generator=None
        )
        return Passes(starts_BP, everything.numpy())
    lengths = np.diff(offsets)
    check_lengths(lengths, patch_frames)
    of_length = {length: covering_passes(length, count, patch_frames) for length in set(lengths.tolist())}
    passes = [of_length[length] for length in lengths.tolist()]
    starts = [begin + starts_RP for begin, starts_RP in zip(offsets[:-1].tolist(), passes, strict=True)]
    owners = np.repeat(np.arange(len(passes)), [len(each) for each in passes])
    return Passes(torch.from_numpy(np.concatenate(starts)), owners)


def scored_starts(
    offsets: np.ndarray, score_windows: ScoreWindows, *, count: int, stride: int, patch_frames: int
) -> torch.Tensor:
    """First frame of each window that a search scores, among the packed frames, int64 (clips, count).

    Of a clip that takes several passes to cover, one is scored: by turns its first, second and so on.

    Raises DataError for a clip that is shorter than a window.
    """
    windows = Windows.ALL if score_windows == "cover" else Windows.CONFIGURED
    passes = choose_windows(offsets, windows, count=count, stride=stride, patch_frames=patch_frames)
    return passes.one_each().starts_XP


def covering_passes(length: int, count: int, patch_frames: int) -> np.ndarray:
    """First frames of windows that cover a stretch from its first frame to its last, int64 (R, P).

    The fewest passes of `count` windows that can; all windows are evenly spaced, and so are those of each pass.
    """
    passes = math.ceil(length / (patch_frames * count))
    total = passes * count
    starts = (length - patch_frames) * np.arange(total, dtype=np.int64) // max(total - 1, 1)
    return starts.reshape(count, passes).T
