"""A trace on meta tensors tells what the same pass allocates on real ones."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.memory.predict import program_of
from trainable.memory.program import Allocation, Probe, Program, Scale
from trainable.memory.trace import Form, record, sizes_of, trace, trace_exactly
from trainable.memory.tracker import CUBLAS, SPLIT_SUMS, WORKSPACE, MemoryTracker
from trainable.model.geometry import geometry_of
from trainable.model.layers import Layers
from trainable.model.vqvae import make_model
from trainable.private_name import replaced
from trainable.training.state import make_state

N_IDS = 3
NO_WORKSPACE = dict.fromkeys((WORKSPACE, SPLIT_SUMS, *CUBLAS), Scale(0.0))
HOST_BLOCKS = 16 * 512
"""On a CPU the batch's own tensors, of one number each here, count as if they were on the device."""

configs = st.builds(
    lambda **flat: TrialConfig.from_flat(flat),
    width=st.sampled_from([0.25, 0.5, 1.0]),
    latent_dim=st.integers(4, 40),
    num_embeddings=st.integers(2, 300),
    codebooks=st.integers(1, 4),
    linear_path=st.booleans(),
    columns=st.sampled_from([0, 16, 32]),
    stem=st.sampled_from(["strided", "full"]),
    depth=st.integers(0, 2),
    head_hidden=st.integers(4, 64),
    codebook_dim=st.sampled_from([0, 3]),
    distance=st.sampled_from(["euclidean", "cosine"]),
    code_gradient=st.sampled_from(["straight_through", "rotation"]),
    revival=st.booleans(),
    gradient_clip=st.sampled_from([0.0, 1.0]),
    texture_weight=st.sampled_from([0.0, 5.0]),
    id_weight=st.sampled_from([0.0, 0.1]),
    transform_weight=st.sampled_from([0.0, 0.1]),
)
cases = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["step", "step", "validation", "codebook_start"]),
        "phase": st.sampled_from([1, 2, 3]),
        "clips": st.integers(1, 3),
        "n_patches": st.sampled_from([2, 3, 5, 8]),
        "split": st.booleans(),
        "chunk": st.sampled_from([64, 100, 16_384]),
        "encoder": st.booleans(),
        "decoder": st.booleans(),
        "feature_bytes": st.sampled_from([2, 4]),
    }
)


def form_and_plan(
    config: TrialConfig, case: dict[str, Any], precision: str = "float32"
) -> tuple[Form, ExecutionPlan, int]:
    step = case["kind"] == "step"
    total = case["clips"] * (2 if case["split"] else 1)
    rows = geometry_of(config).codes_per_patch * case["n_patches"]
    rows *= total if case["kind"] == "codebook_start" else case["clips"]
    form = Form(
        case["kind"],
        case["phase"] if step else 1,
        step and case["encoder"],
        step and case["decoder"],
        precision,  # type: ignore[arg-type]
        one_chunk=rows <= case["chunk"],
        feature_bytes=case.get("feature_bytes", 4),
    )
    plan = ExecutionPlan(
        micro_batch_clips=case["clips"],
        recompute_encoder=form.recompute_encoder,
        recompute_decoder=form.recompute_decoder,
        quantizer_chunk_rows=case["chunk"],
        precision=form.precision,
    )
    return form, plan, total


def predicted(config: TrialConfig, case: dict[str, Any], precision: str = "float32") -> int:
    form, plan, total = form_and_plan(config, case, precision)
    program = program_of(config, N_IDS, form)
    assert program is not None, "the allocations of every pass should be proportional to its sizes"
    starts = case["kind"] == "codebook_start"
    sizes = sizes_of(
        config,
        case["clips"],
        case["n_patches"],
        plan.quantizer_chunk_rows,
        sample_clips=total if starts else 0,
        rest_clips=case["clips"] if starts else 0,
    )
    return program.peak(sizes, whole=not case["split"], scales=NO_WORKSPACE).allocated_bytes


def really_allocated(config: TrialConfig, case: dict[str, Any]) -> int:
    """The same pass on real tensors on the CPU, layer by layer as on a GPU, followed by the same tracker."""
    form, plan, total = form_and_plan(config, case)
    state = make_state(config, N_IDS, torch.device("cpu"))
    if case["kind"] != "codebook_start":
        for parameter in state.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        state.optimizer.step()
    tracker = MemoryTracker("cpu")
    with replaced(Layers, "forward", nn.Sequential.forward):
        record(state, form, plan, total, case["n_patches"], tracker)
    return Program(tracker.allocations, tracker.order, Probe({}, {})).peak({}, scales=NO_WORKSPACE).allocated_bytes


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs, case=cases)
def test_prediction_is_what_real_tensors_take(config: TrialConfig, case: dict[str, Any]) -> None:
    real = really_allocated(config, case)
    # On CUDA latents change their layout on the way to rows and back; oneDNN's layout spares a CPU those copies.
    # Batch indices, labels and transformations are copied to the device: 8 bytes a patch, 3 KiB a clip.
    codes = geometry_of(config).codes_per_patch
    latents = 4 * codes * case["clips"] * case["n_patches"] * max(config.model.latent_dim, 4)
    spared = 3 * latents + 8192 * case["clips"] * 2
    # Codes go to the host, 8 bytes each; on a CPU that is the device, where they are put together once more.
    patch_codes = 8 * codes * config.quantizer.codebooks
    host_codes = (
        2 * patch_codes * case["n_patches"] * form_and_plan(config, case)[2] if case["kind"] == "validation" else 0
    )
    assert real - HOST_BLOCKS - host_codes <= predicted(config, case) <= real + spared


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs, case=cases, precision=st.sampled_from(["float32", "amp_bfloat16", "amp_float16"]))
def test_one_trace_holds_for_every_size(config: TrialConfig, case: dict[str, Any], precision: str) -> None:
    form, plan, total = form_and_plan(config, case, precision)
    program = trace_exactly(config, N_IDS, form, plan, total, case["n_patches"])
    exact = program.peak({}, scales=NO_WORKSPACE).allocated_bytes
    # With more codes than rows k-means begins with a row for some codes only; the trace counts one for each.
    rows_lacking = max(0, config.quantizer.num_embeddings - 64 * case["n_patches"] * total)
    spare = (
        rows_lacking * 4 * max(config.model.latent_dim, 4) + 512
        if form.kind == "codebook_start" and rows_lacking
        else 0
    )
    assert exact <= predicted(config, case, precision) <= exact + spare


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    config=configs,
    case=cases,
    precision=st.sampled_from(["float32", "amp_bfloat16", "amp_float16"]),
    weights=st.fixed_dictionaries(
        {name: st.sampled_from([0.0, 0.1]) for name in ("texture_weight", "id_weight", "transform_weight")}
    ),
)
def test_a_second_trace_confirms_every_structure(
    config: TrialConfig, case: dict[str, Any], precision: str, weights: dict[str, float]
) -> None:
    """Planning trusts one trace: that a structure's allocations are proportional to its sizes is made sure of here."""
    trace(config.replace(**weights), N_IDS, form_and_plan(config, case, precision)[0], verify=True)


def test_a_third_trace_agrees() -> None:
    form = Form("step", 2, True, False, "float32")
    one = trace(TrialConfig.from_flat({"num_embeddings": 16, "latent_dim": 4}), N_IDS, form)
    other = trace(TrialConfig.from_flat({"num_embeddings": 900, "latent_dim": 70}), N_IDS, form)
    assert one.same_as(other)


@pytest.mark.parametrize("precision", ["float32", "amp_bfloat16", "amp_float16"])
def test_a_second_step_needs_no_more(precision: str) -> None:
    """The traced state has moments and gradients: what a real first step leaves behind."""
    config = TrialConfig.from_flat({"width": 0.25, "latent_dim": 8})
    case = {"kind": "step", "phase": 2, "clips": 2, "n_patches": 2, "split": False}
    case |= {"chunk": 64, "encoder": False, "decoder": False}
    form, plan, total = form_and_plan(config, case, precision)
    program = trace_exactly(config, N_IDS, form, plan, total, 2)
    parts = program.peak({}, scales=NO_WORKSPACE).parts
    model = make_model(config, N_IDS)
    parameters = [parameter.numel() * 4 for parameter in model.parameters()]
    rounded = sum(-(-size // 512) * 512 for size in parameters)
    assert parts["parameters"] == rounded
    # Two moments, and a step counter of one block; float16 adds the scale and its counter.
    assert parts["optimizer"] == 2 * rounded + 512 * len(parameters) + (1024 if precision == "amp_float16" else 0)


def test_amp_stores_activations_in_half_the_bytes() -> None:
    config = TrialConfig.from_flat({"latent_dim": 16})
    case = {"kind": "step", "phase": 2, "clips": 4, "n_patches": 8, "split": False}
    case |= {"chunk": 16_384, "encoder": False, "decoder": False}
    full, half = predicted(config, case), predicted(config, case, "amp_bfloat16")
    assert 0.4 * full < half < 0.8 * full


def test_peak_by_hand() -> None:
    """Two storages of 700 and 300 bytes; the first is freed before a third of 100 comes: 1024 + 512, then 512 + 512."""
    allocations = [Allocation(700, "a"), Allocation(300, "b"), Allocation(100, "c")]
    program = Program(allocations, [0, 1, ~0, 2], Probe({}, {}))
    peak = program.peak({})
    assert peak.allocated_bytes == 1536
    assert peak.parts == {"a": 1024, "b": 512}


def test_sizes_are_told_apart_by_their_primes() -> None:
    probe = Probe({"patches": 65_537 * 65_539, "clips": 65_537}, {"codes": 65_521})
    allocations = [Allocation(65_537 * 65_539 * 12, "x"), Allocation(65_537 * 65_521 * 4, "y"), Allocation(88, "z")]
    program = Program(allocations, [0, 1, 2], probe)
    assert program.peak({"patches": 6, "clips": 3, "codes": 5}, round_to=1).parts == {"x": 72, "y": 60, "z": 88}


def test_tracker_follows_views_and_frees() -> None:
    tracker = MemoryTracker("meta")
    with tracker:
        first = torch.empty(100, device="meta")
        view = first.view(10, 10)[2:]
        second = view + 1
        del first
        assert tracker.order == [0, 1], "a view keeps its storage alive"
        del view
        del second
    assert tracker.order == [0, 1, ~0, ~1]
    assert [allocation.size_bytes for allocation in tracker.allocations] == [400, 320]
