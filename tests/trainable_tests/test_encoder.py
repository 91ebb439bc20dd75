"""The encoder's linear path and its grids."""

import pytest
import torch

from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.model.encoder import NETWORK_SHARE, lowest_cosines
from trainable.model.geometry import geometry_of
from trainable.model.vqvae import make_model

SMALL = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "num_embeddings": 16}


def test_the_lowest_cosines_are_orthonormal_and_begin_with_mean_slope_and_slope() -> None:
    atoms = lowest_cosines(64, 8, 8)
    gram = torch.einsum("ifs,jfs->ij", atoms, atoms)
    assert torch.allclose(gram, torch.eye(64), atol=1e-5)
    assert torch.allclose(atoms[0], torch.full((8, 8), 1 / 8))
    assert torch.allclose(atoms[1], atoms[1][:1].expand(8, 8))  # varies in time only
    assert torch.allclose(atoms[2], atoms[1].T, atol=1e-6)
    assert len(lowest_cosines(100, 8, 4)) == 32


@pytest.mark.parametrize("columns", [8, 16, 32])
def test_the_path_adds_the_cosines_of_each_cell_to_the_network(columns: int) -> None:
    flat = SMALL | {"columns": columns, "seed": 3}
    plain = make_model(TrialConfig.from_flat(flat), 2).encoder
    linear = make_model(TrialConfig.from_flat(flat | {"linear_path": True}), 2).encoder
    patches = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    frames = 64 // columns
    cells = patches.unflatten(1, (8, 8)).unflatten(3, (columns, frames))
    atoms = lowest_cosines(8, 8, frames) / (8 * frames) ** 0.25
    expected = NETWORK_SHARE * plain(patches) + torch.einsum("xhfws,dfs->xdhw", cells, atoms)
    assert torch.allclose(linear(patches), expected, atol=1e-5)
    assert linear(patches).shape == (3, 8, 8, columns)


def test_more_channels_than_a_cell_has_values_leave_the_rest_to_the_network() -> None:
    config = TrialConfig.from_flat(SMALL | {"latent_dim": 20, "columns": 32, "linear_path": True})
    weight = make_model(config, 2).encoder.linear.weight
    assert (weight[:16] != 0).flatten(1).any(dim=1).all()
    assert not weight[16:].any()


def test_the_decoder_undoes_every_grid() -> None:
    for columns in (0, 16, 32):
        config = TrialConfig.from_flat(SMALL | {"columns": columns})
        grid = geometry_of(config)
        assert grid.columns == (columns or 8)
        decoded = make_model(config, 2).decoder(torch.zeros(2, 8, grid.rows, grid.columns))
        assert decoded.shape == (2, 64, 64)


def test_a_grid_that_the_model_cannot_make_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"columns is 12; the grid of model convolutional may have 8, 16, 32"):
        geometry_of(TrialConfig.from_flat({"columns": 12}))
