"""The blocks encoder and decoder are built of, all without batch statistics.

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
        self.factors = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.factors
        return F.interpolate(x, scale_factor=(float(rows), float(columns)), mode="nearest")


class Layers(nn.Sequential):
    """Layers in turn. On the CPU a repetition, the 3 × 3 convolution after it and a pixel shuffle are one operation.

    Not elsewhere, where `trainable.memory` foretells what these layers allocate one by one.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return super().forward(x)  # type: ignore[no-untyped-call]
        layers = list(self)
        while layers:
            match layers:
                case [Upsample() as repeat, nn.Conv2d() as conv, nn.PixelShuffle() as shuffle, *layers] if _folds(conv):
                    x = upsampled_conv(x, repeat.factors, conv, shuffle=shuffle.upscale_factor)
                case [Upsample() as repeat, nn.Conv2d() as conv, *layers] if _folds(conv):
                    x = upsampled_conv(x, repeat.factors, conv)
                case [layer, *layers]:
                    x = layer(x)
        return x


def _folds(conv: nn.Conv2d) -> bool:
    """Whether a convolution is one that `upsampled_conv` computes."""
    plain = (conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups)
    return plain == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and conv.bias is not None


def upsampled_conv(x: Tensor, factors: tuple[int, int], conv: nn.Conv2d, *, shuffle: int = 1) -> Tensor:
    """`conv` of a grid (X, I, H, W) whose rows and columns are repeated, then a pixel shuffle: (X, O, …, …).

    Of three neighbours among doubled rows two are the same row, so each output pixel sees 2 × 2 pixels of the grid.
    These are convolved with sums of the weights, one channel for each place in a pixel's repetition: 4 of 9 products,
    and the repeated grid never exists (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional
    layer?"). Equal up to rounding.

    Parameters
    ----------
    factors
        How often each row and each column is repeated, 1 or 2.
    conv
        3 × 3, padding 1, stride 1, with a bias and O · shuffle² channels.
    """
    # R × C places in a pixel's repetition, S × S of the shuffle, A × B pixels that each place sees.
    rows, columns = factors
    sums_9M = _SUMS_OF_TAPS[rows, columns].to(conv.weight.dtype)
    weight_NIRACB = (conv.weight.flatten(2) @ sums_9M).unflatten(2, (rows, 4 - rows, columns, 4 - columns))
    weight_OSSIRACB = weight_NIRACB.unflatten(0, (-1, shuffle, shuffle))
    weight_ORSCSIAB = weight_OSSIRACB.permute(0, 4, 1, 6, 2, 3, 5, 7)
    weight = weight_ORSCSIAB.flatten(0, 4)
    places = -1, rows, shuffle, columns, shuffle
    assert conv.bias is not None
    bias = conv.bias.view(-1, 1, shuffle, 1, shuffle).expand(places).flatten()
    out_XORSCSHW = F.conv2d(x, weight, bias, padding=1).unflatten(1, places)
    out = out_XORSCSHW.permute(0, 1, 6, 2, 3, 7, 4, 5).flatten(5, 7).flatten(2, 4)
    # Where rows are doubled, the first and the last place lie outside of the grid.
    above, left = (rows - 1) * shuffle, (columns - 1) * shuffle
    return out[:, :, above : out.shape[2] - above, left : out.shape[3] - left]


_SEEN = {
    1: torch.eye(3, device="cpu")[None],
    2: torch.tensor([[[1.0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 1]]], device="cpu"),
}
"""By how often rows are repeated: which of three weights add up to what each place in the repetition sees.

The last place of a pixel comes first: it sees the pixel and the next, its first the one before and itself."""
_SUMS_OF_TAPS = {
    (rows, columns): torch.einsum("rak,cbl->klracb", _SEEN[rows], _SEEN[columns]).flatten(0, 1).flatten(1)
    for rows in _SEEN
    for columns in _SEEN
}
"""The same for 3 × 3 weights, (9, places × weights seen)."""


def grid_strides(geometry: Geometry) -> list[tuple[int, int]]:
    """Strides in frequency and in time of the three halvings of a patch.

    The last one or two are 1 for twice or four times the rows, or the columns.

    Raises
    ------
    ConfigError
        If three strides of 1 or 2, the first 2, do not make the grid.
    """
    strides = {8: (2, 2, 2), 4: (2, 2, 1), 2: (2, 1, 1)}
    if geometry.cell_mels not in strides or geometry.cell_frames not in strides:
        raise ConfigError(f"this model has no grid of {geometry.rows} × {geometry.columns} codes")
    return list(zip(strides[geometry.cell_mels], strides[geometry.cell_frames], strict=True))


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
