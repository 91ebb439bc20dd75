"""Mahalanobis distance of how each frequency row's code vectors lie and move over time."""

import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor
from torch.nn import functional as F

from trainable.config import DensityName
from trainable.scoring.density import DensityModel, GroupState, reduced_codebook

EMBEDDING_WIDTH = 8
"""Principal axes of the codebook: 8 rows × 8 axes × 2 moments = 128 features for about 100 clips an id."""


class Mahalanobis(DensityModel):
    """Gaussian with Ledoit–Wolf covariance (2004) on mean and deviation over time of each row's code vectors."""

    name: DensityName = "mahalanobis"

    def prepare(self) -> None:
        self.embedding_KD = reduced_codebook(self.codebook_KD, EMBEDDING_WIDTH)

    def _moments(self, codes_BPHW: Tensor) -> Tensor:
        vectors_BHTD = F.embedding(codes_BPHW.permute(0, 2, 1, 3).flatten(2), self.embedding_KD)
        means = vectors_BHTD.mean(dim=2)
        deviations = vectors_BHTD.std(dim=2, correction=0)
        return torch.cat([means, deviations], dim=-1).flatten(1).double()

    def fit_group(self, codes_BPHW: Tensor) -> GroupState:
        moments = self._moments(codes_BPHW)
        centre = moments.mean(dim=0)
        covariance = torch.from_numpy(ledoit_wolf(moments.numpy())[0])
        # A group of identical clips has no covariance; the ridge keeps its distances finite.
        ridge = 1e-9 + 1e-9 * covariance.diagonal().mean()
        precision = torch.linalg.inv(covariance + ridge * torch.eye(len(covariance), dtype=torch.float64))
        return {"centre": centre, "precision": precision}

    def clip_scores(self, state: GroupState, codes_BPHW: Tensor) -> Tensor:
        gaps = self._moments(codes_BPHW) - state["centre"]
        return (gaps @ state["precision"] * gaps).sum(dim=1)
