"""Density models by name: created, registered, restored from their state."""

from collections.abc import Mapping
from typing import Any

from trainable.config import DensityName, ScoreConfig, TrialConfig
from trainable.errors import CheckpointError, ConfigError
from trainable.registry import DENSITIES
from trainable.scoring.density import DensityModel, SavedDensity, load_state
from trainable.typed import build


def density_named(name: DensityName) -> type[DensityModel]:
    """The class of a density model. Raises ConfigError if there is none of that name."""
    model: type[DensityModel] = DENSITIES.get(name)
    return model


def register_density(name: DensityName, model: type[DensityModel]) -> None:
    """Registers a density model for the knob `density`.

    Raises
    ------
    ConfigError
        If the name is taken, or differs from the class's own: a saved detector names the model by its class.
    """
    if getattr(model, "name", None) != name:
        raise ConfigError(f"{model.__name__} cannot be registered as {name!r}; set its class variable name to that")
    DENSITIES.register(name, model)


def cheap_densities() -> tuple[DensityName, ...]:
    """The models that every epoch reports, so that one training evaluates several."""
    return tuple(name for name in DENSITIES.names() if density_named(name).cheap)


def make_density(config: ScoreConfig, *, name: DensityName | None = None, seed: int = 0) -> DensityModel:
    """An unfitted density model: the configured one, or another by name. Raises ConfigError if there is none."""
    return density_named(name or config.density)(config, seed=seed)


def density_from_state(state: Mapping[str, Any]) -> DensityModel:
    """The fitted model that `DensityModel.state` describes. Raises CheckpointError if it describes none."""
    try:
        saved = build(SavedDensity, state)
        config = TrialConfig.from_flat(saved.config).score
        return load_state(density_named(saved.name)(config, seed=saved.seed), saved)
    except (ValueError, ConfigError) as error:
        raise CheckpointError(f"this is not the state of a density model known here: {error}") from None
