"""What the CPU makes as one operation equals the layers in turn."""

import pytest
import torch
from torch import nn

from trainable.model.layers import Layers, Upsample


@pytest.mark.parametrize(("factors", "shuffle"), [((2, 2), 2), ((2, 1), 2), ((2, 2), 1)])
def test_a_convolution_of_repeated_rows_is_made_on_the_small_grid(factors: tuple[int, int], shuffle: int) -> None:
    torch.manual_seed(0)
    layers = [Upsample(*factors), nn.Conv2d(8, shuffle**2, 3, padding=1)]
    if shuffle > 1:
        layers.append(nn.PixelShuffle(shuffle))
    network = Layers(*layers).double()
    grid = torch.randn(3, 8, 5, 7, dtype=torch.float64, requires_grad=True)
    in_turn = nn.Sequential(*layers).double()(grid)
    at_once = network(grid)
    torch.testing.assert_close(at_once, in_turn)
    direction = torch.randn_like(in_turn)
    inputs = [grid, *network.parameters()]
    gradients = (torch.autograd.grad(output, inputs, direction) for output in (at_once, in_turn))
    for mine, its in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, its)
