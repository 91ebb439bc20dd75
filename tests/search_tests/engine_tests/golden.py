"""Proposals of a fixed seed, kept in `golden_proposals.json`: what a search proposed must stay what it proposes.

The file was computed with the sampler that drew through Optuna 5.0.0's own `TPESampler`, before the densities here
replaced it. A deliberate change of the sampler writes it anew (and says so in the changelog, for a resumed search then
goes on otherwise than it was begun)::

    python -m tests.search_tests.engine_tests.golden
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from search.engine.optuna_trials import frozen, to_optuna
from search.engine.sampler import SpaceProposer
from spaces.loader import load_space
from spaces.space import Space
from tests.search_tests.synthetic import small_space

FILE = Path(__file__).with_name("golden_proposals.json")
SPACE = Path(__file__).parents[3] / "benchmarks" / "results" / "curves_space.yaml"
"""`ad_tuning` as it was when the proposals were computed."""
COUNT = 30
Fits = Callable[[Mapping[str, Any]], bool]


def narrow(params: Mapping[str, Any]) -> bool:
    """About half of the synthetic space, and of the larger one what has few channels."""
    return bool(params["num_embeddings"] * params["latent_dim"] <= 2048)


def height(params: Mapping[str, Any]) -> float:
    """A made-up AUC, smooth in every number; the same whatever order the parameters come in."""
    total = 0.0
    for name, value in sorted(params.items()):
        number = float(value) if isinstance(value, int | float) else float(len(str(value)))
        total += (number - len(name)) ** 2 / (1.0 + (number - len(name)) ** 2)
    return 0.95 - 0.4 * total / len(params)


def cases() -> dict[str, tuple[Space, Fits, int, list[dict[str, Any]]]]:
    """Name → space, what fits, seed, initial proposals."""
    small, whole = small_space(), load_space(str(SPACE))
    first = {"num_embeddings": 32, "latent_dim": 8, "commitment_cost": 0.5, "commitment_warmup_epochs": 0}
    too_large = {**first, "num_embeddings": 256, "latent_dim": 64, "learning_rate": 1e-3}
    return {
        "synthetic, half of it fits": (small, narrow, 7, [{**first, "learning_rate": 2e-3}, too_large]),
        "ad_tuning, all of it fits": (whole, lambda params: True, 3, []),
    }


def proposals(name: str) -> list[dict[str, Any]]:
    """The first proposals, each ended two proposals later: completed, pruned or failed by turns."""
    space, fits, seed, initial = cases()[name]
    proposer = SpaceProposer(space, seed=seed, startup_trials=6, initial=initial)
    distributions = {each.name: to_optuna(each.distribution) for each in space.parameters}
    made: list[dict[str, Any]] = []
    for index in range(COUNT):
        proposal = proposer.suggest(index, fits)
        made.append({"params": proposal.params, "fits": proposal.fits, "draws": proposal.draws})
        known = {each: distributions[each] for each in proposal.params}
        proposer.update(frozen(index, TrialState.RUNNING, proposal.params, known))
        if index < 2:
            continue
        number = index - 2
        params = made[number]["params"]
        known = {each: distributions[each] for each in params}
        value = height(params)
        if number % 3 == 2:
            reported = {1: value - 0.1, 2: value - 0.05} if number % 2 else {1: value - 0.1}
            proposer.update(frozen(number, TrialState.PRUNED, params, known, intermediate=reported))
        elif number % 7 == 6:
            broken = {"failure": 1.0}
            proposer.update(
                frozen(number, TrialState.PRUNED, params, known, intermediate={1: value}, constraints=broken)
            )
        else:
            memory = {"memory": -0.5}
            proposer.update(frozen(number, TrialState.COMPLETE, params, known, value=value, constraints=memory))
    return made


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: proposals(name) for name in cases()}, indent=1) + "\n", encoding="utf-8")
