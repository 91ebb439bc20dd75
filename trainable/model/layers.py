"""The two blocks encoder and decoder are built of, both without batch statistics.

GroupNorm, not BatchNorm: a patch's result must not depend on the other patches in its micro-batch, or splitting an
effective batch would change the gradients.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trainable.errors import ConfigError
from trainable.model.geometry import Geometry

CHANNEL_MULTIPLE = 8
"""Channels are rounded to this multiple: GroupNorm needs groups, tensor cores want multiples of 8."""


def scaled_channels(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to the next multiple of 8, at least 8."""
    return max(CHANNEL_MULTIPLE, round(channels * width / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE)


class SeparableConv(nn.Module):
    """Depthwise 3 × 3 then pointwise convolution (Howard et al. 2017, MobileNets), GroupNorm, SiLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int | tuple[int, int] = 1):
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.GroupNorm(out_channels // CHANNEL_MULTIPLE, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.norm(self.pointwise(self.depthwise(x))))


class Upsample(nn.Module):
    """Multiplies height and width by repetition: no parameters, no checkerboard (Odena et al. 2016)."""

    def __init__(self, rows: int, columns: int):
        super().__init__()
        self.factors = float(rows), float(columns)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factors, mode="nearest")


def time_strides(geometry: Geometry) -> tuple[int, int, int]:
    """Strides in time of the three halvings of a patch: the last one or two are 1 for twice or four times the columns.

    Raises
    ------
    ConfigError
        If three strides of 1 or 2, the first 2, do not make the grid.
    """
    strides = {8: (2, 2, 2), 4: (2, 2, 1), 2: (2, 1, 1)}.get(geometry.cell_frames)
    if strides is None or geometry.cell_mels != 8:
        raise ConfigError(f"this model has no grid of {geometry.rows} × {geometry.columns} codes")
    return strides


def run_segments(segments: nn.ModuleList, x: Tensor, *, recompute: bool) -> Tensor:
    """Applies the segments in turn; with `recompute`, each keeps only its input for the backward pass.

    A segment is a unit of gradient checkpointing (Chen et al. 2016). Segments end where the tensor handed on is
    small; checkpointing each small layer alone would keep every large tensor between them and save nothing.
    """
    for segment in segments:
        if recompute and torch.is_grad_enabled():
            # No layer draws random numbers, so there is no random state to preserve.
            x = checkpoint(segment, x, use_reentrant=False, preserve_rng_state=False)
        else:
            x = segment(x)
    return x
