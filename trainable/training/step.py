"""The training step: the function that trains, and the very one whose memory is predicted by tracing it.

Shapes: B clips, P patches a clip, X = b·P patches of a micro-batch of b clips, V transformed patches a clip,
D latent width, N = X·8·8 rows, K codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainable.data.patches import gather_patches
from trainable.device.autocast import CudaAutocastOnMeta
from trainable.execution_plan import ExecutionPlan
from trainable.model.codebook import BatchStatistics
from trainable.model.heads import clip_latents
from trainable.model.texture import cell_deviations
from trainable.model.transforms import apply_transforms
from trainable.training.batch import CODES_PER_PATCH, Batch
from trainable.training.phases import PhaseState
from trainable.training.state import TrainState

LOSS_TERMS = ("total", "reconstruction", "commitment", "texture", "machine_id", "transform")
"""What a step's losses are, in their order everywhere; those switched off are 0."""
_AMP_DTYPES = {"amp_bfloat16": torch.bfloat16, "amp_float16": torch.float16}


@dataclass(frozen=True)
class StepLosses:
    """Losses of one effective batch (on the device, detached) and how often each code was used."""

    terms_L: Tensor
    """One number for each of LOSS_TERMS."""
    code_counts_K: Tensor


@contextmanager
def mixed_precision(plan: ExecutionPlan, device: torch.device) -> Iterator[None]:
    """Autocast as the plan says.

    Set through the low-level switches: `torch.autocast("cuda")` turns itself off on a machine without CUDA, where a
    traced step must still see the casts that the GPU will see. Meta tensors, on which memory is traced, have no
    autocast of their own; there the casts of CUDA's are made by `trainable.device.autocast`.
    """
    if not plan.uses_amp:
        yield
        return
    kind = device.type
    if kind == "meta":
        with CudaAutocastOnMeta(_AMP_DTYPES[plan.precision]):
            yield
        return
    before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    torch.set_autocast_enabled(kind, True)
    torch.set_autocast_dtype(kind, _AMP_DTYPES[plan.precision])
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(kind, before[0])
        torch.set_autocast_dtype(kind, before[1])


def load_patches(frames_TF: Tensor, starts_BP: Tensor, state: TrainState) -> Tensor:
    """Patches (B, P, 64, 64) on the model's device, cut where the features live."""
    patches_BPFT = gather_patches(frames_TF, starts_BP.to(frames_TF.device))
    return patches_BPFT.to(device=state.device, dtype=state.dtype, non_blocking=True)


def train_step(
    state: TrainState, frames_TF: Tensor, batch: Batch, plan: ExecutionPlan, phase: PhaseState
) -> StepLosses:
    """One optimizer step and one codebook update on an effective batch, executed as `plan` says.

    Until all memory is taken only gradients have changed, so a step that ran out of it on the way can be repeated
    under a smaller plan as if nothing had happened.
    """
    model = state.model
    state.optimizer.zero_grad(set_to_none=True)
    statistics = model.codebook.new_statistics()
    sums_L = torch.zeros(len(LOSS_TERMS), device=state.device, dtype=state.dtype)
    for begin in range(0, batch.clips, plan.micro_batch_clips):
        part = batch.part(begin, min(begin + plan.micro_batch_clips, batch.clips))
        first_row = begin * batch.starts_BP.shape[1] * CODES_PER_PATCH
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
    """The LOSS_TERMS of some clips, with gradients. A term of weight 0 costs nothing."""
    model, weights = state.model, state.config.loss
    patches_BPFT = load_patches(frames_TF, part.starts_BP, state)
    patches_XFT = patches_BPFT.flatten(0, 1)
    with mixed_precision(plan, state.device):
        latents_XDHW = model.encoder(patches_XFT, recompute=plan.recompute_encoder)
    rows_ND = model.codebook.rows(latents_XDHW)
    quantized = model.codebook.quantize(rows_ND, chunk_rows=plan.quantizer_chunk_rows)
    with torch.no_grad():
        statistics.add(model.codebook.statistics(rows_ND, quantized.codes_N))
        if not phase.codebook_frozen:
            statistics.offer(rows_ND, part.candidate_rows_K.to(state.device), first_row)
    with mixed_precision(plan, state.device):
        grid_XDHW = model.codebook.grid(quantized.vectors_ND)
        reconstructed_XFT = model.decoder(grid_XDHW, recompute=plan.recompute_decoder)
    reconstruction = F.mse_loss(reconstructed_XFT.to(state.dtype), patches_XFT)
    commitment = quantized.commitment_loss
    total = reconstruction + weights.commitment_cost * phase.commitment_scale * commitment
    texture = machine_id = transform = torch.zeros_like(reconstruction)
    if model.texture is not None:
        with mixed_precision(plan, state.device):
            deviations_XHW = model.texture(grid_XDHW)
        texture = F.mse_loss(deviations_XHW.to(state.dtype), cell_deviations(patches_XFT))
        total = total + weights.texture_weight * texture
    if phase.heads and weights.id_weight > 0:
        with mixed_precision(plan, state.device):
            logits = model.heads.machine_id(clip_latents(latents_XDHW, patches_BPFT.shape[1]))
        machine_id = F.cross_entropy(logits.to(state.dtype), part.id_labels_B.to(state.device))
        total = total + weights.id_weight * machine_id
    if phase.heads and weights.transform_weight > 0:
        with mixed_precision(plan, state.device):
            logits, labels = _transform_logits(state, patches_BPFT, part, plan)
        transform = F.cross_entropy(logits.to(state.dtype), labels)
        total = total + weights.transform_weight * transform
    return total, reconstruction, commitment, texture, machine_id, transform


def _transform_logits(
    state: TrainState, patches_BPFT: Tensor, part: Batch, plan: ExecutionPlan
) -> tuple[Tensor, Tensor]:
    """What the transformation head says of a second, transformed view of some patches, and the truth."""
    draws = part.transforms.to(state.device)
    views_BVFT = apply_transforms(patches_BPFT[:, part.view_columns_V.to(state.device)], draws, state.model.noise_M)
    latents = state.model.encoder(views_BVFT.flatten(0, 1), recompute=plan.recompute_encoder)
    return state.model.heads.transform(clip_latents(latents, views_BVFT.shape[1])), draws.labels_B


def _apply_gradients(state: TrainState) -> None:
    """Unscales, clips and applies the accumulated gradients."""
    clip = state.config.optim.gradient_clip
    if clip > 0:
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
