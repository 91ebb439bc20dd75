"""The scoring pass: clips to code indices, without gradients, a micro-batch at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trainable.execution_plan import ExecutionPlan
from trainable.training.state import TrainState
from trainable.training.step import load_patches, mixed_precision


@dataclass(frozen=True)
class EncodedClips:
    """Codes of B clips; the errors are for comparison only and never make a score."""

    codes_BPHWM: Tensor
    """Code indices, int64, (B, P, H frequency rows from the lowest, W columns in time, M codebooks), on the CPU."""
    reconstruction_error_B: Tensor
    """Mean squared error of the decoder; empty unless asked for."""
    quantization_error_B: Tensor
    """Mean squared distance of latents to their codes; empty unless asked for."""


@torch.no_grad()
def encode_clips(
    state: TrainState, frames_TF: Tensor, starts_BP: Tensor, plan: ExecutionPlan, *, with_errors: bool = False
) -> EncodedClips:
    """Codes of the patches that begin at `starts_BP` (frames, int64), in micro-batches of whole clips."""
    codes, reconstruction, quantization = [], [], []
    n_patches, grid = starts_BP.shape[1], (state.geometry.rows, state.geometry.columns)
    for starts in starts_BP.split(plan.micro_batch_clips):
        patches_XFT = load_patches(frames_TF, starts, state).flatten(0, 1)
        with mixed_precision(plan, state.device):
            latents = state.model.encode(patches_XFT)
        rows_ND = state.model.codebook.rows(latents)
        quantized = state.model.codebook.quantize(rows_ND, chunk_rows=plan.quantizer_chunk_rows)
        codes.append(quantized.codes_NM.unflatten(0, (-1, n_patches, *grid)).cpu())
        if with_errors:
            with mixed_precision(plan, state.device):
                decoded_XFT = state.model.decoder(state.model.codebook.grid(quantized.vectors_ND))
            squared = F.mse_loss(decoded_XFT.to(state.dtype), patches_XFT, reduction="none")
            reconstruction.append(squared.flatten(1).mean(1).unflatten(0, (-1, n_patches)).mean(1).cpu())
            gaps = (state.model.codebook.comparable(rows_ND) - quantized.vectors_ND).square().mean(1)
            quantization.append(gaps.unflatten(0, (starts.shape[0], -1)).mean(1).cpu())
    empty = torch.empty(0)
    return EncodedClips(
        torch.cat(codes)
        if codes
        else torch.empty(0, n_patches, *grid, state.config.quantizer.codebooks, dtype=torch.int64),
        torch.cat(reconstruction) if reconstruction else empty,
        torch.cat(quantization) if quantization else empty,
    )
