"""Other tasks for the codes beside reconstruction, as loss terms that a benchmark adds.

`register` adds two terms, each off until its weight is above 0. *context*: the values of a cell from the code vectors
of the columns beside it, as IDNN predicts a frame from its neighbours (Suefusa et al. 2020). *resolutions*: the
reconstruction again, at a half, a quarter and an eighth of the resolution.

X patches of F mel bins and T frames, a grid of H rows and W columns, D latent width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainable.config import TrialConfig, weight_knob
from trainable.model.architecture import architecture_named
from trainable.training.losses import LossTerm, StepValues, register_loss_term

REACH = 2
"""Columns to either side that predict a cell."""
POOLED = (2, 4, 8)


class Context(nn.Module):
    """Each cell's values from the code vectors of the columns beside it and of the rows next to its own."""

    beside_11HW: Tensor

    def __init__(self, config: TrialConfig, n_ids: int):
        super().__init__()
        geometry = architecture_named(config.model.model).geometry_for(config.model)
        size = (3, 2 * REACH + 1)
        self.hear = nn.Conv2d(config.model.latent_dim, config.model.head_hidden, size, padding=(1, REACH))
        self.tell = nn.Conv2d(config.model.head_hidden, geometry.cell_mels * geometry.cell_frames, 1)
        beside = torch.ones(1, 1, *size)
        beside[..., REACH] = 0.0
        self.register_buffer("beside_11HW", beside, persistent=False)

    def forward(self, grid_XDHW: Tensor) -> Tensor:
        """Predicted values of each cell, (X, values of a cell, H, W)."""
        weight = self.hear.weight * self.beside_11HW
        heard = F.conv2d(grid_XDHW, weight, self.hear.bias, padding=(1, REACH))
        predicted: Tensor = self.tell(F.silu(heard))
        return predicted


def cells(patches_XFT: Tensor, rows: int, columns: int) -> Tensor:
    """The values of each cell, (X, values of a cell, H, W): mel bins, then frames."""
    cells_XHFWT = patches_XFT.unflatten(1, (rows, -1)).unflatten(3, (columns, -1))
    return cells_XHFWT.permute(0, 2, 4, 1, 3).flatten(1, 2)


def context(values: StepValues) -> Tensor:
    state = values.state
    with values.mixed_precision():
        predicted = state.model.extra_heads["context"](values.grid_XDHW)
    return F.mse_loss(predicted.to(state.dtype), cells(values.patches_XFT, state.geometry.rows, state.geometry.columns))


def resolutions(values: StepValues) -> Tensor:
    errors_XFT = values.reconstructed_XFT.to(values.state.dtype) - values.patches_XFT
    return torch.stack([F.avg_pool2d(errors_XFT, size).square().mean() for size in POOLED]).sum()


def register() -> None:
    """Registers the terms and the knobs of their weights: `context_weight`, `resolutions_weight`."""
    for name, value, doc, head in (
        ("context", context, "prediction of cells from the columns beside them", Context),
        ("resolutions", resolutions, "reconstruction at coarser resolutions", None),
    ):
        weight = weight_knob(f"{name}_weight", f"weight of the {doc}; 0 = off")
        register_loss_term(LossTerm(name=name, value=value, weight=weight, head=head))
