"""Vector quantization: nearest codes in bounded memory, and the gradient that passes them.

N = rows of latents, D = their width, M codebooks in sequence, K = codes of all of them: those of the m-th codebook are
m · K/M … (m + 1) · K/M − 1. No N × K matrix and no one-hot matrix ever exists: distances are made for `chunk_rows` rows
at a time, and code statistics are sums by index.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainable.config import CodeGradient, Distance

CPU_CHUNK_ROWS = 2048
"""Rows whose distances to some hundred codes a CPU core's cache holds; no more are made at a time on a CPU."""


@dataclass(frozen=True)
class Quantized:
    """The result of quantizing N rows."""

    vectors_ND: Tensor
    """The codes' vectors, with the gradient rule attached."""
    codes_NM: Tensor
    """Index of each row's code in each codebook, int64."""
    commitment_loss: Tensor
    """Mean squared distance from latents to their (constant) codes, a scalar."""


@dataclass(frozen=True)
class CodeStatistics:
    """Sums over rows that an EMA update needs; those of micro-batches add up to those of the batch."""

    counts_K: Tensor
    sums_KD: Tensor


def half_squared_norms(codebook_KD: Tensor) -> Tensor:
    """½‖e‖² of each code, (K,)."""
    return codebook_KD.square().sum(dim=1).mul_(0.5)


def nearest_codes(latents_ND: Tensor, codebook_KD: Tensor, *, chunk_rows: int) -> Tensor:
    """Index (N,) of the code of one codebook nearest in squared Euclidean distance.

    ‖x − e‖² is smallest where ½‖e‖² − x·e is: one fused product a chunk, extra memory chunk_rows × K.
    """
    bias_K = half_squared_norms(codebook_KD)
    if latents_ND.device.type == "cpu":
        chunk_rows = min(chunk_rows, CPU_CHUNK_ROWS)
    # One tensor for all chunks: parts and their concatenation would hold every index twice.
    codes_N = latents_ND.new_empty(latents_ND.shape[0], dtype=torch.int64)
    for latents, codes in zip(latents_ND.split(chunk_rows), codes_N.split(chunk_rows), strict=True):
        _smallest(torch.addmm(bias_K, latents, codebook_KD.T, alpha=-1), codes)
    return codes_N


def _smallest(values_NK: Tensor, indices_N: Tensor) -> None:
    """Writes the index of each row's smallest value, of equal ones the first."""
    # On a CPU numpy's is vectorised and torch's is not; a fake tensor has no numbers that numpy could see.
    if values_NK.device.type == "cpu" and type(values_NK) is Tensor:
        np.argmin(values_NK.numpy(), axis=1, out=indices_N.numpy())
    else:
        torch.argmin(values_NK, dim=1, out=indices_N)


def residual_codes(latents_ND: Tensor, codebook_KD: Tensor, codebooks: int, *, chunk_rows: int) -> Tensor:
    """Index (N, M) of the nearest code to what the codebooks before have left over: rₘ₊₁ = rₘ − e(iₘ).

    Residual vector quantization (Zeghidour et al. 2021, SoundStream, algorithm 1).
    """
    size = codebook_KD.shape[0] // codebooks
    codes: list[Tensor] = []
    for index, codes_KD in enumerate(codebook_KD.split(size)):
        if index:
            latents_ND = latents_ND - F.embedding(codes[-1], codebook_KD)
        nearest_N = nearest_codes(latents_ND, codes_KD, chunk_rows=chunk_rows)
        codes.append(nearest_N.add_(index * size) if index else nearest_N)
    return torch.stack(codes, dim=1) if codebooks > 1 else codes[0][:, None]


def code_vectors(codes_nM: Tensor, table_KD: Tensor) -> Tensor:
    """Sum over the codebooks of what a table has for each code: (…, M) → (…, D)."""
    vectors_nD = F.embedding(codes_nM[..., 0], table_KD)
    for stage in range(1, codes_nM.shape[-1]):
        vectors_nD += F.embedding(codes_nM[..., stage], table_KD)
    return vectors_nD


def code_statistics(latents_ND: Tensor, codes_N: Tensor, num_embeddings: int) -> CodeStatistics:
    """How often each code was chosen, and the sum of the latents that chose it."""
    counts = latents_ND.new_zeros(num_embeddings)
    counts.index_add_(0, codes_N, latents_ND.new_ones(1).expand(codes_N.shape[0]))
    sums = latents_ND.new_zeros(num_embeddings, latents_ND.shape[1])
    sums.index_add_(0, codes_N, latents_ND)
    return CodeStatistics(counts, sums)


class _StraightThrough(torch.autograd.Function):
    """Forward the code, backward the unchanged gradient (Bengio et al. 2013); saves no tensors."""

    @staticmethod
    def forward(ctx: object, latents: Tensor, vectors: Tensor) -> Tensor:
        return vectors

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def rotate_to(latents_ND: Tensor, vectors_ND: Tensor) -> Tensor:
    """The code, reached from its latent by a rotation and a scaling that count as constants in the backward pass.

    The rotation trick (Fifty et al. 2024, eq. 4): q = (‖q‖/‖e‖) (I − 2rrᵀ + 2q̂êᵀ) e with r = (ê + q̂)/‖ê + q̂‖.
    """
    with torch.no_grad():
        latent_norms = latents_ND.norm(dim=1, keepdim=True).clamp_min(1e-6)
        latent_units = latents_ND / latent_norms
        vector_norms = vectors_ND.norm(dim=1, keepdim=True)
        vector_units = vectors_ND / vector_norms.clamp_min(1e-6)
        mirror = F.normalize(latent_units + vector_units, dim=1, eps=1e-6)
        scale = vector_norms / latent_norms
    mirrored = latents_ND - 2 * (latents_ND * mirror).sum(1, keepdim=True) * mirror
    return scale * (mirrored + 2 * (latents_ND * latent_units).sum(1, keepdim=True) * vector_units)


def unit_codes(codebook_KD: Tensor, codebooks: int) -> Tensor:
    """The codes with those of the first codebook normalised to unit length."""
    if codebooks == 1:
        return F.normalize(codebook_KD, dim=1)
    size = codebook_KD.shape[0] // codebooks
    return torch.cat([F.normalize(codebook_KD[:size], dim=1), codebook_KD[size:]])


def quantize(
    latents_ND: Tensor,
    codebook_KD: Tensor,
    *,
    chunk_rows: int,
    codebooks: int = 1,
    distance: Distance = "euclidean",
    code_gradient: CodeGradient = "straight_through",
) -> Quantized:
    """Replaces each row by its nearest code, or by the sum of its codes of several codebooks.

    With cosine distance rows and codes are normalised to unit length first, so that the nearest code in angle is the
    nearest in Euclidean distance; the resulting vectors are then unit vectors (Yu et al. 2022, ViT-VQGAN). Only the
    first of several codebooks consists of unit vectors; the others hold what it leaves over.
    """
    if distance == "cosine":
        latents_ND = F.normalize(latents_ND, dim=1)
        codebook_KD = unit_codes(codebook_KD, codebooks)
    with torch.no_grad():
        codes_NM = residual_codes(latents_ND, codebook_KD, codebooks, chunk_rows=chunk_rows)
        chosen_ND = code_vectors(codes_NM, codebook_KD)
    commitment_loss = F.mse_loss(latents_ND, chosen_ND)
    if code_gradient == "rotation":
        vectors_ND = rotate_to(latents_ND, chosen_ND)
    else:
        vectors_ND = _StraightThrough.apply(latents_ND, chosen_ND)  # type: ignore[no-untyped-call]
    return Quantized(vectors_ND, codes_NM, commitment_loss)
