"""TPE under a memory budget: draws many candidates at once and proposes the best one that fits.

Tree-structured Parzen estimator (Bergstra et al. 2011; multivariate as in Falkner et al. 2018, BOHB). Whether a
configuration fits is known before training, so the infeasible region need not be learned from failures: candidates are
drawn in bulk from l(x), the density of the good trials, and tried by descending l(x)/g(x) until one fits. Drawing from
l(x) and keeping what fits equals drawing from l(x) restricted to what fits; trying candidates by descending score
needs the fewest calls of the planner.

`BudgetedTPESampler` is a sampler for any Optuna study. A search does not hand its trials to `Study.optimize`; it asks
a `Proposer`, of which `SpaceProposer` puts the sampler over a `Space`. Whoever has another sampler for a search
implements `Proposer` and registers what makes it (`docs/extending.md`).

The history is bounded: the best `BEST` trials and the last `RECENT` ones, however long the search is.
"""

import logging
import math
import sys
import zlib
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.engine._tpe import (
    Candidates,
    Contrast,
    Group,
    Observations,
    log_improvement,
    random_draws,
    single_value,
    split,
)
from search.engine.optuna_trials import rank, violation
from search.engine.space_draws import active_params, all_distributions
from search.registry import SAMPLERS
from spaces.space import Space
from trainable.errors import ConfigError

logger = logging.getLogger(__name__)

BEST = 25
"""TPE never counts more than 25 trials as good."""
RECENT = 200
"""Other trials in the history: enough to estimate g(x), few enough to take milliseconds."""
CANDIDATES = 48
"""Draws per batch: twice Optuna's 24 expected-improvement candidates, since about half may not fit."""
BATCHES = 6
RANDOM_DRAWS = 256
"""Uniform draws tried before a proposal that does not fit is returned."""
STARTUP_TRIALS = 10
"""Random proposals before the densities are used, as in Optuna."""

Fits = Callable[[Mapping[str, Any]], bool]
"""Whether some execution plan fits the budget; called with active parameters only."""
Seconds = Callable[[Mapping[str, Any]], float]
"""Estimated time of a proposal, up to a common factor; called with active parameters only."""
Join = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
"""Combines one draw per group into a proposal."""


@dataclass(frozen=True)
class Proposal:
    """What to try next."""

    params: dict[str, Any]
    fits: bool
    """False only if no draw fitted."""
    draws: int
    """Candidates that were checked."""


class Proposer(Protocol):
    """Proposes the parameters of a search's trials."""

    def suggest(self, index: int, fits: Fits) -> Proposal:
        """Proposal number `index`; `fits` returns whether parameters can be trained."""
        ...

    def update(self, trial: FrozenTrial) -> None:
        """Adds a trial that has started (only its parameters are known) or ended (with values and constraints)."""
        ...


class SamplerFactory(Protocol):
    """Makes the `Proposer` of one search."""

    def __call__(
        self, space: Space, *, seed: int, startup_trials: int, initial: Sequence[Mapping[str, Any]]
    ) -> Proposer:
        """The proposer of a space.

        Parameters
        ----------
        startup_trials
            Random proposals before it trusts what it learned.
        initial
            What to propose first, in this order, where it fits.
        """
        ...


def register_sampler(name: str, factory: SamplerFactory) -> None:
    """Makes a sampler known to ``--sampler``. Raises ConfigError if the name is taken."""
    SAMPLERS.register(name, factory)


def make_sampler(
    name: str,
    space: Space,
    *,
    seed: int,
    startup_trials: int,
    initial: Sequence[Mapping[str, Any]] = (),
    seconds: Seconds | None = None,
) -> Proposer:
    """The sampler of that name for one search.

    Parameters
    ----------
    seconds
        Has the sampler prefer what takes less time.

    Raises
    ------
    ConfigError
        If there is no sampler of that name, or it cannot prefer anything for its time.
    """
    factory: SamplerFactory = SAMPLERS.get(name)
    proposer = factory(space, seed=seed, startup_trials=startup_trials, initial=initial)
    if seconds is not None:
        if not isinstance(proposer, SpaceProposer):
            raise ConfigError(f"--prefer-fast is for --sampler tpe, and this is {name!r}; remove one of the two")
        proposer.seconds = seconds
    return proposer


class History:
    """The trials that TPE uses; bounded, with constant time per trial."""

    def __init__(self, *, best: int = BEST, recent: int = RECENT, maximize: bool = True):
        self._most_best, self._most_recent = best, recent
        self.maximize = maximize
        self._best: list[tuple[tuple[float, ...], int, FrozenTrial]] = []
        self._recent: OrderedDict[int, FrozenTrial] = OrderedDict()
        self._running: dict[int, FrozenTrial] = {}
        self.finished = 0

    def running(self, trial: FrozenTrial) -> None:
        """Adds a running trial: proposals avoid its neighbourhood."""
        self._running[trial.number] = trial

    def ended(self, trial: FrozenTrial) -> None:
        """Adds a completed or pruned trial, with its value, intermediate values and constraints."""
        self._running.pop(trial.number, None)
        self.finished += 1
        displaced: FrozenTrial | None = trial
        if violation(trial) == 0 and (trial.state == TrialState.COMPLETE or trial.intermediate_values):
            insort(self._best, (rank(trial, maximize=self.maximize), self.finished, trial))
            displaced = self._best.pop()[2] if len(self._best) > self._most_best else None
        if displaced is not None:
            self._recent[self.finished] = displaced
            if len(self._recent) > self._most_recent:
                self._recent.popitem(last=False)

    def trials(self) -> list[FrozenTrial]:
        """Running, best and recent trials, sorted by number."""
        chosen = [*self._running.values(), *(entry[2] for entry in self._best), *self._recent.values()]
        return sorted(chosen, key=lambda trial: trial.number)

    @property
    def kept_feasible(self) -> int:
        """Number of best trials kept, all feasible: l(x) is estimated from these."""
        return len(self._best)


class BudgetedTPESampler(BaseSampler):
    """Optuna sampler that draws from TPE's density and proposes the best candidate that fits.

    For studies with one objective. The space may be static, or conditional and defined by the objective as it runs: it
    consists of the parameters that trials have suggested so far. Parameters suggested by the same trials are drawn
    together.

    Parameters
    ----------
    fits
        Whether parameters can be tried at all. It gets a value for each parameter known so far, including those that
        the objective will not suggest because a condition does not hold, but excluding those that no trial has
        suggested yet or that `PartialFixedSampler` has fixed. Before the first trial no parameter is known, so that
        trial is drawn without calling `fits`, unless `search_space` is given. If no draw fits, one that does not is
        proposed and a warning is logged.
    seed
        Seed of all draws; None takes one from the system. Each trial has its own generator, derived from the seed and
        the trial's number, so its draws do not depend on earlier ones, and processes that share a study may share the
        seed.
    n_startup_trials
        Finished trials before the densities are used; until then draws are uniform, but they fit too.
    search_space
        Parameters known before the first trial, by name.

    Raises
    ------
    ValueError
        When the study has several objectives.

    Examples
    --------
    >>> import optuna
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> def fits(params):  # weights of the network, at most 4,000
    ...     return params["width"] * params.get("extra_width", 1) <= 4_000
    >>> def objective(trial):
    ...     width = trial.suggest_int("width", 8, 4_096, log=True)
    ...     if trial.suggest_categorical("deep", [False, True]):
    ...         return abs(width - 100) + trial.suggest_int("extra_width", 1, 64)
    ...     return abs(width - 100)
    >>> space = {"width": optuna.distributions.IntDistribution(8, 4_096, log=True)}
    >>> study = optuna.create_study(sampler=BudgetedTPESampler(fits, seed=1, search_space=space))
    >>> study.optimize(objective, n_trials=30)
    >>> sum(not fits(trial.params) for trial in study.trials)
    0
    >>> study.best_value < 20
    True
    """

    def __init__(
        self,
        fits: Fits,
        *,
        seed: int | None = None,
        n_startup_trials: int = STARTUP_TRIALS,
        search_space: Mapping[str, BaseDistribution] | None = None,
    ):
        self._fits = fits
        entropy = np.random.SeedSequence(seed).entropy
        assert isinstance(entropy, int)
        self._seed = entropy
        self._startup = n_startup_trials
        self._search_space = dict(search_space or {})
        self._promised: dict[int, dict[str, Any]] = {}
        """All parameters drawn for each trial that runs in this process, including those not suggested yet."""

    # ---- Optuna's sampler interface ------------------------------------------------------------------------------

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter that an earlier trial suggested, with its latest distribution."""
        _single_objective(study)
        space = dict(self._search_space)
        for each in self._ended(study):
            space.update(each.distributions)
        return dict(sorted(space.items()))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values for all parameters of the space that together fit."""
        maximize = _single_objective(study)
        if not search_space:
            return {}
        single = {name: single_value(dist) for name, dist in search_space.items() if dist.single()}
        drawn_from = {name: dist for name, dist in search_space.items() if name not in single}
        drawn = self.draw(
            groups_of(self._ended(study), drawn_from),
            self._history(study, trial, maximize),
            self.generator(trial.number),
            self._fits,
            join=lambda values: _merged([single, *values]),
        )
        if not drawn.fits:
            logger.warning("trial %d does not fit: none of %d draws fits", trial.number, drawn.draws)
        self._promised[trial.number] = drawn.params
        return drawn.params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value for a parameter that was not drawn with the others, such that all together fit."""
        maximize = _single_objective(study)
        if param_distribution.single():
            return single_value(param_distribution)
        # In the first trial only the parameters before this one are known: too few to check whether they fit.
        promised = self._promised.get(trial.number)
        known = {**(promised or {}), **trial.params}
        drawn = self.draw(
            [{param_name: param_distribution}],
            self._history(study, trial, maximize),
            self.generator(trial.number, zlib.crc32(param_name.encode())),
            _anything if promised is None else lambda params: self._fits({**known, **params}),
        )
        if not drawn.fits:
            logger.warning("trial %d does not fit: none of %d values of %s fits", trial.number, drawn.draws, param_name)
        if promised is not None:
            promised.update(drawn.params)
        return drawn.params[param_name]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Drops the parameters drawn for the trial: the study has them now."""
        self._promised.pop(trial.number, None)

    # ---- drawing -------------------------------------------------------------------------------------------------

    def draw(
        self,
        groups: Sequence[Group],
        history: History,
        rng: np.random.RandomState,
        fits: Fits,
        *,
        join: Join | None = None,
        observations: Observations | None = None,
        seconds: Seconds | None = None,
    ) -> Proposal:
        """Draws the best candidate that fits, or a uniform one if the history is short or no candidate fits.

        Parameters
        ----------
        groups
            Parameters that are drawn together; candidates are tried by their rank in each group.
        join
            Combines one draw per group into a proposal; by default the proposal contains all of them.
        observations
            Cache to keep between calls if distributions do not change.
        seconds
            Has candidates tried by descending expected improvement per second (Snoek et al. 2012, section 3.2).
        """
        join = join or _merged
        draws = 0
        if history.finished >= self._startup and history.kept_feasible:
            below, above = split(history.trials(), history.kept_feasible, maximize=history.maximize)
            numbers = observations or Observations(remember=False)
            contrasts = [Contrast(group, numbers, below, above) for group in groups]
            good_share = len(below) / (len(below) + len(above))
            for _ in range(BATCHES):
                candidates = [contrast.candidates(rng, CANDIDATES) for contrast in contrasts]
                drawn: Iterable[dict[str, Any]] = (
                    join([group[place] for group in candidates]) for place in range(CANDIDATES)
                )
                if seconds is not None:
                    drawn = _per_second(drawn, groups, candidates, good_share, seconds)
                for params in drawn:
                    draws += 1
                    if fits(params):
                        return Proposal(params, True, draws)
        params = self.uniform(groups, rng, join)
        for _ in range(RANDOM_DRAWS):
            draws += 1
            if fits(params):
                return Proposal(params, True, draws)
            params = self.uniform(groups, rng, join)
        return Proposal(params, False, draws)

    @staticmethod
    def uniform(groups: Sequence[Group], rng: np.random.RandomState, join: Join) -> dict[str, Any]:
        """A uniform draw of all groups."""
        # Sorted by name, so that the draw does not depend on the grouping.
        drawn = random_draws(dict(sorted(_merged(groups).items())), rng, 1)[0]
        return join([{name: drawn[name] for name in group} for group in groups])

    def generator(self, number: int, *more: int) -> np.random.RandomState:
        """The random generator of a trial, or of one of its parameters."""
        return np.random.RandomState(np.random.SeedSequence([self._seed, number, *more]).generate_state(4))

    @staticmethod
    def _ended(study: Study) -> list[FrozenTrial]:
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def _history(self, study: Study, trial: FrozenTrial, maximize: bool) -> History:
        history = History(maximize=maximize)
        for each in self._ended(study):
            history.ended(each)
        for each in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if each.number != trial.number:
                history.running(self._as_promised(each))
        return history

    def _as_promised(self, trial: FrozenTrial) -> FrozenTrial:
        """A running trial with the parameters that it will suggest, if this process drew them."""
        promised = self._promised.get(trial.number)
        if promised is None:
            return trial
        whole = copy(trial)
        whole.params = {**promised, **trial.params}
        return whole


class SpaceProposer:
    """`Proposer` that applies the budgeted sampler to a `Space`, whose conditions are known before any trial.

    Parameters
    ----------
    seed
        Each proposal has its own generator, derived from the seed and the proposal's number, so a resumed search
        proposes the same as an uninterrupted one.
    startup_trials
        Random proposals before the densities are used.
    initial
        The first proposals, in this order, without those that the study has tried; for each that does not fit there
        is a draw after the others.
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int,
        startup_trials: int = STARTUP_TRIALS,
        initial: Sequence[Mapping[str, Any]] = (),
    ):
        self.space = space
        self.history = History()
        self._seed = seed
        self._sampler = BudgetedTPESampler(_anything, seed=seed, n_startup_trials=startup_trials)
        self._observations = Observations(remember=True)
        self._initial = [space.canonical(params) for params in initial]
        """Of these, the ones that the study has not tried yet: drivers of one study share them."""
        self._first = len(self._initial)
        self.seconds: Seconds | None = None
        """Has proposals preferred that take less time."""
        self._distributions = all_distributions(space)
        # Parameters under the same condition are drawn together; each group in an order that decides its condition.
        groups: dict[str, dict[str, BaseDistribution]] = {}
        conditions = {parameter.name: repr(parameter.when) for parameter in space.parameters}
        for name, distribution in self._distributions.items():
            groups.setdefault(conditions[name], {})[name] = distribution
        self._groups = list(groups.values())

    def suggest(self, index: int, fits: Fits) -> Proposal:
        """Proposal number `index`; deterministic given the seed, the index, the history and `fits`."""
        first = self._initial if index < self._first else []
        for asked, params in enumerate(first, start=1):
            if fits(params):
                return Proposal(params, True, asked)
        drawn = self._sampler.draw(
            self._groups,
            self.history,
            self._sampler.generator(index),
            fits,
            join=lambda groups: active_params(self.space, _merged(groups)),
            observations=self._observations,
            seconds=self.seconds,
        )
        return replace(drawn, draws=drawn.draws + len(first))

    def update(self, trial: FrozenTrial) -> None:
        """Adds a trial of this space that has started, or was completed or pruned."""
        if trial.params in self._initial:
            self._initial.remove(trial.params)
        (self.history.ended if trial.state.is_finished() else self.history.running)(trial)


def uniform_proposer(
    space: Space, *, seed: int, startup_trials: int = 0, initial: Sequence[Mapping[str, Any]] = ()
) -> Proposer:
    """`Proposer` that learns nothing: uniform among what fits, as TPE's startup trials are, for the whole search."""
    return SpaceProposer(space, seed=seed, startup_trials=sys.maxsize, initial=initial)


def groups_of(trials: Iterable[FrozenTrial], space: Group) -> list[Group]:
    """Groups the parameters of a space so that those suggested by the same trials are together."""
    parts = [frozenset(space)]
    for asked in {frozenset(trial.distributions) for trial in trials}:
        parts = [piece for part in parts for piece in (part & asked, part - asked) if piece]
    return [{name: space[name] for name in part} for part in sorted(sorted(part) for part in parts)]


def _per_second(
    drawn: Iterable[dict[str, Any]],
    groups: Sequence[Group],
    candidates: Sequence[Candidates],
    good_share: float,
    seconds: Seconds,
) -> list[dict[str, Any]]:
    """The candidates of all groups, joined as `drawn`, by descending expected improvement per second."""

    def gain(place: int, params: dict[str, Any]) -> float:
        # A group whose condition does not hold has values too, which the joined proposal leaves out.
        active = [each for group, each in zip(groups, candidates, strict=True) if not params.keys().isdisjoint(group)]
        log_ratio = sum(each.log_ratio(place) for each in active)
        return log_improvement(log_ratio, good_share) - math.log(seconds(params))

    gains = [(gain(place, params), params) for place, params in enumerate(drawn)]
    return [params for _, params in sorted(gains, key=itemgetter(0), reverse=True)]


def _single_objective(study: Study) -> bool:
    """Whether the study's only objective is maximized."""
    if len(study.directions) > 1:
        raise ValueError(
            f"BudgetedTPESampler supports one objective, and the study has {len(study.directions)}; "
            "use optuna.samplers.TPESampler or NSGAIISampler"
        )
    return study.direction == StudyDirection.MAXIMIZE


def _merged(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for group in groups for name, value in group.items()}


def _anything(_params: Mapping[str, Any]) -> bool:
    return True
