"""Optuna state, value and constraints that represent a trial's ending to the sampler (see `search.store.study`)."""

import math
from collections.abc import Mapping

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search.engine.optuna_trials import frozen
from trainable.record import FAILURES, TrialEnd, TrialOutcome

FAILURE_VIOLATION = 1.0
"""Equal to the violation of a trial predicted at e times the budget: violations are summed and compared."""


def memory_violation(predicted_bytes: int, budget_bytes: int) -> float:
    """log(predicted / budget): 0 at the budget, positive above it, on the same scale for every GPU size."""
    return math.log(predicted_bytes / budget_bytes)


def memory_constraint(predicted_bytes: int, budget_bytes: int | None) -> dict[str, float]:
    """The memory constraint by name, at most 0 if the trial fits; empty without a budget."""
    if budget_bytes is None or predicted_bytes <= 0:
        return {}
    return {"memory": memory_violation(predicted_bytes, budget_bytes)}


def failure_constraint(outcome: TrialOutcome) -> dict[str, float]:
    """The violated constraint of a failed trial by name; empty for any other ending."""
    return {"failure": FAILURE_VIOLATION} if outcome.end in FAILURES else {}


def state_of(outcome: TrialOutcome) -> tuple[TrialState, float | None]:
    """Optuna's state and value for an ending."""
    if outcome.end == TrialEnd.COMPLETED and outcome.final_auc is not None and math.isfinite(outcome.final_auc):
        return TrialState.COMPLETE, outcome.final_auc
    return TrialState.PRUNED, None


def observation(
    number: int,
    params: Mapping[str, object],
    distributions: Mapping[str, BaseDistribution],
    intermediate: Mapping[int, float],
    outcome: TrialOutcome,
    memory: Mapping[str, float] | None = None,
) -> FrozenTrial:
    """An ended trial for the sampler's history, identical to the one read back from the storage.

    `memory` is the constraint that the trial started with (`memory_constraint`).
    """
    state, value = state_of(outcome)
    constraints = {**(memory or {}), **failure_constraint(outcome)}
    return frozen(number, state, params, distributions, value=value, intermediate=intermediate, constraints=constraints)
