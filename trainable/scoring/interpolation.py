"""How well a column of codes is told by the columns beside it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trainable.config import DensityName
from trainable.model.quantizer import code_vectors
from trainable.scoring.density import HALVES, GroupState, PositionModel
from trainable.scoring.distances import chunk_length, reduced_codebook

EMBEDDING_WIDTH = 8
"""Principal axes of the codebook, as in `Mahalanobis`."""
RIDGE = 0.1
"""Penalty of the prediction, as a share of the mean variance of what it is made from."""
SHRINKAGE = 0.1
"""Share of the residuals' covariance that equal variances replace: its smallest directions are the least known."""


@dataclass(frozen=True)
class _Sums:
    """Over columns, of the vectors of both neighbours and of the column: C = 3 · H · D numbers."""

    count: int
    total: Tensor
    """Float64 (C,)."""
    products: Tensor
    """Of all pairs of numbers, float64 (C, C)."""

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.count + other.count, self.total + other.total, self.products + other.products)


class Interpolation(PositionModel):
    """Surprise of a column's code vectors, given those of the column before and the column after.

    IDNN's idea (Suefuji et al. 2020: predict the middle frame, for what is hard to predict differs from what is hard to
    compress) on codes, with a linear prediction: ridge regression of the H · D numbers of a column on the 2 · H · D of
    its neighbours. Residuals are whitened, so that rows which are always uncertain count no more than others, by the
    symmetric root, which mixes rows least (Kessy et al. 2018, ZCA); a position's surprise is the mean square over its
    axes, about 1 in normal clips. The first and the last column of a patch, which lack a neighbour, take the surprise
    of the column beside them. Grids of fewer than three columns are compared with their mean.
    """

    name: ClassVar[DensityName] = "interpolation"
    cheap: ClassVar[bool] = True
    unit: ClassVar[str] = "normal variances"

    def prepare(self) -> None:
        self.embedding_KD = reduced_codebook(self.codebook_KD, EMBEDDING_WIDTH, self.codebooks)

    def _columns(self, codes_BPHWM: Tensor) -> Iterator[Tensor]:
        """The vectors of all rows of each column, chunk by chunk of clips: (b, P, W, H · D)."""
        clip_bytes = 8 * 4 * self.embedding_KD.shape[1] * codes_BPHWM[:1, ..., 0].numel()
        for chunk in codes_BPHWM.split(chunk_length(clip_bytes)):
            yield code_vectors(chunk.transpose(2, 3), self.embedding_KD).flatten(3)

    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        return self._prediction(self._sums(codes_BPHWM), codes_BPHWM.shape[2])

    def cross_fitted(self, codes_BPHWM: Tensor) -> tuple[GroupState, Tensor]:
        n_rows = codes_BPHWM.shape[2]
        sums = [self._sums(codes_BPHWM[half]) for half in HALVES]  # once: those of all are those of both halves
        unseen = torch.empty(len(codes_BPHWM), dtype=torch.float64)
        for half, other in zip(HALVES, reversed(sums), strict=True):
            unseen[half] = self.clip_scores(self._prediction(other, n_rows), codes_BPHWM[half]).double()
        return self._prediction(sums[0] + sums[1], n_rows), unseen

    def _sums(self, codes_BPHWM: Tensor) -> _Sums:
        sums = _Sums(0, torch.zeros(()), torch.zeros(()))
        for columns in self._columns(codes_BPHWM):
            joint = torch.cat(_beside_and_middle(columns), dim=-1).flatten(0, -2)
            sums += _Sums(len(joint), joint.sum(dim=0).double(), (joint.T @ joint).double())
        return sums

    def _prediction(self, sums: _Sums, n_rows: int) -> GroupState:
        mean = sums.total / sums.count
        covariance = sums.products / sums.count - torch.outer(mean, mean)
        size = self.embedding_KD.shape[1] * n_rows
        beside, across, middle = covariance[:-size, :-size], covariance[:-size, -size:], covariance[-size:, -size:]
        penalty = RIDGE * beside.diagonal().mean() + 1e-9
        weights = torch.linalg.solve(beside + penalty * torch.eye(len(beside), dtype=torch.float64), across)
        explained = weights.T @ across
        residual = middle - explained - explained.T + weights.T @ beside @ weights
        return {"mean": mean.float(), "weights": weights.float(), "whitening": _whitening(residual).float()}

    def positions(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        width = self.embedding_KD.shape[1]
        surprise = []
        for columns in self._columns(codes_BPHWM):
            beside, middle = _beside_and_middle(columns)
            size = middle.shape[-1]
            predicted = state["mean"][-size:] + (beside - state["mean"][:-size]) @ state["weights"]
            whitened = (middle - predicted) @ state["whitening"]
            squares_BPHW = whitened.unflatten(-1, (-1, width)).square().mean(dim=-1).transpose(2, 3)
            if squares_BPHW.shape[-1] < columns.shape[2]:
                squares_BPHW = torch.cat([squares_BPHW[..., :1], squares_BPHW, squares_BPHW[..., -1:]], dim=-1)
            surprise.append(squares_BPHW)
        return torch.cat(surprise)


def _beside_and_middle(columns_BPWC: Tensor) -> tuple[Tensor, Tensor]:
    """Both neighbours of each column that has two, and the column itself; without neighbours where none has."""
    if columns_BPWC.shape[2] < 3:
        return columns_BPWC[..., :0], columns_BPWC
    return torch.cat([columns_BPWC[:, :, :-2], columns_BPWC[:, :, 2:]], dim=-1), columns_BPWC[:, :, 1:-1]


def _whitening(covariance: Tensor) -> Tensor:
    """Symmetric inverse root of a covariance that is shrunk towards equal variances."""
    level = covariance.diagonal().mean().clamp_min(1e-9)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * level * torch.eye(len(covariance), dtype=covariance.dtype)
    variances, axes = torch.linalg.eigh(shrunk)
    return axes @ torch.diag(variances.clamp_min(SHRINKAGE * level).rsqrt()) @ axes.T
