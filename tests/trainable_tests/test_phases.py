"""Phases, commitment warm-up, learning rate and seeds, worked by hand."""

import pytest
import torch

from trainable.config import TrialConfig
from trainable.training.phases import commitment_scale, learning_rate_at, phase_at
from trainable.training.seeds import derived_seed, generator_for


def phases(**flat: object) -> list[int]:
    config = TrialConfig.from_flat(flat)
    return [phase_at(config, epoch).phase for epoch in range(config.phase.epochs)]


def test_default_shares_are_20_60_20() -> None:
    assert phases(epochs=10) == [1, 1, 2, 2, 2, 2, 2, 2, 3, 3]


def test_each_phase_can_be_switched_off() -> None:
    assert phases(epochs=5, vq_only_share=0.0) == [2, 2, 2, 2, 3]
    assert phases(epochs=5, frozen_share=0.0) == [1, 2, 2, 2, 2]
    assert phases(epochs=4, vq_only_share=1.0, frozen_share=0.0) == [1, 1, 1, 1]


def test_commitment_warms_up_linearly_to_one() -> None:
    config = TrialConfig.from_flat({"commitment_warmup_epochs": 4, "commitment_warmup_start": 0.2})
    assert [commitment_scale(config, epoch) for epoch in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert commitment_scale(TrialConfig(), 0) == 1.0


def test_learning_rate_warms_up_then_stays() -> None:
    config = TrialConfig.from_flat({"learning_rate": 0.01, "lr_warmup_epochs": 2.0})
    assert learning_rate_at(config, 0.0) == pytest.approx(0.0001)
    assert learning_rate_at(config, 1.0) == pytest.approx(0.005)
    assert learning_rate_at(config, 7.5) == 0.01


def test_learning_rate_follows_the_root_of_the_batch_where_its_batch_is_given() -> None:
    config = TrialConfig.from_flat({"learning_rate": 0.001, "learning_rate_batch": 32, "batch_size": 128})
    assert learning_rate_at(config, 1.0) == pytest.approx(0.002)
    assert learning_rate_at(config, 0.5) == pytest.approx(0.001)
    assert learning_rate_at(config.replace(batch_size=8), 1.0) == pytest.approx(0.0005)
    assert learning_rate_at(config.replace(learning_rate_batch=0), 1.0) == 0.001


def test_draws_depend_on_purpose_epoch_and_step_alone() -> None:
    keys = [("order", 0, 0), ("patches", 0, 0), ("patches", 1, 0), ("patches", 0, 1)]
    seeds = {derived_seed(1, purpose, epoch, step) for purpose, epoch, step in keys}  # type: ignore[arg-type]
    assert len(seeds) == len(keys)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = torch.rand(4, generator=generator_for(1, "order", 2))
    assert torch.equal(first, torch.rand(4, generator=generator_for(1, "order", 2)))
    assert torch.equal(state, torch.get_rng_state()), "the global generator is never touched"
