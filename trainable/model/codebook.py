"""The codebooks: buffers that learn by exponential moving averages, start from k-means, and are revived.

An EMA codebook is a buffer, so `requires_grad=False` would not freeze it: in the frozen phase the step makes no update.

N rows of latents, D their width, M codebooks in sequence, K codes of all of them together (`quantizer.py` says which
is whose). Each codebook learns from what those before it have left over, as the only one learns from the rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainable.config import ModelConfig, QuantizerConfig
from trainable.model.geometry import Geometry
from trainable.model.quantizer import (
    CodeStatistics,
    Quantized,
    code_statistics,
    code_vectors,
    nearest_codes,
    quantize,
    unit_codes,
)

KMEANS_ITERATIONS = 10
"""Lloyd's iterations of the k-means start; the EMA goes on from there."""
SMOOTHING = 1e-5
"""Laplace smoothing of the EMA counts (van den Oord et al. 2017, appendix A.1)."""


@dataclass
class BatchStatistics:
    """What the codebook needs from an effective batch, gathered micro-batch by micro-batch."""

    counts_K: Tensor
    sums_KD: Tensor
    candidates_KD: Tensor
    """The latent, or what was left over of it, that would replace each code if it were dead."""

    def add(self, statistics: CodeStatistics) -> None:
        self.counts_K += statistics.counts_K
        self.sums_KD += statistics.sums_KD


@dataclass(frozen=True)
class CodebookValues:
    """Everything that an update changes."""

    codes_KD: Tensor
    counts_K: Tensor
    sums_KD: Tensor


def distinct_rows(n_rows: int, count: int, generator: torch.Generator) -> Tensor:
    """Up to `count` distinct rows (int64), one from each of as many equal stretches of all rows.

    Needs memory for `count` numbers only, however many rows there are, and leaves no clip out by chance.
    """
    count = min(count, n_rows)
    borders = torch.arange(count + 1) * n_rows // count
    offsets = torch.rand(count, generator=generator, dtype=torch.float64) * (borders[1:] - borders[:-1])
    return borders[:-1] + offsets.long()


class Codebook(nn.Module):
    """M codebooks with K codes of width D in all, between optional projections from and to latent_dim."""

    codebook_KD: Tensor
    ema_counts_K: Tensor
    ema_sums_KD: Tensor

    def __init__(self, config: QuantizerConfig, model: ModelConfig, geometry: Geometry):
        super().__init__()
        self.config = config
        self.geometry = geometry
        width = config.codebook_dim or model.latent_dim
        projected = config.projects(model.latent_dim)
        self.project_in = nn.Linear(model.latent_dim, width) if projected else nn.Identity()
        self.project_out = nn.Linear(width, model.latent_dim) if projected else nn.Identity()
        n_codes = config.codebooks * config.num_embeddings
        codes = torch.randn(n_codes, width)
        if config.distance == "cosine":
            codes = unit_codes(codes, config.codebooks)
        self.register_buffer("codebook_KD", codes)
        self.register_buffer("ema_counts_K", torch.ones(n_codes))
        self.register_buffer("ema_sums_KD", codes.clone())

    def rows(self, latents_XDHW: Tensor) -> Tensor:
        """Grid (X, D, H, W) → rows (N, codebook width), in the codebook's own type: distances are never made in half.

        Cast before the projection, which runs outside of mixed precision and has weights of that type.
        """
        return self.project_in(latents_XDHW.permute(0, 2, 3, 1).flatten(0, 2).to(self.codebook_KD.dtype))

    def quantize(self, rows_ND: Tensor, *, chunk_rows: int) -> Quantized:
        return quantize(
            rows_ND,
            self.codebook_KD,
            chunk_rows=chunk_rows,
            codebooks=self.config.codebooks,
            distance=self.config.distance,
            code_gradient=self.config.code_gradient,
        )

    def grid(self, vectors_ND: Tensor) -> Tensor:
        """Rows of code vectors back to the decoder's grid (X, latent_dim, H, W)."""
        shape = (-1, self.geometry.rows, self.geometry.columns)
        grid_XDHW = self.project_out(vectors_ND).unflatten(0, shape).permute(0, 3, 1, 2)
        # Its channels lie last, which suits oneDNN. CUDA's kernels for depthwise convolution and group norm would
        # silently copy every grid of the decoder; one copy of the smallest grid avoids that.
        return grid_XDHW if grid_XDHW.device.type == "cpu" else grid_XDHW.contiguous()

    def new_statistics(self) -> BatchStatistics:
        zeros = torch.zeros_like(self.codebook_KD)
        return BatchStatistics(torch.zeros_like(self.ema_counts_K), zeros, zeros.clone())

    def statistics(self, rows_ND: Tensor, codes_NM: Tensor) -> CodeStatistics:
        """Each codebook's statistics of what those before it left over, (K,) and (K, D)."""
        left_ND = self.comparable(rows_ND.detach())
        statistics = code_statistics(left_ND, codes_NM[:, 0], self.codebook_KD.shape[0])
        for stage in range(1, self.config.codebooks):
            left_ND = left_ND - F.embedding(codes_NM[:, stage - 1], self.codebook_KD)
            further = code_statistics(left_ND, codes_NM[:, stage], self.codebook_KD.shape[0])
            statistics.counts_K.add_(further.counts_K)
            statistics.sums_KD.add_(further.sums_KD)
        return statistics

    def offer(
        self, batch: BatchStatistics, rows_ND: Tensor, codes_NM: Tensor, candidate_rows_K: Tensor, first_row: int
    ) -> None:
        """Takes the candidates that lie in this micro-batch, whose rows begin at `first_row` of the batch."""
        n_rows = rows_ND.shape[0]
        local_K = candidate_rows_K - first_row
        here_K1 = ((local_K >= 0) & (local_K < n_rows))[:, None]
        local_K = local_K.clamp(0, n_rows - 1)
        offered_KD = self.comparable(rows_ND[local_K])
        size = self.config.num_embeddings
        for stage in range(1, self.config.codebooks):
            mine = slice(stage * size, (stage + 1) * size)
            offered_KD[mine] -= code_vectors(codes_NM[local_K[mine], :stage], self.codebook_KD)
        batch.candidates_KD = torch.where(here_K1, offered_KD, batch.candidates_KD)

    def comparable(self, rows_ND: Tensor) -> Tensor:
        """Rows as the distance sees them: normalised to unit length for cosine distance."""
        return F.normalize(rows_ND, dim=1) if self.config.distance == "cosine" else rows_ND

    @torch.no_grad()
    def updated(self, batch: BatchStatistics) -> "CodebookValues":
        """The codebook's values after one EMA update for the whole effective batch and revival of dead codes, which it
        does not `take` over yet.

        All memory for an update is allocated here, so that running out cannot leave half an update behind.
        """
        decay = self.config.ema_decay
        counts_K = self.ema_counts_K.lerp(batch.counts_K, 1 - decay)
        sums_KD = self.ema_sums_KD.lerp(batch.sums_KD, 1 - decay)
        codes = self.config.num_embeddings
        total_M = counts_K.view(-1, codes).sum(dim=1)
        smoothed_K = (counts_K + SMOOTHING) * (total_M / (total_M + SMOOTHING * codes)).repeat_interleave(codes)
        # A code that no row has chosen for long has sums near zero; it keeps its place instead of drifting to 0.
        used_K1 = (counts_K > SMOOTHING)[:, None]
        codes_KD = self._normalised(torch.where(used_K1, sums_KD / smoothed_K[:, None], self.codebook_KD))
        values = CodebookValues(codes_KD, counts_K, sums_KD)
        if not self.config.revival:
            return values
        return self._revived(values, batch.candidates_KD, (total_M / codes).repeat_interleave(codes))

    def take(self, values: "CodebookValues") -> None:
        """Takes over new values; needs no memory."""
        self.codebook_KD.copy_(values.codes_KD)
        self.ema_counts_K.copy_(values.counts_K)
        self.ema_sums_KD.copy_(values.sums_KD)

    def _normalised(self, codes_KD: Tensor) -> Tensor:
        """Codes as the distance sees them."""
        return unit_codes(codes_KD, self.config.codebooks) if self.config.distance == "cosine" else codes_KD

    def _revived(self, values: "CodebookValues", candidates_KD: Tensor, mean_counts_K: Tensor) -> "CodebookValues":
        """Dead codes become latents of this batch (Dhariwal et al. 2020, Jukebox) with an average code's weight."""
        dead_K = values.counts_K < self.config.dead_threshold * mean_counts_K
        dead_K1 = dead_K[:, None]
        return CodebookValues(
            torch.where(dead_K1, candidates_KD, values.codes_KD),
            torch.where(dead_K, mean_counts_K, values.counts_K),
            torch.where(dead_K1, candidates_KD * mean_counts_K[:, None], values.sums_KD),
        )

    @torch.no_grad()
    def start_from(self, rows_ND: Tensor, generator: torch.Generator, *, chunk_rows: int) -> None:
        """K-means over sample rows, codebook by codebook; codes with an empty cluster restart from a random row.

        The sample is overwritten where there are several codebooks.
        """
        rows_ND = self.comparable(rows_ND)
        for stage in range(self.config.codebooks):
            nearest_N = self._start_stage(stage, rows_ND, generator, chunk_rows=chunk_rows)
            if stage + 1 == self.config.codebooks:
                return
            for rows, codes in zip(rows_ND.split(chunk_rows), nearest_N.split(chunk_rows), strict=True):
                rows -= F.embedding(codes, self.codebook_KD)

    def _start_stage(self, stage: int, rows_ND: Tensor, generator: torch.Generator, *, chunk_rows: int) -> Tensor:
        """Starts one codebook from what is left of sample rows; returns each row's code (N,) of it."""
        n_codes, device = self.config.num_embeddings, rows_ND.device

        def random_rows() -> Tensor:
            picks = torch.randint(rows_ND.shape[0], (n_codes,), generator=generator).to(device)
            return rows_ND[picks]

        def means(sums_KD: Tensor, counts_K: Tensor) -> Tensor:
            means_KD = sums_KD / counts_K.clamp_min(1)[:, None]
            return self.comparable(means_KD) if stage == 0 else means_KD

        distinct = distinct_rows(rows_ND.shape[0], n_codes, generator).to(device)
        codes_KD = random_rows()
        codes_KD[: distinct.shape[0]] = rows_ND[distinct]
        for _ in range(KMEANS_ITERATIONS):
            nearest_N = nearest_codes(rows_ND, codes_KD, chunk_rows=chunk_rows)
            statistics = code_statistics(rows_ND, nearest_N, n_codes)
            counts_K = statistics.counts_K
            codes_KD = torch.where((counts_K > 0)[:, None], means(statistics.sums_KD, counts_K), random_rows())
        # Weight of the start in the EMA: as if one effective batch of the sample's size had been seen.
        weight_K = counts_K.clamp_min(1)
        mine = slice(stage * n_codes, (stage + 1) * n_codes)
        self.codebook_KD[mine].copy_(codes_KD)
        self.ema_counts_K[mine].copy_(weight_K)
        self.ema_sums_KD[mine].copy_(codes_KD * weight_K[:, None])
        return nearest_N.add_(stage * n_codes)
