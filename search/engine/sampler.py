"""TPE that knows the memory budget: many draws at once from its own density, and the best of those that fit.

Tree-structured Parzen estimator (Bergstra et al. 2011; multivariate as in Falkner et al. 2018, BOHB). What fits is
known before training, so an infeasible region need not be learned from failures: candidates are drawn in bulk from
l(x), the density of the good trials, and walked through by falling l(x)/g(x) until one fits. Drawing from l(x) and
keeping what fits is the same as drawing from l(x) restricted to what fits; checking them in the order of their score
asks the planner as few questions as possible.

History is bounded: the best `BEST` trials and the `RECENT` last ones, however long the search is.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.engine._tpe import ParzenTPE, random_draws
from search.engine.optuna_trials import pruned_rank, to_optuna, violation
from spaces.space import Space

BEST = 25
"""Optuna's default_gamma never takes more than 25 trials as good."""
RECENT = 200
"""Other trials looked at: enough to say where the mass lies, few enough for milliseconds."""
CANDIDATES = 48
"""Draws a batch: twice Optuna's 24 expected improvement candidates, since about half may not fit."""
BATCHES = 6
RANDOM_DRAWS = 256
"""Uniform draws looked at before a proposal that does not fit is let through."""

Fits = Callable[[Mapping[str, Any]], bool]
"""Whether some execution plan fits the budget; called with active parameters only."""


@dataclass(frozen=True)
class Proposal:
    """What to try next."""

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    fits: bool
    """False only if none of all the draws fitted."""
    draws: int
    """Candidates that were asked about."""


class History:
    """The trials that TPE looks at; bounded, with constant time a trial."""

    def __init__(self, *, best: int = BEST, recent: int = RECENT):
        self._most_best, self._most_recent = best, recent
        self._best: list[tuple[tuple[float, ...], int, FrozenTrial]] = []
        self._recent: OrderedDict[int, FrozenTrial] = OrderedDict()
        self._running: dict[int, FrozenTrial] = {}
        self.finished = 0
        self.feasible = 0

    def running(self, trial: FrozenTrial) -> None:
        """A trial that runs now: its neighbourhood is not proposed again while it does."""
        self._running[trial.number] = trial

    def ended(self, trial: FrozenTrial) -> None:
        """A trial that ended, with its value, intermediate values and constraints."""
        self._running.pop(trial.number, None)
        self.finished += 1
        if violation(trial) == 0 and (trial.state == TrialState.COMPLETE or trial.intermediate_values):
            self.feasible += 1
            insort(self._best, (_rank(trial), self.finished, trial))
            trial = self._best.pop()[2] if len(self._best) > self._most_best else None  # type: ignore[assignment]
        if trial is not None:
            self._recent[self.finished] = trial
            if len(self._recent) > self._most_recent:
                self._recent.popitem(last=False)

    def trials(self) -> list[FrozenTrial]:
        """Running, best and recent trials, in the order in which they were started."""
        chosen = [*self._running.values(), *(entry[2] for entry in self._best), *self._recent.values()]
        return sorted(chosen, key=lambda trial: trial.number)

    @property
    def kept_feasible(self) -> int:
        return len(self._best)


def _rank(trial: FrozenTrial) -> tuple[float, ...]:
    """Best first: completed by value, then pruned by epoch and value, as Optuna ranks them."""
    if trial.state == TrialState.COMPLETE:
        assert trial.value is not None
        return (0.0, -trial.value, 0.0)
    return (1.0, *pruned_rank(trial))


class BudgetedTPESampler:
    """Proposes parameters of a space that fit.

    Parameters
    ----------
    study
        Only its direction is read.
    seed
        Every proposal has its own generator, made of the seed and the proposal's number: a resumed search proposes
        what the uninterrupted one would have proposed.
    startup_trials
        Random proposals before the densities are trusted.
    initial
        The first proposals, in this order; one that does not fit is passed over for a drawn one.
    """

    def __init__(
        self,
        space: Space,
        study: Study,
        *,
        seed: int,
        startup_trials: int = 10,
        initial: Sequence[Mapping[str, Any]] = (),
    ):
        self.space = space
        self.history = History()
        self._study = study
        self._seed = seed
        self._startup = startup_trials
        self._initial = [space.canonical(params) for params in initial]
        self._tpe = ParzenTPE()
        # By name, not as the file has them: a space means the same whatever the order of its lines.
        by_name = sorted(space.parameters, key=lambda parameter: parameter.name)
        self._distributions = {parameter.name: to_optuna(parameter.distribution) for parameter in by_name}
        # Parameters under the same condition are drawn together; each group in an order that decides its condition.
        groups: dict[str, list[str]] = {}
        for parameter in by_name:
            groups.setdefault(repr(parameter.when), []).append(parameter.name)
        self._groups = list(groups.values())
        self._parameters = {parameter.name: parameter for parameter in space.parameters}

    def distributions(self, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """Optuna's distributions of the parameters given."""
        return {name: self._distributions[name] for name in params}

    def propose(self, index: int, fits: Fits) -> Proposal:
        """The proposal number `index`; deterministic in seed, index, history and what fits."""
        rng = np.random.RandomState(np.random.SeedSequence([self._seed, index]).generate_state(4))
        if index < len(self._initial) and fits(self._initial[index]):
            params = self._initial[index]
            return Proposal(params, self.distributions(params), True, 1)
        # A first proposal that does not fit was asked about too.
        draws = int(index < len(self._initial))
        if self.history.finished >= self._startup and self.history.kept_feasible:
            for _ in range(BATCHES):
                for params in self._from_densities(rng):
                    draws += 1
                    if fits(params):
                        return Proposal(params, self.distributions(params), True, draws)
        params = self.random(rng)
        for _ in range(RANDOM_DRAWS):
            draws += 1
            if fits(params):
                return Proposal(params, self.distributions(params), True, draws)
            params = self.random(rng)
        return Proposal(params, self.distributions(params), False, draws)

    def random(self, rng: np.random.RandomState) -> dict[str, Any]:
        """Uniform parameters, conditions respected."""
        drawn = random_draws(self._distributions, rng, 1)[0]
        return self._active([{name: drawn[name] for name in group} for group in self._groups])

    def _from_densities(self, rng: np.random.RandomState) -> Iterator[dict[str, Any]]:
        """Candidates by falling score of the unconditional group; each takes its own draw of the conditional ones."""
        trials = self.history.trials()
        below, above = self._tpe.split(self._study, trials, self.history.kept_feasible)
        ranked = []
        for group in self._groups:
            search_space = {name: self._distributions[name] for name in sorted(group)}
            ranked.append(self._tpe.candidates(self._study, search_space, below, above, rng, CANDIDATES))
        for rank in range(CANDIDATES):
            yield self._active([group[rank] for group in ranked])

    def _active(self, groups: list[dict[str, Any]]) -> dict[str, Any]:
        """Of all groups' values those whose condition holds, in the space's order."""
        values = {name: value for group in groups for name, value in group.items()}
        params: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            if self.space.is_active(parameter, params):
                params[name] = values[name]
        return self.space.canonical(params)

    def probes(self, count: int = 64) -> Iterator[dict[str, Any]]:
        """Parameters that show whether anything fits: the smallest corner, then uniform draws."""
        yield self.smallest()
        rng = np.random.RandomState(self._seed)
        for _ in range(count):
            yield self.random(rng)

    def smallest(self) -> dict[str, Any]:
        """The corner of the space with the lowest values: if that does not fit, hardly anything does."""
        params: dict[str, Any] = {}
        for name, parameter in self._parameters.items():
            if self.space.is_active(parameter, params):
                distribution = parameter.distribution
                values = getattr(distribution, "values", None)
                numeric = values is not None and all(isinstance(value, int | float) for value in values)
                low = distribution.low if values is None else min(values) if numeric else values[0]  # type: ignore[union-attr]
                params[name] = int(low) if getattr(distribution, "integer", False) else low
        return params
