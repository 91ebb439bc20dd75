"""The training step: the function that trains, and the same one that is traced to predict memory.

Shapes: B clips, P patches a clip, X = b·P patches of a micro-batch of b clips, V transformed patches a clip,
D latent width, N = X·H·W rows, K codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from trainable.data.patches import gather_patches
from trainable.device.autocast import AMP_DTYPES, CudaAutocastOnMeta
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.model.codebook import BatchStatistics
from trainable.training.batch import Batch, to_device
from trainable.training.losses import StepValues, loss_names, loss_terms
from trainable.training.phases import PhaseState
from trainable.training.state import TrainState


@dataclass(frozen=True)
class StepLosses:
    """Losses of one effective batch (on the device, detached) and how often each code was used."""

    terms_L: Tensor
    """One number for each of `loss_names()`."""
    code_counts_K: Tensor


@contextmanager
def mixed_precision(plan: ExecutionPlan, device: torch.device) -> Iterator[None]:
    """Autocast according to the plan.

    Set through the low-level switches: `torch.autocast("cuda")` turns itself off on a machine without CUDA, where a
    traced step must still see the casts that the GPU will see. Meta tensors, which trace memory, have no autocast;
    for them `trainable.device.autocast` makes CUDA's casts.
    """
    if not plan.uses_amp:
        yield
        return
    kind = device.type
    if kind == "meta":
        with CudaAutocastOnMeta(AMP_DTYPES[plan.precision]):
            yield
        return
    before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    torch.set_autocast_enabled(kind, True)
    torch.set_autocast_dtype(kind, AMP_DTYPES[plan.precision])
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(kind, before[0])
        torch.set_autocast_dtype(kind, before[1])


def load_patches(frames_TF: Tensor, starts_BP: Tensor, state: TrainState) -> Tensor:
    """Patches (B, P, F, T) on the model's device, cut where the features live.

    Cut patches have the features' layout, mel bins next to each other; every convolution that reads them would copy
    them into its own, so they are copied once here.
    """
    starts_BP = to_device(starts_BP, frames_TF.device)
    patches_BPFT = gather_patches(frames_TF, starts_BP, patch_frames=state.geometry.patch_frames)
    patches_BPFT = patches_BPFT.to(state.device, non_blocking=True)
    # Half-precision features are sent as they are, and cast and laid out in one copy.
    return patches_BPFT.to(state.dtype, memory_format=torch.contiguous_format).contiguous()


def train_step(
    state: TrainState, frames_TF: Tensor, batch: Batch, plan: ExecutionPlan, phase: PhaseState
) -> StepLosses:
    """One optimizer step and one codebook update on an effective batch, executed as `plan` says.

    Until all memory is allocated only gradients have changed, so a step that ran out of memory can be repeated exactly
    under a smaller plan.
    """
    model = state.model
    state.optimizer.zero_grad(set_to_none=True)
    statistics = model.codebook.new_statistics()
    sums_L = torch.zeros(len(loss_names()), device=state.device, dtype=state.dtype)
    for begin in range(0, batch.clips, plan.micro_batch_clips):
        part = batch.part(begin, min(begin + plan.micro_batch_clips, batch.clips))
        first_row = begin * batch.starts_BP.shape[1] * state.geometry.codes_per_patch
        terms = _micro_losses(state, frames_TF, part, plan, phase, statistics, first_row)
        share = part.clips / batch.clips
        state.scaler.scale(terms[0] * share).backward()
        sums_L += torch.stack([term.detach().to(sums_L.dtype) for term in terms]) * share
        del terms
    update = None if phase.codebook_frozen else model.codebook.updated(statistics)
    _apply_gradients(state)
    if update is not None:
        model.codebook.take(update)
    return StepLosses(sums_L, statistics.counts_K)


def _micro_losses(
    state: TrainState,
    frames_TF: Tensor,
    part: Batch,
    plan: ExecutionPlan,
    phase: PhaseState,
    statistics: BatchStatistics,
    first_row: int,
) -> tuple[Tensor, ...]:
    """The losses of some clips in the order of `loss_names`, with gradients."""
    model = state.model
    patches_BPFT = load_patches(frames_TF, part.starts_BP, state)
    patches_XFT = patches_BPFT.flatten(0, 1)
    with mixed_precision(plan, state.device):
        latents_XDHW = model.encode(patches_XFT, recompute=plan.recompute_encoder)
    rows_ND = model.codebook.rows(latents_XDHW)
    quantized = model.codebook.quantize(rows_ND, chunk_rows=plan.quantizer_chunk_rows)
    with torch.no_grad():
        statistics.add(model.codebook.statistics(rows_ND, quantized.codes_NM))
        if not phase.codebook_frozen:
            candidates_K = to_device(part.candidate_rows_K, state.device)
            model.codebook.offer(statistics, rows_ND, quantized.codes_NM, candidates_K, first_row)
    with mixed_precision(plan, state.device):
        grid_XDHW = model.codebook.grid(quantized.vectors_ND)
        reconstructed_XFT = model.decoder(grid_XDHW, recompute=plan.recompute_decoder)
    values = StepValues(
        state=state,
        part=part,
        plan=plan,
        patches_BPFT=patches_BPFT,
        patches_XFT=patches_XFT,
        latents_XDHW=latents_XDHW,
        quantized=quantized,
        grid_XDHW=grid_XDHW,
        reconstructed_XFT=reconstructed_XFT,
        mixed_precision=partial(mixed_precision, plan, state.device),
    )
    return _weighed(values, phase)


def _weighed(values: StepValues, phase: PhaseState) -> tuple[Tensor, ...]:
    """The total and every term."""
    state = values.state
    off = torch.zeros((), device=state.device, dtype=state.dtype)
    total, terms = off, []
    for index, term in enumerate(loss_terms()):
        weight = term.weight_in(state.config, phase)
        if weight == 0.0 and not term.measured_at_zero:
            terms.append(off)
            continue
        value = term.value(values).to(state.dtype)
        if value.dim():
            raise ConfigError(f"loss term {term.name} returns a tensor of shape {tuple(value.shape)}; return its mean")
        terms.append(value)
        total = value if index == 0 else total + weight * value
    return total, *terms


def _apply_gradients(state: TrainState) -> None:
    """Unscales, clips and applies the accumulated gradients."""
    clip = state.config.optim.gradient_clip
    if clip > 0:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
