"""Ways of the original recipe that only a benchmark has."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.original import augmented
from tests.noise_clips import IDS, noise_train_clips
from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.model.vqvae import make_model
from trainable.training.trainer import Trainer

SMALL = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "num_embeddings": 16, "batch_size": 7, "n_patches": 2}
CLIPS = noise_train_clips()


@pytest.mark.parametrize(("quantizer", "reached"), [("ema", True), ("detached", False)])
def test_reconstruction_reaches_the_encoder_unless_the_decoder_is_detached(quantizer: str, reached: bool) -> None:
    weights = {"commitment_cost": 0.0, "id_weight": 0.0, "transform_weight": 0.0}
    config = TrialConfig.from_flat(SMALL | weights | {"quantizer": quantizer, "epochs": 1})
    plan = ExecutionPlan(micro_batch_clips=7)
    trainer = Trainer(config, CLIPS, IDS, plan=plan, device=torch.device("cpu"))
    trainer.train_epoch()
    gradients = [parameter.grad for parameter in trainer.state.model.encoder.parameters()]
    assert any(grad is not None and bool(grad.any()) for grad in gradients) is reached


def test_batch_norm_takes_the_place_of_every_group_norm() -> None:
    config = TrialConfig.from_flat(SMALL | {"model": "batch_norm", "stem": "full", "depth": 1})
    model = make_model(config, 2)
    for network in (model.encoder, model.decoder):
        kinds = {type(layer) for layer in network.modules()}
        assert nn.BatchNorm2d in kinds
        assert nn.GroupNorm not in kinds


def test_clips_are_transformed_anew_each_time_they_are_read() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (augmented(CLIPS, generator) for _ in range(2))
    again = augmented(CLIPS, torch.Generator().manual_seed(0))
    assert first.names == CLIPS.names
    assert np.array_equal(first.frames_TF, again.frames_TF)
    changed = [not np.array_equal(first.clip(index), second.clip(index)) for index in range(len(CLIPS))]
    assert np.mean(changed) > 0.8  # one in nine transformations changes nothing
