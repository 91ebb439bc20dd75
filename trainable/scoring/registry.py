"""All density models by name."""

from collections.abc import Mapping
from typing import Any

from trainable.config import DensityName, ScoreConfig
from trainable.errors import CheckpointError
from trainable.scoring.autoregressive import Autoregressive
from trainable.scoring.combined import Combined
from trainable.scoring.counts import Bigram, Counts, KernelCounts
from trainable.scoring.density import DensityModel, load_state
from trainable.scoring.mahalanobis import Mahalanobis
from trainable.scoring.neighbours import GridNeighbours, HistogramNeighbours, ShiftedNeighbours

DENSITIES: dict[DensityName, type[DensityModel]] = {
    model.name: model
    for model in (
        Counts,
        Bigram,
        KernelCounts,
        HistogramNeighbours,
        GridNeighbours,
        ShiftedNeighbours,
        Mahalanobis,
        Autoregressive,
        Combined,
    )
}
CHEAP_DENSITIES: tuple[DensityName, ...] = (
    "counts",
    "bigram",
    "kernel_counts",
    "histogram_neighbours",
    "grid_neighbours",
    "shifted_neighbours",
    "mahalanobis",
    "combined",
)
"""Reported every epoch, so that one training teaches about several."""


def make_density(config: ScoreConfig, *, name: DensityName | None = None, seed: int = 0) -> DensityModel:
    """An unfitted density model: the configured one, or another by name."""
    return DENSITIES[name or config.density](config, seed=seed)


def density_from_state(state: Mapping[str, Any]) -> DensityModel:
    """The fitted model that `DensityModel.state` described. Raises CheckpointError if it is none."""
    try:
        model = DENSITIES[state["name"]](ScoreConfig(**state["config"]), seed=state["seed"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"this is not the state of a density model: {error!r}") from None
    return load_state(model, state)
