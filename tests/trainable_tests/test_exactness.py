"""Every exact plan gives the same gradients, codebook, EMA statistics and revivals as the unsplit step."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.noise_clips import IDS, noise_train_clips
from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.training.trainer import Trainer

TOLERANCE = 1e-10
"""float64; sums in another order differ by about 1e-15 a step."""

CLIPS = noise_train_clips()


def trained(config: TrialConfig, plan: ExecutionPlan, epochs: int) -> Trainer:
    trainer = Trainer(config, CLIPS, IDS, plan=plan, device=torch.device("cpu"), dtype=torch.float64)
    for _ in range(epochs):
        trainer.train_epoch()
    return trainer


def largest_difference(one: Trainer, other: Trainer) -> float:
    theirs = other.state.model.state_dict()
    gradients = zip(one.state.model.parameters(), other.state.model.parameters(), strict=True)
    differences = [float((value - theirs[name]).abs().max()) for name, value in one.state.model.state_dict().items()]
    differences += [
        float((mine.grad - its.grad).abs().max())
        for mine, its in gradients
        if mine.grad is not None and its.grad is not None
    ]
    return max(differences)


configs = st.builds(
    lambda **flat: TrialConfig.from_flat(
        {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "batch_size": 7, "n_patches": 2, "epochs": 3} | flat
    ),
    num_embeddings=st.integers(2, 40),
    codebooks=st.integers(1, 3),
    linear_path=st.booleans(),
    columns=st.sampled_from([0, 16]),
    stem=st.sampled_from(["strided", "full"]),
    depth=st.integers(0, 2),
    codebook_dim=st.sampled_from([0, 4]),
    distance=st.sampled_from(["euclidean", "cosine"]),
    code_gradient=st.sampled_from(["straight_through", "rotation"]),
    kmeans_start=st.booleans(),
    revival=st.booleans(),
    dead_threshold=st.sampled_from([0.05, 0.9]),
    vq_only_share=st.sampled_from([0.0, 0.34]),
    texture_weight=st.sampled_from([0.0, 5.0]),
    id_weight=st.sampled_from([0.0, 0.1]),
    transform_weight=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 1000),
)
plans = st.builds(
    ExecutionPlan,
    micro_batch_clips=st.integers(1, 7),
    recompute_encoder=st.booleans(),
    recompute_decoder=st.booleans(),
    quantizer_chunk_rows=st.sampled_from([17, 64, 16_384]),
    data_placement=st.sampled_from(["device", "host"]),
)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs, plan=plans)
def test_any_exact_plan_equals_the_unsplit_step(config: TrialConfig, plan: ExecutionPlan) -> None:
    unsplit = trained(config, ExecutionPlan(micro_batch_clips=7), epochs=2)
    split = trained(config, plan, epochs=2)
    assert largest_difference(unsplit, split) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan",
    [
        ExecutionPlan(micro_batch_clips=7),
        ExecutionPlan(micro_batch_clips=2, recompute_encoder=True),
        ExecutionPlan(micro_batch_clips=1, recompute_decoder=True, quantizer_chunk_rows=50),
        ExecutionPlan(micro_batch_clips=3, precision="amp_bfloat16", data_placement="host"),
    ],
    ids=lambda plan: plan.describe(),
)
def test_frozen_phase_leaves_the_codebook_bit_identical(plan: ExecutionPlan) -> None:
    config = TrialConfig.from_flat(
        {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "batch_size": 7, "n_patches": 2, "num_embeddings": 16}
        | {"epochs": 3, "vq_only_share": 0.34, "frozen_share": 0.34}
    )
    trainer = Trainer(config, CLIPS, IDS, plan=plan, device=torch.device("cpu"))
    trainer.train_epoch()
    trainer.train_epoch()
    names = ("codebook_KD", "ema_counts_K", "ema_sums_KD")
    before = {name: getattr(trainer.state.model.codebook, name).clone() for name in names}
    encoder_before = trainer.state.model.encoder.segments[0][0].weight.clone()
    losses = trainer.train_epoch()
    assert losses.phase.phase == 3
    for name in names:
        assert torch.equal(getattr(trainer.state.model.codebook, name), before[name]), name
    assert not torch.equal(trainer.state.model.encoder.segments[0][0].weight, encoder_before)


def test_revival_is_decided_by_the_step_not_by_the_split() -> None:
    config = TrialConfig.from_flat(
        {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "batch_size": 7, "n_patches": 1, "num_embeddings": 200}
        | {"epochs": 2, "dead_threshold": 1.0, "kmeans_start": False}
    )
    whole = trained(config, ExecutionPlan(micro_batch_clips=7), epochs=1)
    split = trained(config, ExecutionPlan(micro_batch_clips=2), epochs=1)
    codebooks = whole.state.model.codebook, split.state.model.codebook
    untouched = Trainer(
        config, CLIPS, IDS, plan=whole.plan, device=torch.device("cpu"), dtype=torch.float64
    ).state.model.codebook.codebook_KD
    revived = (codebooks[0].codebook_KD != untouched).any(dim=1).float().mean()
    assert revived > 0.5, "the threshold of 1 should revive most of 200 codes"
    assert torch.allclose(codebooks[0].codebook_KD, codebooks[1].codebook_KD, atol=TOLERANCE, rtol=0)
    assert torch.equal(codebooks[0].ema_counts_K, codebooks[1].ema_counts_K)
