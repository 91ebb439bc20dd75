"""Texture: how rough a sound is within each cell of the code grid, predicted from the cell's code vector alone.

A decoder trained on squared error gains nothing from noise that it cannot predict, so codes would keep the mean of a
cell and forget how much the cell fluctuates; yet knocking, rubbing and whining change the fluctuation first.
Predicting one more number per cell makes the codebook keep it (as a decoder that predicts its own variance would,
Rybkin et al. 2021, at the scale of the code grid instead of the pixel's).

X patches of F mel bins and T frames, a grid of H rows and W columns, D latent width.
"""

from torch import Tensor, nn

from trainable.model.geometry import Geometry


def cell_deviations(patches_XFT: Tensor, geometry: Geometry) -> Tensor:
    """Standard deviation of the values of each cell, (X, H, W), in standard deviations of the normalised log-mel."""
    return patches_XFT.unflatten(1, (geometry.rows, -1)).unflatten(3, (geometry.columns, -1)).std(dim=(2, 4))


class TextureHead(nn.Module):
    """Deviation of each cell as an affine function of its code vector."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.tell = nn.Conv2d(latent_dim, 1, 1)  # saved checkpoints and detectors hold this name

    def forward(self, grid_XDHW: Tensor) -> Tensor:
        """Deviations (X, H, W) from code vectors on the decoder's grid (X, D, H, W)."""
        deviations_XHW: Tensor = self.tell(grid_XDHW).squeeze(1)
        return deviations_XHW
