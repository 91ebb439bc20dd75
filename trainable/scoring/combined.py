"""Calibrated combinations: each member's score in standard deviations of its own scores on unseen normal clips."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainable.config import DensityName, ScoreConfig
from trainable.scoring.codes import ClipCodes
from trainable.scoring.density import DensityModel, GroupState
from trainable.scoring.interpolation import Interpolation
from trainable.scoring.mahalanobis import CrossMahalanobis, Mahalanobis
from trainable.scoring.neighbours import GridNeighbours

SMALLEST_SHARE = 1e-3
Centre = TypeVar("Centre", float, np.ndarray)


def smallest_scale(centre: Centre) -> Centre:
    """Least standard deviation that scores of this mean are divided by: a few clips, or copies, may score alike."""
    return SMALLEST_SHARE * abs(centre) + 1e-9


class Combined(DensityModel):
    """Mean of the members' z-scores, calibrated by two-fold cross-fitting within the training clips.

    A member underestimates the scores of clips it was fitted to, so a member fitted to one half scores the other.
    """

    name: ClassVar[DensityName] = "combined"
    cheap: ClassVar[bool] = True
    kinds: ClassVar[tuple[type[DensityModel], ...]] = (GridNeighbours, Mahalanobis)
    """A model of patches and one of a clip's moments; counts, histograms, bigrams and shifted clips added nothing."""

    def __init__(self, config: ScoreConfig, *, seed: int = 0):
        super().__init__(config, seed=seed)
        self.members = [member(config, seed=seed) for member in self.kinds]

    def prepare(self) -> None:
        for member in self.members:
            member.codebook_KD, member.codebooks = self.codebook_KD, self.codebooks
            member.prepare()

    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        state: GroupState = {}
        for index, member in enumerate(self.members):
            own, centre, scale = _calibrated(member, codes_BPHWM)
            state |= {f"{index}/centre": centre, f"{index}/scale": scale}
            state |= {f"{index}/member/{name}": value for name, value in own.items()}
        return state

    def gain_codebooks(self, state: GroupState) -> None:
        for index, member in enumerate(self.members):
            own = _own_state(state, index)
            member.gain_codebooks(own)
            state |= {f"{index}/member/{name}": value for name, value in own.items()}

    def fitted_members(self) -> list[DensityModel]:
        """The members, each as if fitted alone to this model's training clips."""
        for index, member in enumerate(self.members):
            member.groups = {group: _own_state(state, index) for group, state in self.groups.items()}
        return self.members

    def clip_scores(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        members = enumerate(self.members)
        return _mean_of_z(state, [each.clip_scores(_own_state(state, index), codes_BPHWM) for index, each in members])

    def scores_from_members(self, scores: Mapping[DensityName, np.ndarray], codes: ClipCodes) -> np.ndarray:
        """What `score_samples` gives, from what the `fitted_members` gave the same clips, by name."""
        result = np.empty(len(codes))
        for group, members in self.groups_of(codes).items():
            own = [torch.from_numpy(scores[each.name][members]) for each in self.members]
            result[members] = _mean_of_z(self.state_of(group), own).numpy()
        return result

    def part(self, smaller: type["Combined"]) -> "Combined":
        """A combination of some of the members, as if fitted alone to this model's training clips."""
        model = smaller(self.config, seed=self.seed)
        model.codebook_KD, model.codebooks = self.codebook_KD, self.codebooks
        model.prepare()
        places = [self.kinds.index(kind) for kind in smaller.kinds]
        model.groups = {group: _renumbered(state, places) for group, state in self.groups.items()}
        return model


class Fused(Combined):
    """`Combined` of patches, moments, moments with correlations of rows, and columns between their neighbours."""

    name: ClassVar[DensityName] = "fused"
    kinds: ClassVar[tuple[type[DensityModel], ...]] = (GridNeighbours, Mahalanobis, CrossMahalanobis, Interpolation)
    """Different machines are heard best by different members; `docs/detection.md` has each alone."""


def _mean_of_z(state: GroupState, scores: Sequence[Tensor]) -> Tensor:
    """Mean over the members of their scores (B,), each in its own standard deviations."""
    return torch.stack(
        [(each.double() - state[f"{i}/centre"]) / state[f"{i}/scale"] for i, each in enumerate(scores)]
    ).mean(dim=0)


def _renumbered(state: GroupState, places: list[int]) -> GroupState:
    """What members at these places learnt, numbered from 0."""
    return {
        f"{index}{name.removeprefix(str(place))}": value
        for index, place in enumerate(places)
        for name, value in state.items()
        if name.startswith(f"{place}/")
    }


def _own_state(state: GroupState, index: int) -> GroupState:
    """What a member of the combination learnt about a group."""
    prefix = f"{index}/member/"
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _calibrated(member: DensityModel, codes_BPHWM: Tensor) -> tuple[GroupState, Tensor, Tensor]:
    """A fitted member, with mean and standard deviation of its scores on normal clips that it was not fitted to."""
    if len(codes_BPHWM) < 2:
        # Nothing is left to calibrate on: uncalibrated scores are averaged, which still ranks the id's clips.
        return (
            member.fit_group(codes_BPHWM),
            torch.zeros((), dtype=torch.float64),
            torch.ones((), dtype=torch.float64),
        )
    state, unseen = member.cross_fitted(codes_BPHWM)
    centre = unseen.mean()
    return state, centre, unseen.std(correction=0).clamp_min(smallest_scale(float(centre)))
