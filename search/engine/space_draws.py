"""What any sampler makes proposals of: a space's values, those whose conditions hold, and Optuna's distributions."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from search.engine._tpe import random_draws
from search.engine.optuna_trials import to_optuna
from spaces.space import Space
from trainable.errors import ConfigError

PROBES = 64
"""Uniform draws, beside the smallest corner, that show whether anything fits."""


def all_distributions(space: Space) -> dict[str, BaseDistribution]:
    """Optuna's distributions by name; a space means the same whatever the order of its lines."""
    by_name = sorted(space.parameters, key=lambda parameter: parameter.name)
    return {parameter.name: to_optuna(parameter.distribution) for parameter in by_name}


def distributions_of(space: Space, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Optuna's distributions of the parameters given, in their order. Raises KeyError for one that is not searched."""
    known = all_distributions(space)
    return {name: known[name] for name in params}


def active_params(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The given values whose conditions hold, in the space's order: what can be proposed."""
    params: dict[str, Any] = {}
    for parameter in space.parameters:
        if space.is_active(parameter, params):
            params[parameter.name] = values[parameter.name]
    return space.canonical(params)


def uniform_values(space: Space, rng: np.random.RandomState) -> dict[str, Any]:
    """A uniform draw of every parameter, whether its condition holds or not."""
    return random_draws(all_distributions(space), rng, 1)[0]


def uniform_params(space: Space, rng: np.random.RandomState) -> dict[str, Any]:
    """A uniform draw, conditions respected."""
    return active_params(space, uniform_values(space, rng))


def draw(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Uniform draws of a space's parameters, as in the first proposals of a search."""
    rng = np.random.RandomState(seed)
    return [uniform_params(space, rng) for _ in range(count)]


def refuse_several_batch_sizes(space: Space) -> None:
    """Raises ConfigError if batches vary in size, so that no micro-batch is the same number of steps for all."""
    if "batch_size" in space.names:
        raise ConfigError("--gradient-accumulation-steps needs one batch size, but the space searches batch_size")


def probes(space: Space, seed: int, count: int = PROBES) -> Iterator[dict[str, Any]]:
    """Parameters that show whether anything fits: the smallest corner, then uniform draws."""
    yield smallest(space)
    rng = np.random.RandomState(seed)
    for _ in range(count):
        yield uniform_params(space, rng)


def smallest(space: Space) -> dict[str, Any]:
    """The corner of the space with the lowest values: if that does not fit, hardly anything does."""
    params: dict[str, Any] = {}
    for parameter in space.parameters:
        if space.is_active(parameter, params):
            distribution = parameter.distribution
            values = getattr(distribution, "values", None)
            numeric = values is not None and all(isinstance(value, int | float) for value in values)
            low = distribution.low if values is None else min(values) if numeric else values[0]  # type: ignore[union-attr]
            params[parameter.name] = int(low) if getattr(distribution, "integer", False) else low
    return params
