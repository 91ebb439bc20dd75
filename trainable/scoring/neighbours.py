"""Nearest-neighbour models: how far a clip's codes lie from those of the nearest normal clips.

Distances are made in chunks of `CHUNK_BYTES`; no clips × clips × positions array exists.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from trainable.config import DensityName
from trainable.scoring.density import DensityModel, GroupState, PositionModel, reduced_codebook

CHUNK_BYTES = 64 * 1024**2
"""Largest temporary of a distance computation."""
EMBEDDING_WIDTH = 16
"""Principal axes of the codebook that distances between codes use."""
NEIGHBOURS = 2
"""Nearest training histograms averaged; 1 is noisier, 5 and more blur small machine ids."""


def squared_distances(a_MD: Tensor, b_ND: Tensor) -> Tensor:
    """‖a − b‖² of all pairs (M, N), never negative."""
    products = torch.addmm(b_ND.square().sum(1), a_MD, b_ND.T, alpha=-2)
    return products.add_(a_MD.square().sum(1, keepdim=True)).clamp_min_(0)


def chunk_length(columns: int) -> int:
    """Rows whose float32 distances to `columns` others take at most CHUNK_BYTES."""
    return max(1, CHUNK_BYTES // (4 * max(columns, 1)))


class HistogramNeighbours(DensityModel):
    """Distance between code histograms per frequency row: Hellinger's, which does not overrate frequent codes."""

    name: DensityName = "histogram_neighbours"

    def _histograms(self, codes_BPHW: Tensor) -> Tensor:
        n_clips, _, n_rows, _ = codes_BPHW.shape
        num_codes = self.codebook_KD.shape[0]
        rows = torch.arange(n_rows)[None, None, :, None]
        cells = (rows * num_codes + codes_BPHW).flatten(1)
        histograms = torch.zeros(n_clips, n_rows * num_codes)
        histograms.scatter_add_(1, cells, torch.ones(1, 1).expand(cells.shape))
        return (histograms / cells.shape[1]).sqrt_()

    def fit_group(self, codes_BPHW: Tensor) -> GroupState:
        return {"histograms": self._histograms(codes_BPHW)}

    def clip_scores(self, state: GroupState, codes_BPHW: Tensor) -> Tensor:
        known = state["histograms"]
        count = min(NEIGHBOURS, len(known))
        return torch.cat(
            [
                squared_distances(chunk, known).topk(count, dim=1, largest=False).values.mean(dim=1)
                for chunk in self._histograms(codes_BPHW).split(chunk_length(len(known)))
            ]
        )


class GridNeighbours(PositionModel):
    """The nearest training patch, compared position by position by the distance between codebook vectors.

    Any patch of the group may be the nearest: a clip of a running machine has no beginning.
    """

    name: DensityName = "grid_neighbours"

    def prepare(self) -> None:
        self.embedding_KD = reduced_codebook(self.codebook_KD, EMBEDDING_WIDTH)

    def fit_group(self, codes_BPHW: Tensor) -> GroupState:
        return {"patches": codes_BPHW.flatten(0, 1).unique(dim=0).to(torch.int32)}

    def _embed(self, codes_XHW: Tensor) -> Tensor:
        return F.embedding(codes_XHW.long(), self.embedding_KD)

    def positions(self, state: GroupState, codes_BPHW: Tensor) -> Tensor:
        known_XHWD = self._embed(state["patches"])
        asked_XHWD = self._embed(codes_BPHW.flatten(0, 1))
        return self.surprise(known_XHWD, asked_XHWD).unflatten(0, codes_BPHW.shape[:2])

    def surprise(self, known_XHWD: Tensor, asked_XHWD: Tensor) -> Tensor:
        """Squared distance to the nearest known patch at each position, (X, 8, 8)."""
        known = known_XHWD.flatten(1)
        nearest = torch.cat(
            [
                squared_distances(chunk, known).argmin(dim=1)
                for chunk in asked_XHWD.flatten(1).split(chunk_length(len(known)))
            ]
        )
        return (asked_XHWD - known_XHWD[nearest]).square().sum(dim=-1)


class ShiftedNeighbours(GridNeighbours):
    """Grid neighbours where a training patch may also lie up to two columns (16 frames) earlier or later.

    Positions that a shift leaves without a partner take the mean surprise of those that have one.
    """

    name: DensityName = "shifted_neighbours"
    SHIFTS = (-2, -1, 0, 1, 2)

    def surprise(self, known_XHWD: Tensor, asked_XHWD: Tensor) -> Tensor:
        width = asked_XHWD.shape[2]
        best = torch.full(asked_XHWD.shape[:1], float("inf"))
        result = torch.empty(asked_XHWD.shape[:3])
        for shift in self.SHIFTS:
            asked = slice(max(shift, 0), width + min(shift, 0))
            known = slice(max(-shift, 0), width + min(-shift, 0))
            overlap = super().surprise(known_XHWD[:, :, known], asked_XHWD[:, :, asked])
            mean = overlap.mean(dim=(1, 2))
            better = mean < best
            filled = mean[:, None, None].expand(result.shape).clone()
            filled[:, :, asked] = overlap
            result = torch.where(better[:, None, None], filled, result)
            best = torch.minimum(best, mean)
        return result
