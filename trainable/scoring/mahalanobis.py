"""Mahalanobis distance of how each frequency row's code vectors lie and move over time."""

from typing import ClassVar

import torch
from torch import Tensor

from trainable.config import DensityName
from trainable.model.quantizer import code_vectors
from trainable.scoring.density import DensityModel, GroupState, cross_fitted
from trainable.scoring.distances import chunk_length, reduced_codebook
from trainable.scoring.gaussian import gaussian_of, mahalanobis_distances

EMBEDDING_WIDTH = 8
"""Principal axes of the codebook: 8 rows × 8 axes × 3 moments; 4 and 16 detect no better on four sets of codes."""
COARSE = 8
"""Rows and columns of a coarse grid: cells of 8 mel bins × 8 frames in a patch of 64 × 64."""


class Mahalanobis(DensityModel):
    """A Gaussian with Ledoit–Wolf covariance (2004) on mean, deviation and roughness of each row's code vectors.

    Roughness is the root mean square of the step from one column to the next: the same mean and deviation sound
    different when they alternate fast, as they do when something knocks. A clip's score is its squared distance from
    the mean of its machine's normal clips, divided by the number of dimensions.
    """

    name: ClassVar[DensityName] = "mahalanobis"
    cheap: ClassVar[bool] = True

    def prepare(self) -> None:
        self.embedding_KD = reduced_codebook(self.codebook_KD, EMBEDDING_WIDTH, self.codebooks)

    def _moments(self, codes_BPHWM: Tensor) -> Tensor:
        """What is compared of each clip, float64 (B, …): 3 · H · D means, deviations and roughness."""
        row_bytes = 3 * 4 * codes_BPHWM[:1, ..., 0].numel() * self.embedding_KD.shape[1]
        vectors = (
            code_vectors(chunk.transpose(1, 2), self.embedding_KD)
            for chunk in codes_BPHWM.split(chunk_length(row_bytes))
        )
        return torch.cat([self._summary(vectors_BHPWD) for vectors_BHPWD in vectors])

    def _summary(self, vectors_BHPWD: Tensor) -> Tensor:
        means = vectors_BHPWD.mean(dim=(2, 3))
        deviations = (vectors_BHPWD - means[:, :, None, None]).square_().mean(dim=(2, 3)).sqrt()
        one_column = vectors_BHPWD.shape[3] == 1  # of which no step leads to another
        steps = torch.zeros_like(vectors_BHPWD) if one_column else vectors_BHPWD.diff(dim=3)
        roughness = steps.square_().mean(dim=(2, 3)).sqrt()
        return torch.stack([means, deviations, roughness], dim=1).flatten(1).double()

    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        return gaussian_of(self._moments(codes_BPHWM))

    def clip_scores(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        return mahalanobis_distances(state, self._moments(codes_BPHWM))

    def cross_fitted(self, codes_BPHWM: Tensor) -> tuple[GroupState, Tensor]:
        moments = self._moments(codes_BPHWM)  # once for the three fits: they cost far more than the fits
        return cross_fitted(moments, gaussian_of, mahalanobis_distances)


class CrossMahalanobis(Mahalanobis):
    """`Mahalanobis` on a clip's moments and the correlations of its rows: which bands move together.

    C(h, k) = ⟨v_h, v_k⟩ / √(⟨v_h, v_h⟩ ⟨v_k, v_k⟩) of the rows' vectors around their means in the clip, averaged over
    its positions; 28 numbers for 8 rows.
    """

    name: ClassVar[DensityName] = "cross_mahalanobis"

    def _summary(self, vectors_BHPWD: Tensor) -> Tensor:
        gaps_BHN = (vectors_BHPWD - vectors_BHPWD.mean(dim=(2, 3), keepdim=True)).flatten(2)
        products_BHH = gaps_BHN @ gaps_BHN.transpose(1, 2)
        # A row that never changes moves with no other.
        lengths_BH = products_BHH.diagonal(dim1=1, dim2=2).clamp_min(1e-9).sqrt()
        rows, others = torch.triu_indices(len(lengths_BH[0]), len(lengths_BH[0]), offset=1)
        correlations = products_BHH[:, rows, others] / (lengths_BH[:, rows] * lengths_BH[:, others])
        return torch.cat([super()._summary(vectors_BHPWD), correlations.double()], dim=1)


class CoarseMahalanobis(Mahalanobis):
    """`Mahalanobis` on cells pooled to a coarse grid, and on how a clip's patches differ.

    A fine grid has more moments than normal clips to learn them from, and its steps are too short for what changes
    slowly: means of neighbouring cells have fewer, and step over 8 frames. One more moment is the deviation of a row's
    mean vector from patch to patch: what goes on for longer than a patch.
    """

    name: ClassVar[DensityName] = "coarse_mahalanobis"

    def _summary(self, vectors_BHPWD: Tensor) -> Tensor:
        coarse_BHPWD = _pooled(_pooled(vectors_BHPWD, dim=1), dim=3)
        deviations_BHD = coarse_BHPWD.mean(dim=3).std(dim=2, correction=0)
        return torch.cat([super()._summary(coarse_BHPWD), deviations_BHD.flatten(1).double()], dim=1)


class CoarseCrossMahalanobis(CoarseMahalanobis, CrossMahalanobis):
    """`CoarseMahalanobis` with the correlations of the coarse grid's rows."""

    name: ClassVar[DensityName] = "coarse_cross_mahalanobis"


def _pooled(vectors: Tensor, dim: int) -> Tensor:
    """Means of neighbours along an axis: at least `COARSE` of them, from equally many cells each."""
    length = vectors.shape[dim]
    parts = next(parts for parts in range(min(COARSE, length), length + 1) if length % parts == 0)
    return vectors if parts == length else vectors.unflatten(dim, (parts, -1)).mean(dim=dim + 1)
