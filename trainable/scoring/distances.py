"""Distances between codes, patches and clips, in chunks: no array here grows beyond `CHUNK_BYTES` and its inputs."""

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 1024**2
"""Largest temporary of a density model."""
LANDMARKS = 256
"""Codes that stand for all others in a kernel: K × 256 float32 stay below CHUNK_BYTES up to K = 65,536."""
RADIUS_NEIGHBOURS = 4
"""Normal neighbours whose mean distance is a normal clip's radius; 2 and 8 gave the same results."""
SMALLEST_RADIUS = 0.1
"""Smallest radius as a share of the mean radius: repeated recordings would otherwise make it zero."""


def chunk_length(row_bytes: int) -> int:
    """Number of rows of `row_bytes` each that fit into CHUNK_BYTES, at least one."""
    return max(1, CHUNK_BYTES // max(row_bytes, 1))


def reduced_codebook(codebook_KD: Tensor, width: int, codebooks: int = 1) -> Tensor:
    """The codes on the first `width` principal axes of their sums over the codebooks, float32 (K, ≤ width).

    A sum has the mean squared length 1 if codes are equally frequent and independent from codebook to codebook.
    Distances keep all but the variance of the axes left out, cost D / width times less, and mean the same whatever the
    scale of the latents.
    """
    stages_MKD = codebook_KD.unflatten(0, (codebooks, -1))
    centred = (stages_MKD - stages_MKD.mean(dim=1, keepdim=True)).flatten(0, 1)
    if centred.shape[1] > width:
        _, axes = torch.linalg.eigh(centred.T @ centred)
        centred = centred @ axes[:, -width:]
    return centred / centred.square().sum(dim=1).unflatten(0, (codebooks, -1)).mean(dim=1).sum().sqrt().clamp_min(1e-12)


def squared_distances(a_MD: Tensor, b_ND: Tensor) -> Tensor:
    """‖a − b‖² of all pairs (M, N), never negative."""
    products = torch.addmm(b_ND.square().sum(1), a_MD, b_ND.T, alpha=-2)
    return products.add_(a_MD.square().sum(1, keepdim=True)).clamp_min_(0)


def code_kernels(codebook_KD: Tensor, codebooks: int, *, seed: int) -> Tensor:
    """`code_kernel` of each codebook, float32 (M, K / M, L)."""
    return torch.stack([code_kernel(codes, seed=seed) for codes in codebook_KD.chunk(codebooks)])


def code_kernel(codebook_KD: Tensor, *, seed: int) -> Tensor:
    """Share of each code that each landmark code takes, rows summing to 1, float32 (K, L ≤ LANDMARKS).

    Gaussian in the distance between code vectors; its width is the median distance of a landmark to its third-nearest
    neighbour, so that it adapts to how densely the codebook is set. Landmarks are all codes where there are few, and a
    sample of them where there are many.
    """
    num_codes = codebook_KD.shape[0]
    landmarks = codebook_KD
    if num_codes > LANDMARKS:
        order = torch.randperm(num_codes, generator=torch.Generator().manual_seed(seed))
        landmarks = codebook_KD[order[:LANDMARKS]]
    squared = squared_distances(landmarks, landmarks)
    third = squared.kthvalue(min(4, len(landmarks)), dim=1).values.median().clamp_min(1e-12)
    return torch.softmax(squared_distances(codebook_KD, landmarks) / (-2 * third), dim=1)


def local_radii(distances_NM: Tensor, same_NM: Tensor) -> Tensor:
    """Mean distance (N,) of N normal things to their nearest among M others; `same_NM` marks pairs to exclude.

    Dividing a distance by the radius of the neighbour it leads to (as local outlier factors do, Breunig et al. 2000)
    makes a machine's loud and varied states no more suspicious than its quiet ones. Where there are no others, 1.
    """
    distances_NM = distances_NM.masked_fill(same_NM, float("inf"))
    count = min(RADIUS_NEIGHBOURS, int((~same_NM).sum(dim=1).min()))
    if count == 0:
        return torch.ones(len(distances_NM))
    return distances_NM.topk(count, dim=1, largest=False).values.mean(dim=1)


def floored(radii_N: Tensor) -> Tensor:
    """Radii with a floor, so that dividing by them stays meaningful."""
    return radii_N.clamp_min(max(SMALLEST_RADIUS * float(radii_N.mean()), 1e-3))


def nearest_in_radii(distances_MN: Tensor, radii_N: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """The smallest of N distances, each in units of its neighbour's radius, and its indices: two of (M, ≤ k)."""
    found = (distances_MN / radii_N).topk(min(neighbours, len(radii_N)), dim=1, largest=False)
    return found.values, found.indices
