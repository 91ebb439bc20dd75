"""Traces the passes of a trial on meta tensors: the very functions that train, encode and start the codebook.

A pass is traced in two micro-batches; those after the second need no more memory, and the same trace also gives the
peak of a single one (`Program.peak`). Likewise in two chunks of distances, unless one holds all rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from trainable.config import TrialConfig
from trainable.device._torch_private import fused_optimizer_on_meta, scaler_tensors
from trainable.execution_plan import ExecutionPlan, Precision
from trainable.memory.metadata import META
from trainable.memory.program import Allocation, NotProportionalError, Probe, Program
from trainable.memory.tracker import PATCHES, MemoryTracker
from trainable.model.architecture import segments_of
from trainable.model.codebook import Codebook
from trainable.model.geometry import geometry_of
from trainable.model.transforms import TransformDraws
from trainable.private_name import replaced
from trainable.training.batch import VIEW_SHARE, Batch
from trainable.training.encode import encode_clips
from trainable.training.losses import loss_names
from trainable.training.phases import Phase, PhaseState
from trainable.training.start import start_codebook
from trainable.training.state import TrainState, make_scaler, make_state
from trainable.training.step import mixed_precision, train_step

Pass = Literal["step", "validation", "codebook_start"]
PRIMES: tuple[Mapping[str, int], ...] = (
    {
        "clips": 65_551,
        "n_patches": 262_153,
        "rest_clips": 65_537,
        "codes": 65_521,
        "latent_dim": 1_021,
        "hidden": 4_093,
    },
    {
        "clips": 65_543,
        "n_patches": 262_313,
        "rest_clips": 65_539,
        "codes": 65_519,
        "latent_dim": 1_013,
        "hidden": 4_091,
    },
)
"""Two sets of primes. Those of a batch exceed every width of a model (65,536 codes), as does a quarter of `n_patches`,
rounded up, which is prime too; those of a model divide no channel count (multiples of 8 up to 1536)."""


def at_sizes(config: TrialConfig, sizes: Mapping[str, int]) -> TrialConfig:
    """The configuration's architecture with as many codes, latent and hidden channels as `sizes` has."""
    return config.replace(
        num_embeddings=sizes["codes"],
        latent_dim=sizes["latent_dim"],
        head_hidden=sizes["hidden"],
        codebook_dim=config.quantizer.codebook_dim if config.quantizer.projects(config.model.latent_dim) else 0,
    )


@dataclass(frozen=True)
class Form:
    """What decides which storages a pass allocates, apart from the architecture and all sizes."""

    kind: Pass
    phase: Phase
    """Phase of a step; 1 for the other passes."""
    recompute_encoder: bool
    recompute_decoder: bool
    precision: Precision
    one_chunk: bool = False
    """Whether all rows of a micro-batch (of the sample, where the codebook starts) are one chunk of distances."""
    feature_bytes: int = 4
    """Of a number of the packed features: 2 = they are cast when patches are cut."""


def sizes_of(
    config: TrialConfig,
    clips: int,
    n_patches: int,
    chunk_rows: int,
    *,
    sample_clips: int = 0,
    rest_clips: int = 0,
) -> dict[str, int]:
    """Every size that allocations may be proportional to.

    Parameters
    ----------
    clips, n_patches
        Sizes of a micro-batch.
    chunk_rows
        Rows of a chunk of distances.
    sample_clips
        Clips that start the codebook; if given, chunks consist of their rows.
    rest_clips
        Clips of the sample that the last micro-batch holds.
    """
    batch = _batch_sizes(config, clips, n_patches, chunk_rows, sample_clips, rest_clips)
    return batch | _model_sizes(config)


def _batch_sizes(
    config: TrialConfig, clips: int, n_patches: int, chunk_rows: int, sample_clips: int, rest_clips: int
) -> dict[str, int]:
    rows = geometry_of(config).codes_per_patch * n_patches * (sample_clips or clips)
    views = -(-n_patches // VIEW_SHARE)
    chunk = min(chunk_rows, rows)
    return {
        "sample_patches": sample_clips * n_patches,
        "patches": clips * n_patches,
        "rest_patches": rest_clips * n_patches,
        "views": clips * views,
        "chunk_rows": chunk,
        # The second chunk; later ones need no more. With a single chunk, the second has no rows.
        "rest_rows": min(chunk, rows - chunk),
        "sample_clips": sample_clips,
        "clips": clips,
        "rest_clips": rest_clips,
        "n_patches": n_patches,
        "n_views": views,
    }


def _model_sizes(config: TrialConfig) -> dict[str, int]:
    return {
        "codes": config.quantizer.num_embeddings,
        "latent_dim": config.model.latent_dim,
        "hidden": config.model.head_hidden,
    }


def trace(config: TrialConfig, n_ids: int, form: Form, *, verify: bool = True) -> Program:
    """The program of a pass for every batch size, number of patches, codebook size, latent and hidden width.

    Raises
    ------
    NotProportionalError
        If a second trace at other sizes (`verify`) disagrees: some allocation is not a multiple of one size.
    """
    first = _trace_symbolic(config, n_ids, form, PRIMES[0])
    if verify and not first.same_as(_trace_symbolic(config, n_ids, form, PRIMES[1])):
        raise NotProportionalError(f"the allocations of {form} are not proportional to its sizes")
    return first


def trace_exactly(
    config: TrialConfig, n_ids: int, form: Form, plan: ExecutionPlan, clips: int, n_patches: int
) -> Program:
    """The program of a pass of `clips` clips, traced at its real sizes: always works, but for these sizes only."""
    tracker, _ = _run(config, n_ids, form, plan, clips, n_patches)
    return Program(tracker.allocations, tracker.order, Probe({}, {}), held=tracker.held, update=tracker.since_update)


def _trace_symbolic(config: TrialConfig, n_ids: int, form: Form, sizes: Mapping[str, int]) -> Program:
    """Two micro-batches, two chunks of distances."""
    config = at_sizes(config, sizes)
    clips, n_patches = sizes["clips"], sizes["n_patches"]
    starts_codebook = form.kind == "codebook_start"
    rest = sizes["rest_clips"] if starts_codebook else 0
    sample = clips + rest if starts_codebook else 0
    rows = geometry_of(config).codes_per_patch * n_patches * (sample or clips)
    chunk_rows = rows if form.one_chunk else rows // 2 + 1_000_003
    plan = ExecutionPlan(
        micro_batch_clips=clips,
        recompute_encoder=form.recompute_encoder,
        recompute_decoder=form.recompute_decoder,
        quantizer_chunk_rows=chunk_rows,
        precision=form.precision,
    )
    batch = _batch_sizes(config, clips, n_patches, chunk_rows, sample, rest)
    tracker, repeated = _run(config, n_ids, form, plan, sample or 2 * clips, n_patches)
    named = [_relabelled(allocation, batch) for allocation in tracker.allocations]
    probe = Probe(batch, _model_sizes(config))
    return Program(named, tracker.order, probe, repeated, tracker.held, tracker.since_update)


def _run(
    config: TrialConfig, n_ids: int, form: Form, plan: ExecutionPlan, clips: int, n_patches: int
) -> tuple[MemoryTracker, tuple[int, int]]:
    """What a pass allocated, and where in its order the second micro-batch begins and ends."""
    with fused_optimizer_on_meta():
        state = meta_state(config, n_ids, plan, trained=form.kind != "codebook_start")
        tracker = MemoryTracker("meta")
        record(state, form, plan, clips, n_patches, tracker)
    end = len(tracker.order)
    begins = tracker.marks[1] if len(tracker.marks) > 1 else end
    ends = {"step": tracker.after_backward[-1:], "validation": [end], "codebook_start": tracker.marks[-1:]}
    return tracker, (begins, ends[form.kind][0])


def _relabelled(allocation: Allocation, batch: Mapping[str, int]) -> Allocation:
    """Attributes what is made outside modules and is a multiple of no batch size to the codebook's update."""
    if allocation.label != PATCHES or any(size > 1 and allocation.size_bytes % size == 0 for size in batch.values()):
        return allocation
    return replace(allocation, label="codebook update")


def record(
    state: TrainState, form: Form, plan: ExecutionPlan, clips: int, n_patches: int, tracker: MemoryTracker
) -> None:
    """Runs a pass of `clips` clips under `tracker`, which records what it allocates.

    Features lie on the device. If they lie on the host, a micro-batch's patches are copied over, as large as when cut
    here; only the indices of their first frames stay on the host, 8 bytes per patch of 16 KiB (by default).
    """
    device, model = state.device, state.model
    geometry = state.geometry
    features = torch.float16 if form.feature_bytes == 2 else state.dtype
    frames_TF = torch.zeros(2 * geometry.patch_frames, geometry.patch_mels, device=device, dtype=features)
    starts_BP = torch.zeros(1, 1, dtype=torch.int64).expand(clips, n_patches)
    batch = placeholder_batch(state.config, clips, n_patches) if form.kind == "step" else None
    watched = ((model.encoder, "encoder", "quantizer"), (model.decoder, "decoder", "losses"))
    # What the trainer also holds: losses and code counts, summed over the epoch and of the last step.
    held = [torch.zeros(len(loss_names()), device=device) for _ in range(2)]
    held += [torch.zeros_like(model.codebook.ema_counts_K, device=device) for _ in range(2)]
    with ExitStack() as stack:
        for module, label, then in watched:
            stack.enter_context(tracker.watching(module, label, then=then))
            for segment in segments_of(module):
                # PyTorch restores autocast where it recomputes, but not the casts made on meta tensors.
                recomputing = partial(mixed_precision, plan, device)
                stack.enter_context(tracker.watching(segment, label, recomputing=recomputing))
        heads = (model.texture, model.heads.machine_id, model.heads.transform, *model.extra_heads.values())
        for head in heads:
            if head is None:
                continue
            stack.enter_context(tracker.watching(head, "heads"))
        tracker.hold(model.parameters(), "parameters")
        tracker.hold(model.buffers(), "codebook")
        tracker.hold(held, "losses")
        tracker.hold(optimizer_tensors(state), "optimizer")
        tracker.hold((parameter.grad for parameter in model.parameters()), "gradients")
        stack.enter_context(_Marks(tracker, n_patches))
        stack.enter_context(_marked_start(model.codebook, tracker))
        hook = state.optimizer.register_step_pre_hook(lambda *_: tracker.mark_update())
        stack.callback(hook.remove)
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
        yield from scaler_tensors(state.scaler)


def placeholder_batch(config: TrialConfig, clips: int, n_patches: int) -> Batch:
    """A batch of the right shapes with one repeated number each: a trace needs sizes, not values."""

    def numbers(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros((), dtype=dtype).expand(shape)

    geometry, real = geometry_of(config), torch.float32
    draws = TransformDraws(
        labels_B=numbers(clips),
        mel_index_BF=numbers(clips, geometry.patch_mels),
        frame_index_BT=numbers(clips, geometry.patch_frames),
        keep_mel_BF=numbers(clips, geometry.patch_mels, dtype=real),
        keep_frame_BT=numbers(clips, geometry.patch_frames, dtype=real),
        gain_B=numbers(clips, dtype=real),
        noise_B=numbers(clips, dtype=real),
        noise_roll_B=numbers(clips),
    )
    return Batch(
        starts_BP=numbers(clips, n_patches),
        id_labels_B=numbers(clips),
        transforms=draws,
        view_columns_V=numbers(-(-n_patches // VIEW_SHARE)),
        candidate_rows_K=numbers(config.quantizer.codebooks * config.quantizer.num_embeddings),
    )


class _Marks(TorchFunctionMode):
    """Marks where a micro-batch begins, and lets meta tensors be copied to the host.

    A micro-batch begins where its patches' first frames are sent to the features' device. What a pass copies to the
    host takes no device memory, and a meta tensor has nothing to copy.
    """

    def __init__(self, tracker: MemoryTracker, n_patches: int):
        super().__init__()
        self._tracker = tracker
        self._n_patches = n_patches

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.cpu and args[0].device.type == "meta":
            return torch.empty(0, dtype=args[0].dtype, device="cpu")
        if func is Tensor.to and args[0].dim() == 2 and args[0].shape[1] == self._n_patches:
            self._tracker.mark()
        return func(*args, **(kwargs or {}))


@contextmanager
def _marked_start(codebook: Codebook, tracker: MemoryTracker) -> Iterator[None]:
    """Marks where k-means begins, after the last micro-batch is encoded."""
    start_from = codebook.start_from

    def marked(*args: Any, **kwargs: Any) -> None:
        tracker.mark()
        start_from(*args, **kwargs)

    with replaced(codebook, "start_from", marked):
        yield
