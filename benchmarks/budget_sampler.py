"""The budgeted sampler against three others: wasted proposals, and the best result after equal training.

    python -m benchmarks.budget_sampler --seeds 200 --output benchmarks/results/budget_sampler.csv

The space is the one that the replayed curves were drawn from (`benchmarks/results/curves_space.yaml`, `ad_tuning` of
then). Memory is the planner's prediction for the whole batch at once without recomputation; the
budget is the median over uniform draws, so that about half of the space exceeds it. Nothing is trained: two objectives
are SYNTHETIC (`hill`: smooth, with its summit over or within the budget), the third is REPLAYED (`benchmarks.replayed`:
a surrogate fitted to 60 recorded trainings). All samplers get the same number of trainings; proposals that do not fit
come on top. Ours is compared with:

* plain Optuna TPE (multivariate, groups) that is told FAIL for proposals that do not fit,
* the same, told PRUNED with the constraint log(predicted / budget): only rejection,
* uniform draws, rejected if they do not fit.

A wasted proposal is one that could not be trained. A draw that our sampler drops costs a query to the planner but no
proposal; `draws` is the number of draws per proposal.
"""

import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from benchmarks.replayed import Replayed
from benchmarks.tables import command_of, write_table
from search.engine.feasibility import Feasibility
from search.engine.observation import memory_violation
from search.engine.optuna_trials import frozen
from search.engine.sampler import SpaceProposer
from search.engine.space_draws import all_distributions, distributions_of, uniform_params
from spaces.loader import load_space
from spaces.space import Space
from trainable.commandline import Parser, add_flag, run
from trainable.execution_plan import PlanRequest
from trainable.memory.planner import Planner
from trainable.memory.predict import DataSizes

DATA = DataSizes(train_frames=200 * 141, test_frames=200 * 141, train_clips=200, test_clips=200, n_ids=4)
SPACE = Path(__file__).with_name("results") / "curves_space.yaml"
WINDOW = 25
"""Number of first and of last proposals whose waste is shown separately."""
MOST_PROPOSALS = 10
"""Most proposals per training: a sampler that no longer finds any that fits is stopped there."""
SUMMITS = {
    "hill, summit beyond the budget": {"n_patches": 8, "latent_dim": 56, "num_embeddings": 512},
    "hill, summit within the budget": {"n_patches": 4, "latent_dim": 20, "num_embeddings": 128},
}
"""Optimum of the synthetic objective; see `hill` for the other parameters."""
RESAMPLES = 10_000


Objective = Callable[[Mapping[str, Any]], float]


def hill(params: Mapping[str, Any], summit: Mapping[str, int]) -> float:
    """A synthetic AUC, at most 0.95: falls with the square of the distance, in octaves, from the summit."""
    octaves = [
        math.log2(params["n_patches"] / summit["n_patches"]) / 2,
        math.log2(params["latent_dim"] / summit["latent_dim"]) / 3,
        math.log2(params["num_embeddings"] / summit["num_embeddings"]) / 4,
        math.log2(params["stride"] / 8) / 3,
        math.log2(params["learning_rate"] / 2e-3) / 4,
        math.log2(params["commitment_cost"] / 0.25) / 6,
        params["commitment_warmup_epochs"] / 8,
        (params.get("commitment_warmup_start", 0.0) - 0.2) / 4,
    ]
    return 0.95 - 0.2 * sum(distance**2 for distance in octaves)


@dataclass
class Search:
    """Results of one search."""

    wasted: list[bool]
    """For each proposal in order, whether it could not be trained."""
    draws: int
    started_over_budget: int
    values: list[float]

    def share(self, part: slice) -> float:
        return float(np.mean(self.wasted[part]))


def predicted_bytes(feasibility: Feasibility, space: Space, params: Mapping[str, Any]) -> int:
    """Predicted peak of the fastest plan for given parameters, cached for all that need the same memory."""
    return feasibility.plan(space.config(params, epochs=space.search.max_epochs)).predicted_bytes


class Problem:
    """Space, budget and objective."""

    def __init__(self, space: Space, feasibility: Feasibility, budget_bytes: int, value: Objective, trainings: int):
        self.space, self.feasibility, self.budget_bytes = space, feasibility, budget_bytes
        self.value, self.trainings = value, trainings

    def bytes_of(self, params: Mapping[str, Any]) -> int:
        return predicted_bytes(self.feasibility, self.space, params)

    def fits(self, params: Mapping[str, Any]) -> bool:
        return self.bytes_of(params) <= self.budget_bytes


def ours(problem: Problem, seed: int) -> Search:
    """Our sampler, as the conductor uses it."""
    sampler = SpaceProposer(problem.space, seed=seed)
    done = Search([], 0, 0, [])
    while len(done.values) < problem.trainings and len(done.wasted) < MOST_PROPOSALS * problem.trainings:
        proposal = sampler.suggest(len(done.wasted), problem.fits)
        done.draws += proposal.draws
        done.wasted.append(not proposal.fits)
        if proposal.fits:
            done.started_over_budget += problem.bytes_of(proposal.params) > problem.budget_bytes
            done.values.append(problem.value(proposal.params))
            number, value = len(done.wasted) - 1, done.values[-1]
            distributions = distributions_of(problem.space, proposal.params)
            sampler.update(frozen(number, TrialState.COMPLETE, proposal.params, distributions, value=value))
    return done


def plain_tpe(problem: Problem, seed: int, *, state: TrialState) -> Search:
    """Optuna's own sampler; it is told `state` for proposals that do not fit, with the constraint if that is PRUNED."""
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=10)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    done = Search([], 0, 0, [])
    while len(done.values) < problem.trainings and len(done.wasted) < MOST_PROPOSALS * problem.trainings:
        trial = study.ask()
        params = suggested(problem.space, trial)
        done.draws += 1
        done.wasted.append(not problem.fits(params))
        if problem.fits(params):
            done.values.append(problem.value(params))
            study.tell(trial, done.values[-1])
            continue
        if state == TrialState.PRUNED:
            trial.set_constraint("memory", memory_violation(problem.bytes_of(params), problem.budget_bytes))
        study.tell(trial, state=state)
    return done


def suggested(space: Space, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
    """Suggests parameters one by one, with their conditions, as a user's objective function would."""
    distributions = all_distributions(space)
    params: dict[str, Any] = {}
    for parameter in space.parameters:
        if space.is_active(parameter, params):
            params[parameter.name] = _suggest(trial, parameter.name, distributions[parameter.name])
    return params


def _suggest(trial: optuna.trial.BaseTrial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, optuna.distributions.IntDistribution)
    return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)


def uniform(problem: Problem, seed: int) -> Search:
    """Uniform draws, rejected where they do not fit."""
    rng = np.random.RandomState(seed)
    done = Search([], 0, 0, [])
    while len(done.values) < problem.trainings:
        params = uniform_params(problem.space, rng)
        done.draws += 1
        done.wasted.append(not problem.fits(params))
        if problem.fits(params):
            done.values.append(problem.value(params))
    return done


CONTENDERS: dict[str, Callable[[Problem, int], Search]] = {
    "ours": ours,
    "TPE told FAIL": lambda problem, seed: plain_tpe(problem, seed, state=TrialState.FAIL),
    "TPE told PRUNED with constraint": lambda problem, seed: plain_tpe(problem, seed, state=TrialState.PRUNED),
    "uniform draws": uniform,
}


def interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % percentile bootstrap interval over seeds."""
    rng = np.random.default_rng(0)
    means = rng.choice(differences, (RESAMPLES, len(differences))).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def rows_of(problem: Problem, objective: str, seeds: int) -> list[dict[str, Any]]:
    """One row per contender; differences are ours minus the other's, with the same seeds."""
    searches = {name: [search(problem, seed) for seed in range(seeds)] for name, search in CONTENDERS.items()}
    best = {
        name: np.array([max(search.values, default=math.nan) for search in done]) for name, done in searches.items()
    }
    rows = []
    for name, done in searches.items():
        row: dict[str, Any] = {
            "objective": objective,
            "sampler": name,
            "seeds": seeds,
            "trainings": float(np.mean([len(search.values) for search in done])),
            "proposals": float(np.mean([len(search.wasted) for search in done])),
            "draws": sum(search.draws for search in done) / sum(len(search.wasted) for search in done),
            "wasted_first": float(np.mean([search.share(slice(WINDOW)) for search in done])),
            "wasted_last": float(np.mean([search.share(slice(-WINDOW, None)) for search in done])),
            "wasted": float(np.mean([search.share(slice(None)) for search in done])),
            "started_over_budget": sum(search.started_over_budget for search in done),
            "best": float(best[name].mean()),
        }
        if name != "ours":
            difference = interval(best["ours"] - best[name])
            row |= dict(zip(("ours_minus_this", "interval_low", "interval_high"), difference, strict=True))
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.budget_sampler", description=__doc__.split("\n")[0])
    add_flag(parser, "seeds", type=int, default=24, metavar="N", help="searches per contender (default: 24)")
    add_flag(parser, "trainings", type=int, default=60, metavar="N", help="trainings in each search (default: 60)")
    add_flag(parser, "output", metavar="FILE", help="write the table as CSV")
    arguments = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    torch.set_num_threads(1)
    space = load_space(str(SPACE))
    batch = space.default_config(epochs=1).patch.batch_size
    planner = Planner(DATA, budget_bytes=None, request=PlanRequest(micro_batch_clips=batch, recompute=False))
    feasibility = Feasibility(space, budget_bytes=None, plans=planner.plan)
    rng = np.random.RandomState(0)
    sizes = [predicted_bytes(feasibility, space, uniform_params(space, rng)) for _ in range(500)]
    budget_bytes = int(median(sizes))
    exceeding = float(np.mean([size > budget_bytes for size in sizes]))
    replayed = Replayed()
    objectives: dict[str, Objective] = {name: partial(hill, summit=summit) for name, summit in SUMMITS.items()}
    objectives["replayed trainings"] = replayed
    setting = (
        f"predicted {min(sizes) / 2**20:.0f} … {max(sizes) / 2**20:.0f} MiB, budget {budget_bytes / 2**20:.0f} MiB, "
        f"exceeded by {exceeding:.0%} of 500 uniform draws; {arguments.trainings} trainings; replayed: "
        f"{replayed.configurations} configurations, leave-one-out rank correlation {replayed.rank_correlation:.2f}"
    )
    print(setting, flush=True)
    rows = []
    for name, objective in objectives.items():
        problem = Problem(space, feasibility, budget_bytes, objective, arguments.trainings)
        rows += rows_of(problem, name, arguments.seeds)
        for row in rows[-len(CONTENDERS) :]:
            print(", ".join(f"{column} {_shown(value)}" for column, value in row.items()), flush=True)
    if arguments.output:
        shown = [{column: _shown(value) for column, value in row.items()} for row in rows]
        write_table(arguments.output, shown, command_of("budget_sampler", argv), setting)
    return 0


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run(main))
