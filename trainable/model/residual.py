"""Residual blocks, of which the knob `depth` puts some into each stage, and the segments that they make."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from trainable.model.layers import Layers, SeparableConv


class ResidualBlock(nn.Module):
    """x + f(x) on a grid (X, channels, H, W); f is two separable convolutions (He et al. 2016).

    The second has no norm and begins at zero, so that training begins from the network without the block
    (Goyal et al. 2017, section 5.1).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first = SeparableConv(channels, channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        with torch.no_grad():
            self.pointwise.weight.zero_()

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.pointwise(self.depthwise(self.first(x)))
        return x + change


def residual_blocks(depth: int, channels: int) -> list[nn.Module]:
    """The blocks of a stage."""
    return [ResidualBlock(channels) for _ in range(depth)]


def segments(*parts: Iterable[nn.Module]) -> nn.ModuleList:
    """Parts of a network as segments of recomputation: each residual block is one, and so are the layers between two.

    Recomputed one at a time, n blocks keep n inputs and the six tensors inside of one; as one segment they would keep
    those of all n.
    """
    return nn.ModuleList(segment for part in parts for segment in _split(part))


def _split(layers: Iterable[nn.Module]) -> Iterator[nn.Module]:
    between: list[nn.Module] = []
    for layer in layers:
        if not isinstance(layer, ResidualBlock):
            between.append(layer)
            continue
        if between:
            yield Layers(*between)
            between = []
        yield layer
    if between:
        yield Layers(*between)
