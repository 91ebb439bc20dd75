"""How the ending of a trial looks to the sampler: Optuna's state, value and constraints (see `search.store.study`)."""

import math
from collections.abc import Mapping

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search.engine.optuna_trials import frozen
from trainable.record import FAILURES, TrialEnd, TrialOutcome

FAILURE_VIOLATION = 1.0
"""As large as predicting e times the budget: violations are summed and compared."""


def memory_violation(predicted_bytes: int, budget_bytes: int) -> float:
    """log(predicted / budget): 0 at the budget, positive above, of the same scale for every size of card."""
    return math.log(predicted_bytes / budget_bytes)


def memory_constraint(predicted_bytes: int, budget_bytes: int | None) -> dict[str, float]:
    """The constraint of a trial by its name: below zero of one that fits; none where there is no budget."""
    if budget_bytes is None or predicted_bytes <= 0:
        return {}
    return {"memory": memory_violation(predicted_bytes, budget_bytes)}


def failure_constraint(outcome: TrialOutcome) -> dict[str, float]:
    """The violated constraint of a failure by its name; none of another ending."""
    return {"failure": FAILURE_VIOLATION} if outcome.end in FAILURES else {}


def state_of(outcome: TrialOutcome) -> tuple[TrialState, float | None]:
    """Optuna's state and value of an ending."""
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
    """A trial that ended, as the sampler's history wants it: the same as reading it back from the storage.

    `memory` is the constraint that it was started with (`memory_constraint`).
    """
    state, value = state_of(outcome)
    constraints = {**(memory or {}), **failure_constraint(outcome)}
    return frozen(number, state, params, distributions, value=value, intermediate=intermediate, constraints=constraints)
