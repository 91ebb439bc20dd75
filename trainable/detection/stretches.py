"""A recording split into stretches as long as the training clips, and where in a stretch it is surprising.

S stretches, T frames, P patches, H frequency rows and W columns in time of the code grid.
"""

from dataclasses import dataclass

import numpy as np

from trainable.data.clips import TestClips
from trainable.model.geometry import Geometry


def stretches(frames: int, most: int) -> list[tuple[int, int]]:
    """Begin and end of parts of `most` frames that cover a recording; the last part ends where the recording ends.

    A recording no longer than that is one part.
    """
    count = max(1, -(-frames // most))
    return [(begin := max(0, min(index * most, frames - most)), min(begin + most, frames)) for index in range(count)]


@dataclass(frozen=True)
class CutClips:
    """The S stretches of labelled clips, back to back."""

    frames_TF: np.ndarray
    offsets: np.ndarray
    """First frame of each stretch and the end of the last, int64 (S + 1,)."""
    ids: tuple[str, ...]
    """Machine id of each stretch."""
    owners: np.ndarray
    """Index of the clip that each stretch comes from, int64 (S,)."""


def cut_clips(clips: TestClips, most: int) -> CutClips:
    """Splits clips into stretches of at most `most` frames; makes no copy if no clip is longer."""
    if len(clips) == 0 or int(clips.lengths.max()) <= most:
        return CutClips(clips.frames_TF, clips.offsets, clips.machine_ids, np.arange(len(clips)))
    parts, owners = [], []
    for index in range(len(clips)):
        first, length = int(clips.offsets[index]), int(clips.lengths[index])
        for begin, end in stretches(length, most):
            parts.append(clips.frames_TF[first + begin : first + end])
            owners.append(index)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return CutClips(np.concatenate(parts), offsets, tuple(clips.machine_ids[i] for i in owners), np.array(owners))


def frame_surprise(surprise_PHW: np.ndarray, starts_P: np.ndarray, n_frames: int, geometry: Geometry) -> np.ndarray:
    """Surprise of each frame, summed over frequency and averaged over the patches that hold it, (T,); NaN outside."""
    total, count = np.zeros(n_frames), np.zeros(n_frames)
    for surprise_HW, start in zip(surprise_PHW, starts_P.tolist(), strict=True):
        end = start + geometry.patch_frames
        total[start:end] += np.repeat(surprise_HW.sum(axis=0), geometry.cell_frames)
        count[start:end] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def most_surprising(surprise_T: np.ndarray) -> tuple[int, int]:
    """First frame of the most surprising stretch and the frame after it.

    It contains the peak and extends as far as the surprise stays above the midpoint of median and peak.
    """
    peak = int(np.nanargmax(surprise_T))
    threshold = (float(np.nanmedian(surprise_T)) + float(surprise_T[peak])) / 2
    below = np.flatnonzero(~(surprise_T >= threshold))  # NaN counts as below
    before, after = below[below < peak], below[below > peak]
    begin = int(before[-1]) + 1 if len(before) else 0
    return begin, int(after[0]) if len(after) else len(surprise_T)
