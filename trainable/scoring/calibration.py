"""What a score means on its own: how rare it is among normal clips, and when in the clip it comes from."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainable.data.patches import PATCH_FRAMES
from trainable.errors import DataError


def p_values(scores: np.ndarray, normal_scores: np.ndarray) -> np.ndarray:
    """Conformal p-values (1 + #{normal ≥ score}) / (n + 1) of scores, float64 (clips,) in (0, 1].

    A normal clip that is exchangeable with the n held-out normal ones gets a p-value ≤ α with probability ≤ α
    (Vovk et al. 2005; Bates et al. 2023). Fit scores must not be used: a model knows the clips it was fitted to.

    Raises
    ------
    DataError
        If there is no normal score to compare with, or one is not finite.
    """
    normal = np.sort(np.asarray(normal_scores, dtype=np.float64))
    if normal.size == 0:
        raise DataError("p-values need scores of normal clips that the density model was not fitted to; there are none")
    if not np.isfinite(normal).all() or not np.isfinite(scores).all():
        raise DataError("p-values need finite scores")
    at_least = normal.size - np.searchsorted(normal, np.asarray(scores, dtype=np.float64), side="left")
    return (1.0 + at_least) / (normal.size + 1.0)


@dataclass(frozen=True)
class Span:
    """Part of a clip, in frames from its beginning; `end` is exclusive."""

    begin: int
    end: int
    surprise: float
    """Mean surprise of the span's frames, in the density model's own units."""


def surprise_over_time(positions_PHW: Tensor, starts_P: Tensor, frames: int) -> np.ndarray:
    """Mean surprise of each frame of a clip, float64 (frames,); NaN where no patch lies.

    A position of the code grid covers 64 / 8 = 8 frames; patches that overlap are averaged, and one that a short clip
    repeats counts once.
    """
    # Starts are in the order of time, so repeats lie side by side.
    first = torch.cat([starts_P.new_ones(1, dtype=torch.bool), starts_P[1:] != starts_P[:-1]])
    columns_PW, starts_P = positions_PHW.double().mean(dim=1)[first], starts_P[first]
    width = PATCH_FRAMES // columns_PW.shape[1]
    frames_PT = columns_PW.repeat_interleave(width, dim=1)
    where_PT = starts_P[:, None] + torch.arange(frames_PT.shape[1])
    inside = where_PT < frames
    total, count = torch.zeros(frames, dtype=torch.float64), torch.zeros(frames, dtype=torch.float64)
    total.index_add_(0, where_PT[inside], frames_PT[inside])
    count.index_add_(0, where_PT[inside], torch.ones_like(frames_PT[inside]))
    return (total / count).numpy()


def most_surprising_span(positions_PHW: Tensor, starts_P: Tensor, frames: int, *, length: int = 16) -> Span:
    """The `length` frames (fewer in a shorter clip) whose mean surprise is largest.

    Parameters
    ----------
    positions_PHW
        Surprise of one clip's positions, (P, 8 frequency rows, 8 columns in time).
    starts_P
        First frame of each patch, counted from the clip's beginning, int64.
    frames
        Length of the clip.

    Raises
    ------
    DataError
        If no patch lies in the clip.
    """
    surprise_T = surprise_over_time(positions_PHW, starts_P, frames)
    heard = np.isfinite(surprise_T)
    if not heard.any():
        raise DataError("no patch lies within the clip; nothing says when it is surprising")
    length = min(length, frames)
    # Cumulative sums of what was heard: a window's mean is over its heard frames, at least half of it.
    sums = np.concatenate([[0.0], np.cumsum(np.where(heard, surprise_T, 0.0))])
    counts = np.concatenate([[0], np.cumsum(heard)])
    window_sums = sums[length:] - sums[:-length]
    window_counts = counts[length:] - counts[:-length]
    enough = window_counts >= min(-(-length // 2), int(window_counts.max()))
    means = np.where(enough, window_sums / np.maximum(window_counts, 1), -np.inf)
    begin = int(means.argmax())
    return Span(begin, begin + length, float(means[begin]))
