"""How the codebook starts: k-means on latents of the untrained encoder."""

import torch
from torch import Tensor

from trainable.execution_plan import ExecutionPlan
from trainable.training.state import TrainState
from trainable.training.step import load_patches, mixed_precision


@torch.no_grad()
def start_codebook(
    state: TrainState, frames_TF: Tensor, starts_BP: Tensor, plan: ExecutionPlan, generator: torch.Generator
) -> None:
    """K-means over the latents of some patches, encoded in micro-batches; memory is predicted by tracing it.

    The rows are written into one tensor made beforehand: a list of parts and their concatenation would hold every
    row twice.
    """
    codebook, per_patch = state.model.codebook, state.geometry.codes_per_patch
    rows_ND = codebook.codebook_KD.new_empty(starts_BP.numel() * per_patch, codebook.codebook_KD.shape[1])
    begin = 0
    for starts in starts_BP.split(plan.micro_batch_clips):
        patches_XFT = load_patches(frames_TF, starts, state).flatten(0, 1)
        with mixed_precision(plan, state.device):
            latents = state.model.encode(patches_XFT)
        end = begin + starts.numel() * per_patch
        rows_ND[begin:end] = codebook.rows(latents)
        begin = end
    codebook.start_from(rows_ND, generator, chunk_rows=plan.quantizer_chunk_rows)
