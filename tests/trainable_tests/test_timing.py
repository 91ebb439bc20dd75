"""Work counted on paper, by torch and at other sizes than it was counted at; the seconds that follow."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from trainable.config import TrialConfig
from trainable.device._torch_private import fused_optimizer_on_meta
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.predict import DataSizes
from trainable.memory.profile import DeviceProfile
from trainable.memory.trace import meta_state, placeholder_batch
from trainable.timing.counter import Work, WorkCounter
from trainable.timing.speed import CPU_ESTIMATE, GPU_ESTIMATE, Seconds, Speed
from trainable.timing.work import epoch_work, scoring_work, step_work
from trainable.training.phases import PhaseState
from trainable.training.step import train_step

META = torch.device("meta")
SMALL = {"width": 0.25, "latent_dim": 12, "num_embeddings": 48, "n_patches": 5, "batch_size": 6}


def counted(config: TrialConfig, plan: ExecutionPlan) -> Work:
    """The work of a step at its own sizes."""
    with fused_optimizer_on_meta():
        state = meta_state(config, 3, plan, trained=True)
        batch = placeholder_batch(config, config.patch.batch_size, config.patch.n_patches)
        frames_TF = torch.zeros(128, 64, device=META)
        with WorkCounter({}) as counter:
            train_step(state, frames_TF, batch, plan, PhaseState(2, 1.0))
    return counter.formula.at({})


def test_a_matrix_product_by_hand() -> None:
    with WorkCounter({"rows": 1_009, "columns": 2_003}) as counter:
        left, right = torch.empty(1_009, 8, device=META), torch.empty(8, 2_003, device=META)
        (left @ right).t().add_(1.0)
    work = counter.formula.at({"rows": 10, "columns": 3})
    product, sum_bytes = 4 * (10 * 8 + 8 * 3 + 10 * 3), 4 * (2 * 10 * 3)
    assert work == Work(flops=2 * 10 * 8 * 3, moved_bytes=product + sum_bytes, launches=2)


@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions_by_hand(groups: int) -> None:
    """Forward, and the gradients of image and weights, which are as much work each."""
    image = torch.empty(2, 8, 16, 16, device=META, requires_grad=True)
    weights = torch.empty(4, 8 // groups, 3, 3, device=META, requires_grad=True)
    with WorkCounter({}) as counter:
        torch.nn.functional.conv2d(image, weights, stride=2, padding=1, groups=groups).sum().backward()
    forward = 2 * (2 * 4 * 8 * 8) * (8 // groups * 9)
    assert counter.formula.at({}).flops == 3 * forward


def test_operations_are_those_that_torch_counts() -> None:
    """Of a forward pass; torch counts the weights' gradient of a depthwise convolution as that of a dense one."""
    config = TrialConfig.from_flat(SMALL)
    model = meta_state(config, 3, ExecutionPlan(micro_batch_clips=6), trained=False).model
    patches_XFT = torch.empty(30, 64, 64, device=META)
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        model.decoder(model.encoder(patches_XFT))
    with torch.no_grad(), WorkCounter({}) as ours:
        model.decoder(model.encoder(patches_XFT))
    assert ours.formula.at({}).flops == theirs.get_total_flops()


@pytest.mark.parametrize(
    ("knobs", "plan"),
    [
        ({}, {}),
        ({"num_embeddings": 700, "n_patches": 9}, {"micro_batch_clips": 4, "quantizer_chunk_rows": 500}),
        ({"codebooks": 2, "columns": 16, "code_gradient": "rotation"}, {"recompute_encoder": True}),
        ({"depth": 1, "stem": "full", "texture_weight": 3.0, "batch_size": 8}, {"recompute_decoder": True}),
        ({"allow_amp": True}, {"precision": "amp_bfloat16"}),
    ],
)
def test_the_formula_gives_what_is_counted_at_the_sizes(knobs: dict[str, object], plan: dict[str, object]) -> None:
    config = TrialConfig.from_flat({**SMALL, **knobs})
    chosen = ExecutionPlan(**{"micro_batch_clips": config.patch.batch_size, **plan})
    work, exact = step_work(config, 3, chosen), counted(config, chosen)
    assert work.flops == exact.flops
    assert work.launches == exact.launches
    # Chunks after the first read the codebook again, which the formula leaves out.
    assert work.moved_bytes == pytest.approx(
        exact.moved_bytes, rel=1e-9 if "quantizer_chunk_rows" not in plan else 0.02
    )


def test_an_epoch_is_its_steps_the_last_one_smaller_and_the_scoring_of_all_clips() -> None:
    config = TrialConfig.from_flat(SMALL)
    data = DataSizes(train_frames=0, test_frames=0, train_clips=20, test_clips=10, n_ids=3)
    scoring = scoring_work(config, 3, 20) + scoring_work(config, 3, 10)
    expected = step_work(config, 3) * 3 + step_work(config, 3, clips=2) + scoring
    assert epoch_work(config, data) == expected
    few = DataSizes(train_frames=0, test_frames=0, train_clips=4, test_clips=10, n_ids=3)
    scoring = scoring_work(config, 3, 4) + scoring_work(config, 3, 10)
    assert epoch_work(config, few) == step_work(config, 3, clips=4) + scoring


def test_a_scoring_pass_launches_as_many_kernels_for_a_part_of_a_micro_batch_as_for_a_whole_one() -> None:
    config, plan = TrialConfig.from_flat(SMALL), ExecutionPlan(micro_batch_clips=16)
    part, whole, more = (scoring_work(config, 3, clips, plan) for clips in (6, 16, 22))
    assert part.launches == whole.launches
    assert more == whole + part
    assert part.flops == pytest.approx(whole.flops * 6 / 16)


def test_the_host_starts_kernels_while_the_device_runs_earlier_ones() -> None:
    speed = Speed(flops_per_second=100.0, bytes_per_second=10.0, launch_seconds=0.5)
    assert speed.seconds(Work(200.0, 30.0, 4)) == Seconds(device=5.0, host=2.0)
    assert (Seconds(5.0, 2.0).alone, Seconds(1.0, 2.0).alone) == (5.0, 2.0)


def test_a_profile_without_all_rates_and_a_cpu_have_an_estimate() -> None:
    measured = DeviceProfile.for_gpu("NVIDIA H100 80GB HBM3")
    assert Speed.of(measured, "cuda").measured
    assert Speed.of(measured, "cpu") is CPU_ESTIMATE
    assert Speed.of(DeviceProfile(bytes_per_second=1e12), "cuda:0") is GPU_ESTIMATE
    assert not CPU_ESTIMATE.measured
    assert not GPU_ESTIMATE.measured


@pytest.mark.parametrize("value", [0, -1.0, "fast", True, float("inf")])
def test_a_rate_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"launch_seconds is .*(it must be above 0|not of type float)"):
        DeviceProfile.from_dict({"launch_seconds": value})
    assert DeviceProfile.from_dict({"launch_seconds": None}) == DeviceProfile()
