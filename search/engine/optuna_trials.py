"""Converts our distributions and trials to Optuna's, without a storage."""

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from spaces.space import Choices, Distribution


def to_optuna(distribution: Distribution) -> BaseDistribution:
    """Converts a space's distribution to Optuna's; bounds are inclusive in both."""
    if isinstance(distribution, Choices):
        return optuna.distributions.CategoricalDistribution(distribution.values)
    if distribution.integer:
        return optuna.distributions.IntDistribution(
            int(distribution.low), int(distribution.high), log=distribution.log, step=int(distribution.step or 1)
        )
    return optuna.distributions.FloatDistribution(
        distribution.low, distribution.high, log=distribution.log, step=distribution.step
    )


def frozen(
    number: int,
    state: TrialState,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    *,
    value: float | None = None,
    intermediate: Mapping[int, float] | None = None,
    constraints: Mapping[str, float] | None = None,
) -> FrozenTrial:
    """A `FrozenTrial` that is in no storage."""
    trial = create_trial(
        state=state,
        value=value,
        params=dict(params),
        distributions=dict(distributions),
        intermediate_values=dict(intermediate or {}),
        constraints=dict(constraints or {}),
    )
    trial.number = number
    return trial


def violation(trial: FrozenTrial) -> float:
    """Sum of violated constraints; 0 for a feasible trial."""
    return sum(value for value in trial.constraints.values() if value > 0)


def rank(trial: FrozenTrial, *, maximize: bool = True) -> tuple[float, ...]:
    """Sort key of a completed or pruned trial, best first.

    Completed trials rank by value; then pruned ones by last epoch, latest first, then by last value, NaN last.
    """
    sign = -1.0 if maximize else 1.0
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None, "a completed trial has a value"
        return (0.0, sign * trial.value, 0.0)
    if not trial.intermediate_values:
        return (1.0, 1.0, 0.0)
    step, value = max(trial.intermediate_values.items())
    return (1.0, -float(step), sign * value if value == value else float("inf"))
