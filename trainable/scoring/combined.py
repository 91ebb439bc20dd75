"""A calibrated combination: each member's score in standard deviations of its own scores on unseen normal clips."""

from typing import Any

import torch
from torch import Tensor

from trainable.config import DensityName, ScoreConfig
from trainable.scoring.counts import KernelCounts
from trainable.scoring.density import DensityModel, GroupState
from trainable.scoring.mahalanobis import Mahalanobis
from trainable.scoring.neighbours import GridNeighbours, HistogramNeighbours

MEMBERS: tuple[type[DensityModel], ...] = (GridNeighbours, Mahalanobis, HistogramNeighbours, KernelCounts)
"""One of each family; a second of the same adds little that the first does not say."""


class Combined(DensityModel):
    """Mean of the members' z-scores, calibrated by two-fold cross-fitting within the training clips.

    A member scores clips it was fitted to too low, so each half of a group is scored by a member fitted to the other.
    """

    name: DensityName = "combined"

    def __init__(self, config: ScoreConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        self.members = [member(config, seed=seed) for member in MEMBERS]

    def prepare(self) -> None:
        for member in self.members:
            member.codebook_KD = self.codebook_KD
            member.prepare()

    def fit_group(self, codes_BPHW: Tensor) -> GroupState:
        folds = (codes_BPHW[::2], codes_BPHW[1::2]) if len(codes_BPHW) > 1 else (codes_BPHW, codes_BPHW)
        state: GroupState = {}
        for index, member in enumerate(self.members):
            crossed = [
                member.clip_scores(member.fit_group(fitted), scored).double() for fitted, scored in (folds, folds[::-1])
            ]
            scores = torch.cat(crossed)
            state[f"{index}/centre"] = scores.mean()
            state[f"{index}/scale"] = scores.std(correction=0).clamp_min(1e-12)
            state |= {f"{index}/member/{name}": value for name, value in member.fit_group(codes_BPHW).items()}
        return state

    def clip_scores(self, state: GroupState, codes_BPHW: Tensor) -> Tensor:
        total = torch.zeros(len(codes_BPHW), dtype=torch.float64)
        for index, member in enumerate(self.members):
            prefix = f"{index}/member/"
            own: dict[str, Any] = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            scores = member.clip_scores(own, codes_BPHW).double()
            total += (scores - state[f"{index}/centre"]) / state[f"{index}/scale"]
        return total / len(self.members)
