"""TPE that knows the memory budget: many draws at once from its own density, and the best of those that fit.

Tree-structured Parzen estimator (Bergstra et al. 2011; multivariate as in Falkner et al. 2018, BOHB). What fits is
known before training, so an infeasible region need not be learned from failures: candidates are drawn in bulk from
l(x), the density of the good trials, and walked through by falling l(x)/g(x) until one fits. Drawing from l(x) and
keeping what fits is the same as drawing from l(x) restricted to what fits; checking them in the order of their score
asks the planner as few questions as possible.

`BudgetedTPESampler` is a sampler for any Optuna study. A search does not hand its trials to `Study.optimize`; it asks
a `Proposer`, of which `SpaceProposer` puts the sampler over a `Space`. Whoever has another sampler for a search
implements `Proposer` and registers what makes it (`docs/extending.md`).

History is bounded: the best `BEST` trials and the `RECENT` last ones, however long the search is.
"""

import logging
import sys
import zlib
from bisect import insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.engine._tpe import Contrast, Group, Observations, random_draws, single_value, split
from search.engine.optuna_trials import rank, violation
from search.engine.space_draws import active_params, all_distributions
from search.registry import SAMPLERS
from spaces.space import Space

logger = logging.getLogger(__name__)

BEST = 25
"""TPE never takes more than 25 trials as good."""
RECENT = 200
"""Other trials looked at: enough to say where the mass lies, few enough for milliseconds."""
CANDIDATES = 48
"""Draws a batch: twice Optuna's 24 expected improvement candidates, since about half may not fit."""
BATCHES = 6
RANDOM_DRAWS = 256
"""Uniform draws looked at before a proposal that does not fit is let through."""
STARTUP_TRIALS = 10
"""Random proposals before the densities are trusted, as in Optuna."""

Fits = Callable[[Mapping[str, Any]], bool]
"""Whether some execution plan fits the budget; called with active parameters only."""
Join = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
"""One proposal of one draw a group."""


@dataclass(frozen=True)
class Drawn:
    """Parameters that were drawn."""

    params: dict[str, Any]
    fits: bool
    """False only if none of all the draws fitted."""
    draws: int
    """Candidates that were asked about."""


@dataclass(frozen=True)
class Proposal:
    """What to try next."""

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]
    fits: bool
    """False only if none of all the draws fitted."""
    draws: int
    """Candidates that were asked about."""


class Proposer(Protocol):
    """What a search asks for its next trial."""

    def suggest(self, index: int, fits: Fits) -> Proposal:
        """The proposal number `index`; `fits` says of parameters whether they could be trained."""
        ...

    def update(self, trial: FrozenTrial) -> None:
        """A trial now runs (its parameters alone are known) or has ended (with values and constraints)."""
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
    name: str, space: Space, *, seed: int, startup_trials: int, initial: Sequence[Mapping[str, Any]] = ()
) -> Proposer:
    """The sampler of that name for one search. Raises ConfigError if there is none."""
    factory: SamplerFactory = SAMPLERS.get(name)
    return factory(space, seed=seed, startup_trials=startup_trials, initial=initial)


class History:
    """The trials that TPE looks at; bounded, with constant time a trial."""

    def __init__(self, *, best: int = BEST, recent: int = RECENT, maximize: bool = True):
        self._most_best, self._most_recent = best, recent
        self.maximize = maximize
        self._best: list[tuple[tuple[float, ...], int, FrozenTrial]] = []
        self._recent: OrderedDict[int, FrozenTrial] = OrderedDict()
        self._running: dict[int, FrozenTrial] = {}
        self.finished = 0

    def running(self, trial: FrozenTrial) -> None:
        """A trial that runs now: its neighbourhood is not proposed again while it does."""
        self._running[trial.number] = trial

    def ended(self, trial: FrozenTrial) -> None:
        """A trial that was completed or pruned, with its value, intermediate values and constraints."""
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
        """Running, best and recent trials, in the order in which they were started."""
        chosen = [*self._running.values(), *(entry[2] for entry in self._best), *self._recent.values()]
        return sorted(chosen, key=lambda trial: trial.number)

    @property
    def kept_feasible(self) -> int:
        """Trials among the best ones: those that densities can be made of."""
        return len(self._best)


class BudgetedTPESampler(BaseSampler):
    """Optuna sampler that draws from TPE's density and proposes the best candidate that fits.

    For studies with one objective. The space may be static or made by the objective as it runs, with conditions: it is
    what the trials so far have asked for. Parameters that the same trials asked for are drawn together.

    Parameters
    ----------
    fits
        Whether parameters can be tried at all. It is called with a value for each parameter of the space as it is known
        so far: also for those that the objective will not ask for because a condition does not hold, and without those
        that no trial has asked for yet, or that `PartialFixedSampler` has fixed. Nothing is known at the first trial,
        which is drawn without a question, unless `search_space` is given. Where no draw fits, one that does not is
        proposed and a warning is logged.
    seed
        Of all draws; None takes one from the system. Each trial has its own generator, made of the seed and its number:
        it proposes the same whatever was asked before, and processes that share a study may share the seed.
    n_startup_trials
        Trials that end before the densities are trusted; until then draws are uniform, and fit as well.
    search_space
        Parameters that are known before the first trial, by name.

    Raises
    ------
    ValueError
        When it samples for a study with several objectives.

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
        """Of trials that run in this process: what was drawn together, also where it was not asked for yet."""

    # ---- as Optuna calls it --------------------------------------------------------------------------------------

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter that an earlier trial asked for, as the youngest of them did."""
        _single_objective(study)
        space = dict(self._search_space)
        for each in self._ended(study):
            space.update(each.distributions)
        return dict(sorted(space.items()))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value of each parameter of the space, all together such that they fit."""
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
            logger.warning("trial %d does not fit: none of %d draws does", trial.number, drawn.draws)
        self._promised[trial.number] = drawn.params
        return drawn.params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value of a parameter that was not drawn together with the others, such that it fits to those."""
        maximize = _single_objective(study)
        if param_distribution.single():
            return single_value(param_distribution)
        # What is known of the first trial are the parameters before this one, too few to ask whether they fit.
        promised = self._promised.get(trial.number)
        known = {**(promised or {}), **trial.params}
        drawn = self.draw(
            [{param_name: param_distribution}],
            self._history(study, trial, maximize),
            self.generator(trial.number, zlib.crc32(param_name.encode())),
            _anything if promised is None else lambda params: self._fits({**known, **params}),
        )
        if not drawn.fits:
            logger.warning("trial %d does not fit: none of %d values of %s does", trial.number, drawn.draws, param_name)
        if promised is not None:
            promised.update(drawn.params)
        return drawn.params[param_name]

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Forgets what was drawn for the trial: the study has it now."""
        self._promised.pop(trial.number, None)

    # ---- the sampler itself --------------------------------------------------------------------------------------

    def draw(
        self,
        groups: Sequence[Group],
        history: History,
        rng: np.random.RandomState,
        fits: Fits,
        *,
        join: Join | None = None,
        observations: Observations | None = None,
    ) -> Drawn:
        """The best candidate that fits; a uniform one while the history is short or no candidate fits.

        Parameters
        ----------
        groups
            Parameters that are drawn together; candidates are walked through by the rank in each group.
        join
            Makes one proposal of one draw a group; without it the proposal holds all of them.
        observations
            To be kept between calls where distributions do not change.
        """
        join = join or _merged
        draws = 0
        if history.finished >= self._startup and history.kept_feasible:
            below, above = split(history.trials(), history.kept_feasible, maximize=history.maximize)
            numbers = observations or Observations(remember=False)
            contrasts = [Contrast(group, numbers, below, above) for group in groups]
            for _ in range(BATCHES):
                candidates = [contrast.candidates(rng, CANDIDATES) for contrast in contrasts]
                for place in range(CANDIDATES):
                    params = join([group[place] for group in candidates])
                    draws += 1
                    if fits(params):
                        return Drawn(params, True, draws)
        params = self.uniform(groups, rng, join)
        for _ in range(RANDOM_DRAWS):
            draws += 1
            if fits(params):
                return Drawn(params, True, draws)
            params = self.uniform(groups, rng, join)
        return Drawn(params, False, draws)

    @staticmethod
    def uniform(groups: Sequence[Group], rng: np.random.RandomState, join: Join) -> dict[str, Any]:
        """A uniform draw of all groups."""
        # By name, whichever groups they are in.
        drawn = random_draws(dict(sorted(_merged(groups).items())), rng, 1)[0]
        return join([{name: drawn[name] for name in group} for group in groups])

    def generator(self, number: int, *more: int) -> np.random.RandomState:
        """The generator of one trial, or of one parameter of it."""
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
        """A running trial with the parameters that it will ask for, where this process drew them."""
        promised = self._promised.get(trial.number)
        if promised is None:
            return trial
        whole = copy(trial)
        whole.params = {**promised, **trial.params}
        return whole


class SpaceProposer:
    """`Proposer` of a search: the budgeted sampler over a `Space`, whose conditions are known before any trial.

    Parameters
    ----------
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
        self._distributions = all_distributions(space)
        # Parameters under the same condition are drawn together; each group in an order that decides its condition.
        groups: dict[str, dict[str, BaseDistribution]] = {}
        conditions = {parameter.name: repr(parameter.when) for parameter in space.parameters}
        for name, distribution in self._distributions.items():
            groups.setdefault(conditions[name], {})[name] = distribution
        self._groups = list(groups.values())

    def suggest(self, index: int, fits: Fits) -> Proposal:
        """The proposal number `index`; deterministic in seed, index, history and what fits."""
        if index < len(self._initial) and fits(self._initial[index]):
            params = self._initial[index]
            return self._proposal(Drawn(params, True, 1))
        drawn = self._sampler.draw(
            self._groups,
            self.history,
            self._sampler.generator(index),
            fits,
            join=lambda groups: active_params(self.space, _merged(groups)),
            observations=self._observations,
        )
        # A first proposal that does not fit was asked about too.
        return self._proposal(replace(drawn, draws=drawn.draws + (index < len(self._initial))))

    def update(self, trial: FrozenTrial) -> None:
        """A trial of this space now runs, or was completed or pruned."""
        (self.history.ended if trial.state.is_finished() else self.history.running)(trial)

    def _proposal(self, drawn: Drawn) -> Proposal:
        distributions = {name: self._distributions[name] for name in drawn.params}
        return Proposal(drawn.params, distributions, drawn.fits, drawn.draws)


def uniform_proposer(
    space: Space, *, seed: int, startup_trials: int = 0, initial: Sequence[Mapping[str, Any]] = ()
) -> Proposer:
    """`Proposer` that learns nothing: uniform among what fits, as TPE's startup trials are, for the whole search."""
    return SpaceProposer(space, seed=seed, startup_trials=sys.maxsize, initial=initial)


def groups_of(trials: Iterable[FrozenTrial], space: Group) -> list[Group]:
    """Parameters of a space, those together that the same trials asked for."""
    parts = [frozenset(space)]
    for asked in {frozenset(trial.distributions) for trial in trials}:
        parts = [piece for part in parts for piece in (part & asked, part - asked) if piece]
    return [{name: space[name] for name in part} for part in sorted(sorted(part) for part in parts)]


def _single_objective(study: Study) -> bool:
    """Whether the study's only objective is maximized."""
    if len(study.directions) > 1:
        raise ValueError(
            f"BudgetedTPESampler: the study has {len(study.directions)} objectives and it can sample for one only; "
            "use optuna.samplers.TPESampler or NSGAIISampler"
        )
    return study.direction == StudyDirection.MAXIMIZE


def _merged(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for group in groups for name, value in group.items()}


def _anything(_params: Mapping[str, Any]) -> bool:
    return True
