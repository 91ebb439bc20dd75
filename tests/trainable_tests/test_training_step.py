"""What a step minimises and how far it moves, against the equations worked out here."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.noise_clips import IDS, noise_train_clips
from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.training.trainer import Trainer

CLIPS = noise_train_clips()
SMALL = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "n_patches": 2, "num_embeddings": 16, "epochs": 5}

pytestmark = pytest.mark.slow


def trainer_of(**flat: Any) -> Trainer:
    config = TrialConfig.from_flat(SMALL | flat)
    plan = ExecutionPlan(micro_batch_clips=config.patch.batch_size)
    return Trainer(config, CLIPS, IDS, plan=plan, device=torch.device("cpu"), dtype=torch.float64)


def test_the_loss_of_each_epoch_holds_the_commitment_as_its_warm_up_scales_it() -> None:
    """Cost 0.5; the warm-up goes from 0.2 to 1 in four epochs."""
    trainer = trainer_of(
        batch_size=7,
        commitment_cost=0.5,
        commitment_warmup_epochs=4,
        commitment_warmup_start=0.2,
        texture_weight=2.0,
        id_weight=0.25,
        transform_weight=0.75,
        vq_only_share=0.4,
    )
    for scale in (0.2, 0.4, 0.6, 0.8, 1.0):
        losses = trainer.train_epoch()
        terms = losses.terms
        assert terms["commitment"] > 1e-3, "or the test could not tell whether it is there"
        expected = terms["reconstruction"] + 0.5 * scale * terms["commitment"] + 2.0 * terms["texture"]
        expected += 0.25 * terms["id"] + 0.75 * terms["transform"]
        assert losses.total == pytest.approx(expected, rel=1e-9)


def test_the_gradient_of_a_step_holds_the_scaled_commitment_too() -> None:
    """Phase 1 without texture: the encoder hears reconstruction and commitment alone, and its gradient
    is linear in the scale: that of scale 0.5 lies half-way between those of 0 and 1."""
    gradients = []
    for scale in (0.0, 0.5, 1.0):
        trainer = trainer_of(
            batch_size=len(CLIPS),
            commitment_cost=0.5,
            commitment_warmup_epochs=1,
            commitment_warmup_start=scale,
            texture_weight=0.0,
            vq_only_share=1.0,
            frozen_share=0.0,
            gradient_clip=0.0,
        )
        trainer.train_epoch()
        parameters = trainer.state.model.encoder.parameters()
        gradients.append(torch.cat([each.grad.flatten() for each in parameters if each.grad is not None]))
    none, half, whole = gradients
    assert float((whole - none).abs().max()) > 1e-6
    assert torch.allclose(half, (none + whole) / 2, rtol=1e-9, atol=1e-12)


@contextmanager
def recorded_steps(trainer: Trainer) -> Iterator[list[tuple[float, Tensor, Tensor, Tensor]]]:
    """Learning rate, gradient, weights before and weights after each optimizer step, of the first parameter."""
    optimizer = trainer.state.optimizer
    parameter = optimizer.param_groups[0]["params"][0]
    step, steps = optimizer.step, []

    def recorded(*args: Any, **kwargs: Any) -> Any:
        before, gradient = parameter.detach().clone(), parameter.grad.clone()
        result = step(*args, **kwargs)
        steps.append((optimizer.param_groups[0]["lr"], gradient, before, parameter.detach().clone()))
        return result

    with mock.patch.object(optimizer, "step", recorded):
        yield steps


def test_every_step_of_the_warm_up_moves_as_far_as_its_learning_rate_says() -> None:
    """Two epochs of warm-up to 0.01, three steps an epoch; the moves are those of AdamW's equations
    (Loshchilov and Hutter 2019, algorithm 2), with PyTorch's decay rates 0.9 and 0.999."""
    size = -(-len(CLIPS) // 3)
    trainer = trainer_of(batch_size=size, learning_rate=0.01, lr_warmup_epochs=2.0, weight_decay=0.1)
    with recorded_steps(trainer) as steps:
        losses = [trainer.train_epoch() for _ in range(3)]
    done = [size / len(CLIPS) * step for step in range(3)]
    expected = [0.0001, 0.005 * done[1], 0.005 * done[2], 0.005, 0.005 * (1 + done[1]), 0.005 * (1 + done[2])]
    expected += [0.01] * 3
    assert [rate for rate, *_ in steps] == pytest.approx(expected, rel=1e-9)
    assert [each.learning_rate for each in losses] == pytest.approx([expected[2], expected[5], 0.01])
    first_moment = second_moment = torch.zeros_like(steps[0][1])
    for number, (rate, (_, gradient, before, after)) in enumerate(zip(expected, steps, strict=True), start=1):
        first_moment = 0.9 * first_moment + 0.1 * gradient
        second_moment = 0.999 * second_moment + 0.001 * gradient.square()
        direction = first_moment / (1 - 0.9**number) / ((second_moment / (1 - 0.999**number)).sqrt() + 1e-8)
        assert torch.allclose(after - before, -rate * (direction + 0.1 * before), rtol=1e-6, atol=1e-12)
    # Adam's first move is the learning rate itself, whatever the gradient: a hundredth of 0.01 here.
    assert float((steps[0][3] - steps[0][2] * (1 - 1e-5)).abs().max()) == pytest.approx(0.0001, rel=1e-3)
