"""Density models on code indices: one interface, like scikit-learn's.

`fit(codes, codebook)` takes training clips only; `score_samples(codes)` returns a score per clip, HIGHER = MORE
ANOMALOUS. A model may look an index up in the frozen codebook; it sees nothing else of a clip.

B clips, P patches, H frequency rows and W columns in time of the code grid, M codebooks of K codes in all, D code
width. The vector of a position is the sum of its codes' vectors.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from trainable.config import DensityName, ScoreConfig
from trainable.data.clips import Split
from trainable.errors import CheckpointError, DataError, DataLeakError
from trainable.finite import FiniteTensor
from trainable.scoring.codes import ClipCodes
from trainable.typed import CountFromOne, Within

POOLED = "*"
"""Name of the only group of a model that is fitted to all machine ids together."""
HALVES = slice(None, None, 2), slice(1, None, 2)
"""Of a group's clips, for cross-fitting: neighbours in recording order are alike, so both halves span all of it."""
GroupState = dict[str, Tensor]


class DensityModel(ABC):
    """A model of normal clips' codes, one per machine id or one for all."""

    name: ClassVar[DensityName]
    """The name under which it is registered and saved."""
    cheap: ClassVar[bool] = False
    """Whether it is cheap enough to fit every epoch beside the configured one, only for its AUC."""
    kept_codes: ClassVar[str | None] = None
    """Name of the tensor of a group's state that holds codes, if there is one."""

    def __init__(self, config: ScoreConfig, *, seed: int = 0):
        self.config = config
        self.seed = seed
        self.codebook_KD = torch.empty(0, 0)
        self.codebooks = 1
        self.groups: dict[str, GroupState] = {}

    def fit(self, codes: ClipCodes, codebook_KD: Tensor) -> Self:
        """Learns what normal codes are.

        Raises
        ------
        DataLeakError
            If `codes` come from any split but TRAIN.
        """
        if codes.split is not Split.TRAIN:
            raise DataLeakError(f"a density model was offered {codes.split} clips to fit; it may see train clips only")
        self.codebook_KD = codebook_KD.detach().float().cpu()
        self.codebooks = codes.codes_BPHWM.shape[-1]
        self.prepare()
        self.groups = {
            group: self.fit_group(codes.codes_BPHWM[torch.tensor(members)])
            for group, members in self.groups_of(codes).items()
        }
        return self

    def score_samples(self, codes: ClipCodes) -> np.ndarray:
        """Anomaly score of each clip, float64 (B,): HIGHER = MORE ANOMALOUS.

        Raises DataError for a machine id that is not in the training clips (unless the model is pooled).
        """
        scores = np.empty(len(codes))
        for group, members in self.groups_of(codes).items():
            chosen = codes.codes_BPHWM[torch.tensor(members)]
            scores[members] = self.clip_scores(self.state_of(group), chosen).double().numpy()
        return scores

    def groups_of(self, codes: ClipCodes) -> dict[str, list[int]]:
        """Clips that one group's model judges, by the group's name."""
        if not self.config.density_per_id:
            return {POOLED: list(range(len(codes)))}
        members: dict[str, list[int]] = {}
        for index, machine_id in enumerate(codes.ids):
            members.setdefault(machine_id, []).append(index)
        return members

    def state_of(self, group: str) -> GroupState:
        """What was fitted to a group. Raises DataError if there is no such group."""
        if group not in self.groups:
            raise DataError(
                f"machine id {group} was not in training ({', '.join(self.groups)} were); "
                "score it with a pooled model (density_per_id: false)"
            )
        return self.groups[group]

    def prepare(self) -> None:  # noqa: B027  (a hook: most models need nothing)
        """Computes what depends on the codebook alone; called before groups are fitted and after a state is loaded."""

    @abstractmethod
    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        """Fits one group's normal clips; returns tensors only."""

    @abstractmethod
    def clip_scores(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        """Scores (B,) of one group's clips."""

    def cross_fitted(self, codes_BPHWM: Tensor) -> tuple[GroupState, Tensor]:
        """What `fit_group` gives, and scores (B,) of the same clips, each by a model fitted to the other half of them.

        Clips of even numbers are one half; there must be two clips or more.
        """
        return cross_fitted(codes_BPHWM, self.fit_group, self.clip_scores)

    def gain_codebooks(self, state: GroupState) -> None:
        """Gives the codes of a group saved before there were several codebooks their last axis."""
        if self.kept_codes is not None:
            state[self.kept_codes] = state[self.kept_codes][..., None]

    def state(self) -> dict[str, Any]:
        """Tensors and plain values, to be saved and loaded without pickle."""
        return {
            "name": self.name,
            "config": asdict(self.config),
            "seed": self.seed,
            "codebook": self.codebook_KD,
            "codebooks": self.codebooks,
            "groups": self.groups,
        }


def cross_fitted(
    rows: Tensor, fit: Callable[[Tensor], GroupState], score: Callable[[GroupState, Tensor], Tensor]
) -> tuple[GroupState, Tensor]:
    """What is fitted to all rows, and float64 scores of them, each by what is fitted to the other half: even or odd."""
    unseen = torch.empty(len(rows), dtype=torch.float64)
    for half, other in (HALVES, HALVES[::-1]):
        unseen[half] = score(fit(rows[other]), rows[half]).double()
    return fit(rows), unseen


class PositionModel(DensityModel):
    """A density model that gives the surprise of every position of the code grid."""

    unit: ClassVar[str] = "nats"
    """Unit of surprise, as figures label it."""

    @abstractmethod
    def positions(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        """Surprise (B, P, H, W) of one group's clips, float32."""

    def clip_scores(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        return aggregate(self.positions(state, codes_BPHWM), self.config)

    def position_scores(self, codes: ClipCodes) -> Tensor:
        """Surprise of every position of every clip, float32 (B, P, H, W)."""
        surprise = torch.empty(codes.codes_BPHWM.shape[:-1])
        for group, members in self.groups_of(codes).items():
            rows = torch.tensor(members)
            surprise[rows] = self.positions(self.state_of(group), codes.codes_BPHWM[rows])
        return surprise


def aggregate(positions_BPHW: Tensor, config: ScoreConfig) -> Tensor:
    """A clip's score from its positions: their mean, their largest, or the mean of the top share."""
    flat = positions_BPHW.flatten(1)
    if config.aggregation == "mean":
        return flat.mean(dim=1)
    if config.aggregation == "max":
        return flat.amax(dim=1)
    count = max(1, round(config.top_k_share * flat.shape[1]))
    return flat.topk(count, dim=1).values.mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class SavedDensity:
    """What `DensityModel.state` gives, as it is read back."""

    name: DensityName
    config: dict[str, Any]
    seed: Annotated[int, Within(low=0, high=2**64 - 1)]
    codebook: FiniteTensor
    codebooks: CountFromOne | None = None
    """None before there were several."""
    groups: dict[str, dict[str, FiniteTensor]]


def load_state(model: DensityModel, saved: SavedDensity) -> DensityModel:
    """Loads the result of `state()` into a model of the same kind. Raises CheckpointError if it does not fit."""
    model.codebook_KD = saved.codebook
    model.codebooks = saved.codebooks or 1
    model.groups = saved.groups
    try:
        if saved.codebooks is None:
            for tensors in model.groups.values():
                model.gain_codebooks(tensors)
        model.prepare()
    except (KeyError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"this is not the state of a density model: {error!r}") from None
    return model
