"""Patches: windows of packed clips, chosen by index and cut as one gather of a strided view.

B clips, P patches, F = 64 mel bins, T frames per patch, which the model's geometry sets.
"""

import numpy as np
import torch
from torch import Tensor

from trainable.errors import DataError


def patch_starts(
    offsets: np.ndarray,
    clip_indices_B: Tensor,
    *,
    n_patches: int,
    stride: int,
    patch_frames: int,
    generator: torch.Generator | None,
) -> Tensor:
    """First frame of each kept patch in the packed features, int64 (B, P), in the order of time.

    A clip of L frames offers (L − T) // stride + 1 windows. With a generator, `n_patches` of them are sampled
    without replacement if there are more, and repeated if there are fewer; without one they are evenly spaced from
    the first window to the last (a single one lies in the middle).

    Raises DataError for a clip that is shorter than a patch.
    """
    begins = torch.from_numpy(np.asarray(offsets).copy())
    lengths_B = (begins[1:] - begins[:-1])[clip_indices_B]
    check_lengths(lengths_B.numpy(), patch_frames)
    windows_B1 = ((lengths_B - patch_frames) // stride + 1)[:, None]
    if generator is None:
        steps_P = torch.arange(n_patches)
        last_B1 = windows_B1 - 1
        enough = last_B1 * steps_P // (n_patches - 1) if n_patches > 1 else last_B1 // 2
        columns_BP = torch.where(windows_B1 >= n_patches, enough, steps_P % windows_B1)
    else:
        # A random rank for each window that exists; the n smallest ranks are a sample without replacement.
        most = int(windows_B1.max())
        keys = torch.rand(clip_indices_B.shape[0], max(most, n_patches), generator=generator)
        exists = torch.arange(keys.shape[1]) < windows_B1
        order = keys.masked_fill(~exists, 2.0).argsort(dim=1)[:, :n_patches]
        ranks_P = torch.arange(n_patches) % windows_B1.clamp_max(n_patches)
        columns_BP = order.gather(1, ranks_P)
    columns_BP = columns_BP.sort(dim=1).values
    return begins[clip_indices_B][:, None] + columns_BP * stride


def check_lengths(lengths: np.ndarray, patch_frames: int) -> None:
    """Raises DataError for a clip, of so many frames, that is shorter than a patch."""
    if len(lengths) and lengths.min() < patch_frames:
        raise DataError(
            f"a clip of {lengths.min()} frames is shorter than the model's patches of {patch_frames}; "
            "leave short recordings out, or use a model with shorter patches"
        )


def gather_patches(frames_TF: Tensor, starts_BP: Tensor, *, patch_frames: int) -> Tensor:
    """Patches (B, P, F mels, T frames) that begin at `starts_BP`, on the features' device."""
    windows_SFT = frames_TF.unfold(0, patch_frames, 1)
    return windows_SFT[starts_BP]
