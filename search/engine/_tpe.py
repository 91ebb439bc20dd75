"""Optuna's TPE opened where it draws: many candidates with their scores instead of one.

Private parts of optuna 5.0.0 that are used, and why:

* ``_ParzenEstimator`` and `default_gamma` through `TPESampler`'s own methods: one estimator of good trials, one of the
  others, many draws at once. The public `sample_relative` gives a single draw, already chosen.
* ``_truncnorm._log_ndtr``, the logarithm of the normal distribution function, which Optuna computes number by number in
  Python (two thirds of a suggestion) and SciPy for a whole array.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import _truncnorm
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr

_truncnorm._log_ndtr = log_ndtr
REMEMBERED_ROWS = 4096
"""Trials, by group of parameters, whose numbers are kept; the sampler looks at some 225 of each at a time."""


class Candidates:
    """Draws of one group of parameters, the most promising first; values are made only of those that are asked for."""

    def __init__(self, search_space: Mapping[str, BaseDistribution], samples: dict[str, np.ndarray], order: np.ndarray):
        self._search_space, self._samples, self._order = search_space, samples, order

    def __getitem__(self, rank: int) -> dict[str, Any]:
        row = self._order[rank]
        return {
            name: dist.to_external_repr(self._samples[name][row].item()) for name, dist in self._search_space.items()
        }


class ParzenTPE(TPESampler):
    """Optuna's multivariate TPE, opened where it draws: gives many candidates with their scores instead of one."""

    def __init__(self) -> None:
        super().__init__(multivariate=True, constant_liar=True)
        self._rows: OrderedDict[tuple[int, tuple[str, ...]], list[float] | None] = OrderedDict()
        """Of finished trials, which do not change any more: their parameters of a group in Optuna's numbers."""

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, np.ndarray]:
        found = [self._row(trial, search_space, study) for trial in trials]
        rows = np.array([row for row in found if row is not None], dtype=float).reshape(-1, len(search_space))
        return {name: rows[:, column] for column, name in enumerate(search_space)}

    def _row(self, trial: FrozenTrial, search_space: dict[str, BaseDistribution], study: Study) -> list[float] | None:
        """The trial's parameters as numbers, None if it lacks one of them."""
        key = trial.number, tuple(search_space)
        if key in self._rows:
            return self._rows[key]
        params = self._get_params(trial, study)
        lacks = search_space.keys() - params.keys()
        row = None if lacks else [dist.to_internal_repr(params[name]) for name, dist in search_space.items()]
        if trial.state.is_finished():
            self._rows[key] = row
            if len(self._rows) > REMEMBERED_ROWS:
                self._rows.popitem(last=False)
        return row

    @staticmethod
    def split(study: Study, trials: list[FrozenTrial], feasible: int) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Good trials and the others, as Optuna ranks them; a trial that violates a constraint is never good."""
        finished = sum(trial.state != TrialState.RUNNING for trial in trials)
        return _split_trials(study, trials, min(default_gamma(finished), feasible))

    def candidates(
        self,
        study: Study,
        search_space: dict[str, BaseDistribution],
        below: list[FrozenTrial],
        above: list[FrozenTrial],
        rng: np.random.RandomState,
        count: int,
    ) -> Candidates:
        """`count` draws from l(x), the density of the good trials, with the highest l(x)/g(x) first."""
        good = self._build_parzen_estimator(study, search_space, below, handle_below=True)
        others = self._build_parzen_estimator(study, search_space, above, handle_below=False)
        samples = good.sample(rng, count)
        order = np.argsort(-self._compute_acquisition_func(samples, good, others), kind="stable")
        return Candidates(search_space, samples, order)


def random_draws(
    search_space: Mapping[str, BaseDistribution], rng: np.random.RandomState, count: int
) -> list[dict[str, Any]]:
    """Uniform draws (logarithmic where the distribution is): the Parzen estimator of no observation is not uniform."""
    draws: list[dict[str, Any]] = []
    for _ in range(count):
        draws.append({name: _draw(dist, rng) for name, dist in search_space.items()})
    return draws


def _draw(dist: BaseDistribution, rng: np.random.RandomState) -> Any:
    if isinstance(dist, optuna.distributions.CategoricalDistribution):
        return dist.choices[rng.randint(len(dist.choices))]
    if isinstance(dist, optuna.distributions.IntDistribution):
        if dist.log:
            value = np.exp(rng.uniform(np.log(dist.low - 0.5), np.log(dist.high + 0.5)))
            return int(min(max(round(value), dist.low), dist.high))
        return int(dist.low + dist.step * rng.randint((dist.high - dist.low) // dist.step + 1))
    assert isinstance(dist, optuna.distributions.FloatDistribution)
    if dist.step is not None:
        return float(dist.low + dist.step * rng.randint(round((dist.high - dist.low) / dist.step) + 1))
    if dist.log:
        return float(np.clip(np.exp(rng.uniform(np.log(dist.low), np.log(dist.high))), dist.low, dist.high))
    return float(rng.uniform(dist.low, dist.high))
