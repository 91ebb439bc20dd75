"""Encoder and decoder: the linear path, the grids, the stem and residual blocks."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.predict import DataSizes, Predictor
from trainable.model.encoder import NETWORK_SHARE, lowest_cosines
from trainable.model.geometry import geometry_of
from trainable.model.residual import ResidualBlock
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


@pytest.mark.parametrize("stem", ["strided", "full"])
@pytest.mark.parametrize("depth", [0, 1])
def test_the_decoder_undoes_every_grid(stem: str, depth: int) -> None:
    for rows, columns in itertools.product((0, 16, 32), (0, 16, 32)):
        config = TrialConfig.from_flat(SMALL | {"rows": rows, "columns": columns, "stem": stem, "depth": depth})
        grid = geometry_of(config)
        assert (grid.rows, grid.columns) == (rows or 8, columns or 8)
        decoded = make_model(config, 2).decoder(torch.zeros(2, 8, grid.rows, grid.columns))
        assert decoded.shape == (2, 64, 64)


def test_a_grid_that_the_model_cannot_make_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"columns is 12; the grid of model convolutional may have 8, 16, 32"):
        geometry_of(TrialConfig.from_flat({"columns": 12}))
    with pytest.raises(ConfigError, match=r"rows is 64; the grid of model convolutional may have 8, 16, 32"):
        geometry_of(TrialConfig.from_flat({"rows": 64}))


def widest_grid(model: nn.Module, patches: Tensor) -> tuple[int, int]:
    """Channels and rows of the largest output of a convolution."""
    shapes: list[torch.Size] = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _layer, _inputs, output: shapes.append(output.shape[1:3]))
    model(patches)
    channels, rows = max(shapes, key=lambda shape: (shape[1], shape[0]))
    return channels, rows


def test_a_full_stem_keeps_the_resolution_of_the_patch_at_both_ends() -> None:
    for stem, rows in (("strided", 32), ("full", 64)):
        model = make_model(TrialConfig.from_flat({"stem": stem}), 2).to("meta")
        assert widest_grid(model.encoder, torch.zeros(1, 64, 64, device="meta")) == (32, rows)
    assert widest_grid(model.decoder, torch.zeros(1, 64, 8, 8, device="meta"))[1] == 64


def test_residual_blocks_change_nothing_until_they_have_learnt() -> None:
    for module in ("encoder", "decoder"):
        network = getattr(make_model(TrialConfig.from_flat({"depth": 2, "stem": "full"}), 2), module)
        x = torch.randn(2, 64, 64) if module == "encoder" else torch.randn(2, 64, 8, 8)
        with_blocks = network(x)
        network.segments = nn.ModuleList(each for each in network.segments if not isinstance(each, ResidualBlock))
        assert torch.equal(network(x), with_blocks)


def test_recomputing_deep_stages_keeps_a_block_at_a_time() -> None:
    """Eight blocks more cost eight inputs, which is a sixth of what they cost without recomputation."""
    data = DataSizes(train_frames=0, test_frames=0, train_clips=64, test_clips=0, n_ids=2)

    def bytes_of(depth: int, *, recompute: bool) -> int:
        config = TrialConfig.from_flat({"stem": "full", "depth": depth, "kmeans_start": False})
        plan = ExecutionPlan(micro_batch_clips=16, recompute_encoder=recompute, recompute_decoder=recompute)
        return Predictor(data).allocated_bytes(config, plan)

    kept, recomputed = (bytes_of(8, recompute=on) - bytes_of(1, recompute=on) for on in (False, True))
    assert recomputed < kept / 5
