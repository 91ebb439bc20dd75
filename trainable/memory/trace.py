"""Traces the passes of a trial on meta tensors: the very functions that train, encode and start the codebook.

A pass is traced in the few forms in which its allocations differ in kind, not in size: whole or in several
micro-batches, distances in one chunk or in several.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from unittest import mock

import torch
import torch.optim.optimizer as torch_optimizer
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trainable.config import TrialConfig
from trainable.memory.program import Allocation, NotProportional, Program
from trainable.memory.tracker import PATCHES, MemoryTracker
from trainable.model.transforms import PATCH, TransformDraws
from trainable.plan import ExecutionPlan, Placement, Precision
from trainable.training.batch import CODES_PER_PATCH, VIEW_SHARE, Batch
from trainable.training.encode import encode_clips
from trainable.training.phases import Phase, PhaseState
from trainable.training.start import start_codebook
from trainable.training.state import TrainState, make_scaler, make_state
from trainable.training.step import mixed_precision, train_step

Pass = Literal["step", "validation", "codebook_start"]
META = torch.device("meta")

_PROBES: tuple[Mapping[str, int], ...] = (
    {"clips": 65_551, "n_patches": 262_153, "rest_clips": 65_537},
    {"clips": 65_543, "n_patches": 262_313, "rest_clips": 65_539},
)
"""Primes above every width of a model (65,536 codes); a quarter of `n_patches`, rounded up, is prime too."""


@dataclass(frozen=True)
class Form:
    """What decides which storages a pass makes, apart from the architecture and all sizes."""

    kind: Pass
    phase: Phase
    """Phase of a step; 1 for the other passes."""
    split: bool
    """Several micro-batches instead of one."""
    chunked: bool
    """Several chunks of distances instead of one."""
    recompute_encoder: bool
    recompute_decoder: bool
    placement: Placement
    precision: Precision


def sizes_of(
    clips: int, n_patches: int, chunk_rows: int, *, sample_clips: int = 0, rest_clips: int = 0
) -> dict[str, int]:
    """Every size that allocations may be proportional to, products first.

    Parameters
    ----------
    clips, n_patches
        Of a micro-batch.
    chunk_rows
        Rows of a chunk of distances.
    sample_clips
        Clips that start the codebook: with them, chunks are of their rows.
    rest_clips
        Clips of the sample that the last micro-batch holds.
    """
    rows = CODES_PER_PATCH * n_patches * (sample_clips or clips)
    views = -(-n_patches // VIEW_SHARE)
    chunk = min(chunk_rows, rows)
    sizes = {
        "sample_patches": sample_clips * n_patches,
        "patches": clips * n_patches,
        "rest_patches": rest_clips * n_patches,
        "views": clips * views,
        "chunk_rows": chunk,
        "rest_rows": min(chunk, rows - chunk),
        "sample_clips": sample_clips,
        "clips": clips,
        "rest_clips": rest_clips,
        "n_patches": n_patches,
        "n_views": views,
    }
    return sizes


def trace(config: TrialConfig, n_ids: int, form: Form) -> Program:
    """The program of a pass, traced at sizes of which none can be mistaken for another.

    Raises
    ------
    NotProportional
        If a second trace at other sizes tells another story: some allocation is no multiple of one size.
    """
    programs = [_trace_at(config, n_ids, form, probe) for probe in _PROBES]
    if not programs[0].same_as(programs[1]):
        raise NotProportional(f"the allocations of {form} are not proportional to its sizes")
    return programs[0]


def _trace_at(config: TrialConfig, n_ids: int, form: Form, probe: Mapping[str, int]) -> Program:
    clips, n_patches = probe["clips"], probe["n_patches"]
    starts_codebook = form.kind == "codebook_start"
    rest = probe["rest_clips"] if starts_codebook and form.split else 0
    sample = (clips + rest) if starts_codebook else 0
    rows = CODES_PER_PATCH * n_patches * (sample or clips)
    chunk_rows = rows // 2 + 1_000_003 if form.chunked else rows
    plan = ExecutionPlan(
        micro_batch_clips=clips,
        recompute_encoder=form.recompute_encoder,
        recompute_decoder=form.recompute_decoder,
        quantizer_chunk_rows=chunk_rows,
        data_placement=form.placement,
        precision=form.precision,
    )
    sizes = sizes_of(clips, n_patches, chunk_rows, sample_clips=sample, rest_clips=rest)
    with fused_optimizer_on_meta():
        state = meta_state(config, n_ids, plan, trained=not starts_codebook)
        tracker = MemoryTracker("meta")
        total_clips = sample if starts_codebook else clips * (2 if form.split else 1)
        record(state, form, plan, total_clips, n_patches, tracker)
    allocations = [_relabelled(allocation, sizes) for allocation in tracker.allocations]
    return Program(allocations, tracker.order, {name: size for name, size in sizes.items() if size > 1})


def _relabelled(allocation: Allocation, sizes: Mapping[str, int]) -> Allocation:
    """What is made outside of modules and is no multiple of any batch size belongs to the codebook's update."""
    if allocation.label != PATCHES or any(size > 1 and allocation.size_bytes % size == 0 for size in sizes.values()):
        return allocation
    return Allocation(allocation.size_bytes, "codebook update")


def record(
    state: TrainState, form: Form, plan: ExecutionPlan, clips: int, n_patches: int, tracker: MemoryTracker
) -> None:
    """Runs a pass of `clips` clips under a tracker; `tracker` then holds what it allocated."""
    device = state.device
    frames_TF = torch.empty(1, PATCH).expand(2 * PATCH, PATCH)
    if form.placement == "device":
        frames_TF = torch.empty(2 * PATCH, PATCH, device=device)
    model = state.model
    starts_BP = torch.zeros(1, 1, dtype=torch.int64).expand(clips, n_patches)
    batch = placeholder_batch(state.config, clips, n_patches) if form.kind == "step" else None
    watched = ((model.encoder, "encoder", "quantizer"), (model.decoder, "decoder", "losses"))
    # What the trainer holds beside: sums of losses and code counts of the epoch, and those of the last step.
    held = [torch.zeros(5, device=device), torch.zeros(5, device=device)]
    held += [torch.zeros(state.config.quantizer.num_embeddings, device=device) for _ in range(2)]
    with ExitStack() as stack:
        for module, label, then in watched:
            stack.enter_context(tracker.watching(module, label, then=then))
            for segment in module.segments:
                # PyTorch restores autocast where it recomputes, but knows nothing of the casts made on meta tensors.
                recomputing = partial(mixed_precision, plan, device)
                stack.enter_context(tracker.watching(segment, label, recomputing=recomputing))
        for head in (model.heads.machine_id, model.heads.transform):
            stack.enter_context(tracker.watching(head, "heads"))
        tracker.hold(model.parameters(), "parameters")
        tracker.hold(model.buffers(), "codebook")
        tracker.hold(held, "losses")
        tracker.hold(optimizer_tensors(state), "optimizer")
        tracker.hold((parameter.grad for parameter in model.parameters()), "gradients")
        stack.enter_context(_CopiesToHost())
        stack.enter_context(tracker)
        if batch is not None:
            train_step(state, frames_TF, batch, plan, PhaseState(form.phase, 1.0))
        elif form.kind == "validation":
            encode_clips(state, frames_TF, starts_BP, plan, with_errors=True)
        else:
            start_codebook(state, frames_TF, starts_BP, plan, torch.Generator().manual_seed(0))
    tracker.hold((parameter.grad for parameter in model.parameters()), "gradients")
    tracker.close()


def meta_state(config: TrialConfig, n_ids: int, plan: ExecutionPlan, *, trained: bool) -> TrainState:
    """The state of a trial on meta tensors, before its first step or after one (moments and gradients exist)."""
    with META:
        state = make_state(config, n_ids, META)
    state.scaler = make_scaler(plan, META)
    if trained:
        for parameter in state.model.parameters():
            parameter.grad = torch.empty_like(parameter)
        if state.scaler.is_enabled():
            state.scaler.scale(torch.zeros((), device=META))
        state.scaler.step(state.optimizer)
        state.scaler.update()
    return state


def optimizer_tensors(state: TrainState) -> Iterator[Tensor]:
    """AdamW's moments and counters, and the scaler's two numbers."""
    for moments in state.optimizer.state.values():
        yield from (value for value in moments.values() if isinstance(value, Tensor))
    if state.scaler.is_enabled():
        yield from (value for value in (state.scaler._scale, state.scaler._growth_tracker) if value is not None)


def placeholder_batch(config: TrialConfig, clips: int, n_patches: int) -> Batch:
    """A batch of the right shapes that holds one number each: a trace asks for sizes, not for values."""

    def numbers(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros((), dtype=dtype).expand(shape)

    real = torch.float32
    draws = TransformDraws(
        labels_B=numbers(clips),
        mel_index_BF=numbers(clips, PATCH),
        frame_index_BT=numbers(clips, PATCH),
        keep_mel_BF=numbers(clips, PATCH, dtype=real),
        keep_frame_BT=numbers(clips, PATCH, dtype=real),
        gain_B=numbers(clips, dtype=real),
        noise_B=numbers(clips, dtype=real),
        noise_roll_B=numbers(clips),
    )
    return Batch(
        starts_BP=numbers(clips, n_patches),
        id_labels_B=numbers(clips),
        transforms=draws,
        view_columns_V=numbers(-(-n_patches // VIEW_SHARE)),
        candidate_rows_K=numbers(config.quantizer.num_embeddings),
    )


class _CopiesToHost(TorchFunctionMode):
    """What a pass copies to the host takes none of the device's memory; a meta tensor has nothing to copy."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.cpu and args[0].device.type == "meta":
            return torch.empty(0, dtype=args[0].dtype, device="cpu")
        return func(*args, **(kwargs or {}))


@contextmanager
def fused_optimizer_on_meta() -> Iterator[None]:
    """Lets fused AdamW run on meta tensors: its kernel has a meta form, only a list of devices leaves it out."""
    supported = torch_optimizer._get_fused_kernels_supported_devices
    with mock.patch.object(torch_optimizer, "_get_fused_kernels_supported_devices", lambda: [*supported(), "meta"]):
        yield
