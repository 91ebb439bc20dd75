"""Trials trained as one batched model have the losses that each has alone."""

import pytest
import torch

from benchmarks.fused_trials import Fused, largest_difference, trials_of

SMALL = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "batch_size": 4, "n_patches": 2, "num_embeddings": 16}


RESIDUAL = {"codebooks": 2, "columns": 16, "linear_path": True, "id_weight": 0.0}


@pytest.mark.parametrize(("n", "knobs"), [(1, {}), (3, {}), (2, RESIDUAL)])
def test_fused_trials_have_the_losses_of_each_alone(n: int, knobs: dict[str, object]) -> None:
    trials = trials_of(SMALL | knobs, n, 5, torch.device("cpu"), torch.float64)
    assert largest_difference(trials, Fused(trials), 5) < 1e-9
