"""Patch → grid of latents, 8 × 8 unless finer rows or columns are asked for."""

import math

import torch
from torch import Tensor, nn

from trainable.config import ModelConfig
from trainable.model.geometry import Geometry
from trainable.model.layers import CHANNEL_MULTIPLE, SeparableConv, grid_strides, run_segments, scaled_channels
from trainable.model.residual import residual_blocks, segments

NETWORK_SHARE = 0.1
"""Factor on the network's last layer at the start where a linear path stands beside it: training begins linear."""


class Encoder(nn.Module):
    """64 × 64 → 32 → 16 → 8 × 8 with channels 32-64-96-latent_dim times `width`.

    With the full `stem` the first convolution stays at 64 × 64, and another one halves. Each stage, which is what has
    one resolution, ends with `depth` residual blocks. For 16 or 32 rows or columns the last one or two halvings leave
    frequency or time as it is. With `linear_path` the latents are z = network(x) + linear(x), so that what a linear map
    keeps of a cell need not be learnt.
    """

    def __init__(self, config: ModelConfig, geometry: Geometry):
        super().__init__()
        first, second, third = (scaled_channels(channels, config.width) for channels in (32, 64, 96))
        strides = grid_strides(geometry)

        def blocks(channels: int) -> list[nn.Module]:
            return residual_blocks(config.depth, channels)

        # The first part holds the large grids and passes on the small one: 64 × 16 × 16.
        self.segments = segments(
            [
                *_stem(config, first, strides[0]),
                *blocks(first),
                SeparableConv(first, second, stride=strides[1]),
                *blocks(second),
            ],
            [
                SeparableConv(second, third, stride=strides[2]),
                *blocks(third),
                nn.Conv2d(third, config.latent_dim, 1),
            ],
        )
        self.linear = LinearCells(config.latent_dim, geometry) if config.linear_path else None
        if self.linear is not None:
            with torch.no_grad():
                for parameter in self.segments[-1][-1].parameters():  # type: ignore[index]
                    parameter.mul_(NETWORK_SHARE)

    def forward(self, patches_XFT: Tensor, *, recompute: bool = False) -> Tensor:
        """Latents (X, D, H, W) of X patches (X, 64, 64); rows of the grid are frequency, columns time."""
        patches_X1FT = patches_XFT.unsqueeze(1)
        latents_XDHW = run_segments(self.segments, patches_X1FT, recompute=recompute)
        return latents_XDHW if self.linear is None else latents_XDHW + self.linear(patches_X1FT)


def _stem(config: ModelConfig, channels: int, stride: tuple[int, int]) -> list[nn.Module]:
    """64 × 64 → 32 × 32, in the first convolution unless the stem is full."""
    full = config.stem == "full"
    layers: list[nn.Module] = [
        nn.Conv2d(1, channels, 3, stride=1 if full else stride, padding=1, bias=False),
        nn.GroupNorm(channels // CHANNEL_MULTIPLE, channels),
        nn.SiLU(),
    ]
    if full:
        layers += [*residual_blocks(config.depth, channels), SeparableConv(channels, channels, stride=stride)]
    return layers


class LinearCells(nn.Conv2d):
    """A linear map of the values of each cell, begun from the D lowest cosines of the cell's DCT-II, then trained."""

    def __init__(self, latent_dim: int, geometry: Geometry):
        cell = geometry.cell_mels, geometry.cell_frames
        super().__init__(1, latent_dim, cell, stride=cell)
        atoms = lowest_cosines(latent_dim, *cell) / math.prod(cell) ** 0.25
        with torch.no_grad():
            self.weight.zero_()[: len(atoms), 0].copy_(atoms)
            self.bias.zero_()  # type: ignore[union-attr]


def lowest_cosines(count: int, height: int, width: int) -> Tensor:
    """The `count` lowest of the orthonormal 2-D DCT-II's basis images (Ahmed et al. 1974), (≤ count, height, width).

    Lowest in spatial frequency, √((u / height)² + (v / width)²) half cycles a sample; there are height · width.
    """
    rows, columns = _cosines(height), _cosines(width)
    order = sorted(
        ((u, v) for u in range(height) for v in range(width)),
        key=lambda uv: ((uv[0] / height) ** 2 + (uv[1] / width) ** 2, uv),
    )
    u, v = zip(*order[:count], strict=True)
    return rows[list(u), :, None] * columns[list(v), None, :]


def _cosines(size: int) -> Tensor:
    """The orthonormal DCT-II of `size` samples: row u holds the cosine of u half cycles."""
    angles = math.pi / size * torch.outer(torch.arange(size), torch.arange(size) + 0.5)
    scale = torch.full((size, 1), math.sqrt(2 / size))
    scale[0] = math.sqrt(1 / size)
    return scale * angles.cos()
