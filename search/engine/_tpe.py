"""The densities of TPE: many candidates with their scores at once, which Optuna's own sampler does not give.

Optuna's `TPESampler` draws 24 candidates and gives back one of them, already chosen; asking for another costs a new
trial. Here the candidates stay, the most promising first, so that those that do not fit the budget can be passed over.
The method is that of Optuna 5.0.0 (`multivariate=True, constant_liar=True`), and so are the numbers: a test compares
both. No private name of Optuna is used.

Tree-structured Parzen estimator: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011; product
kernels over all parameters of a group: Falkner et al., "BOHB", ICML 2018; bandwidths and weights: Watanabe,
"Tree-Structured Parzen Estimator", arXiv 2304.11127.

Arrays: N observations, M = N + 1 kernels (the last one is the prior), B draws.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from scipy.special import log_ndtr, logsumexp, ndtr, ndtri_exp

from search.engine.optuna_trials import rank, violation

REMEMBERED_ROWS = 4096
"""Trials, by group of parameters, whose numbers are kept; the sampler looks at some 225 of each at a time."""
MOST_GOOD = 25
"""Trials that l(x) is made of, at most; a tenth of the finished ones below that."""
RECENT_WEIGHT = 25
"""So many of the youngest observations have full weight; before them it falls linearly to 1 / N."""
NARROWEST = 100.0
"""A kernel is no narrower than this part of its range, and wider while there are fewer kernels."""
_LOG_SQRT_2_PI = 0.5 * math.log(2 * math.pi)
Group = Mapping[str, BaseDistribution]
"""Parameters that are drawn together; a continuous one has more than a single value."""


def good_count(finished: int) -> int:
    """How many of so many finished trials are good."""
    return min(math.ceil(0.1 * finished), MOST_GOOD)


def split(
    trials: Sequence[FrozenTrial], feasible: int, *, maximize: bool
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """Good trials and the others, running ones among these, each by number.

    Parameters
    ----------
    trials
        Completed, pruned and running ones. A trial that violates a constraint is never good.
    feasible
        Finished trials that may be good.
    """
    finished = [trial for trial in trials if trial.state != TrialState.RUNNING]
    ranked = sorted((each for each in finished if violation(each) == 0), key=lambda each: rank(each, maximize=maximize))
    good = {trial.number for trial in ranked[: min(good_count(len(finished)), feasible)]}
    below = [trial for trial in trials if trial.number in good]
    above = [trial for trial in trials if trial.number not in good]
    return _by_number(below), _by_number(above)


def _by_number(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    return sorted(trials, key=lambda trial: trial.number)


class Observations:
    """Trials' parameters of a group as numbers.

    Parameters
    ----------
    remember
        Keep the numbers of finished trials, which do not change any more. Right only where all trials are of one study
        and a parameter's distribution never changes.
    """

    def __init__(self, *, remember: bool):
        self._remember = remember
        self._rows: OrderedDict[tuple[int, tuple[str, ...]], list[float] | None] = OrderedDict()

    def of(self, trials: Sequence[FrozenTrial], group: Group) -> np.ndarray:
        """Array[N, parameters of the group]; trials that lack one of them or hold it outside its range are left out."""
        found = [self._row(trial, group) for trial in trials]
        return np.array([row for row in found if row is not None], dtype=float).reshape(-1, len(group))

    def _row(self, trial: FrozenTrial, group: Group) -> list[float] | None:
        key = trial.number, tuple(group)
        if self._remember and key in self._rows:
            return self._rows[key]
        row = _numbers(trial.params, group)
        if self._remember and trial.state.is_finished():
            self._rows[key] = row
            if len(self._rows) > REMEMBERED_ROWS:
                self._rows.popitem(last=False)
        return row


def _numbers(params: Mapping[str, Any], group: Group) -> list[float] | None:
    row = []
    for name, dist in group.items():
        if name not in params or not holds(dist, params[name]):
            return None
        row.append(dist.to_internal_repr(params[name]))
    return row


def holds(dist: BaseDistribution, value: Any) -> bool:
    """Whether a value is one of the choices, or a number between the bounds."""
    if isinstance(dist, CategoricalDistribution):
        return value in dist.choices
    assert isinstance(dist, FloatDistribution | IntDistribution)
    return isinstance(value, int | float) and dist.low <= value <= dist.high


@dataclass(frozen=True)
class _Choice:
    """Kernels of a categorical parameter."""

    weights: np.ndarray
    """Array[M, choices], each row a distribution."""

    def log_density(self, values_B: np.ndarray) -> np.ndarray:
        return np.log(self.weights[:, values_B.astype(int)].T)


@dataclass(frozen=True)
class _Numeric:
    """Truncated normal kernels of a number, in the logarithm where the distribution has it."""

    dist: FloatDistribution | IntDistribution
    low: float
    high: float
    """The range that the kernels are cut to: half a step wider than the distribution's on both sides."""
    mu_M: np.ndarray
    sigma_M: np.ndarray

    def log_density(self, values_B: np.ndarray) -> np.ndarray:
        """Of a continuous parameter the density, of a stepped one the probability, but for what is the same in all."""
        mu, sigma = self.mu_M, self.sigma_M
        whole_M = _log_mass((self.low - mu) / sigma, (self.high - mu) / sigma)
        step = self.dist.step
        if step is None:
            x_B = np.log(values_B) if self.dist.log else values_B
            z_BM = (x_B[:, None] - mu) / sigma
            return -(z_BM**2) / 2.0 - _LOG_SQRT_2_PI - np.log(sigma) - whole_M
        distinct, place_B = np.unique(values_B, return_inverse=True)
        left, right = distinct - step / 2, distinct + step / 2
        if self.dist.log:
            left, right = np.log(left), np.log(right)
        masses = _log_mass((left[:, None] - mu) / sigma, (right[:, None] - mu) / sigma)
        return masses[place_B] - whole_M

    def values(self, drawn_B: np.ndarray) -> np.ndarray:
        """Draws as the parameter has them: out of the logarithm, on a step, within the bounds."""
        dist = self.dist
        values = np.exp(drawn_B) if dist.log else drawn_B
        if dist.step is not None:
            values = dist.low + np.round((values - dist.low) / dist.step) * dist.step
        return np.clip(values, dist.low, dist.high)


class Density:
    """A mixture of product kernels: one kernel an observation, and a wide one as prior.

    Parameters
    ----------
    observations
        Array[N, parameters of the group], the oldest first.
    """

    def __init__(self, observations: np.ndarray, group: Group):
        count = len(observations)
        weights = np.append(_weights(count), 1.0)
        self._weights_M = weights / weights.sum()
        self._kernels = {
            name: _kernels(observations[:, column], dist) for column, (name, dist) in enumerate(group.items())
        }

    def sample(self, rng: np.random.RandomState, count: int) -> dict[str, np.ndarray]:
        """`count` draws of each parameter, Array[B] in Optuna's numbers (of a choice its index)."""
        chosen_B = rng.choice(len(self._weights_M), p=self._weights_M, size=count)
        samples: dict[str, np.ndarray] = {}
        for name, kernels in self._kernels.items():
            if isinstance(kernels, _Choice):
                cumulated = np.cumsum(kernels.weights[chosen_B], axis=-1)
                cumulated[:, -1] = 1.0  # rounding: no draw may lie beyond the last choice
                samples[name] = np.sum(cumulated < rng.rand(count)[:, None], axis=-1)
        numeric = {name: each for name, each in self._kernels.items() if isinstance(each, _Numeric)}
        quantiles = rng.uniform(size=(len(numeric), count))
        for quantiles_B, (name, each) in zip(quantiles, numeric.items(), strict=True):
            mu_B, sigma_B = each.mu_M[chosen_B], each.sigma_M[chosen_B]
            drawn = _quantile(quantiles_B, (each.low - mu_B) / sigma_B, (each.high - mu_B) / sigma_B)
            samples[name] = each.values(drawn * sigma_B + mu_B)
        return samples

    def log_density(self, samples: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logarithm of the density at each draw, Array[B]."""
        total_BM = np.log(self._weights_M)[None, :]
        for name, kernels in self._kernels.items():
            total_BM = total_BM + kernels.log_density(samples[name])
        return logsumexp(total_BM, axis=1)


def _weights(count: int) -> np.ndarray:
    if count < RECENT_WEIGHT:
        return np.ones(count)
    ramp = np.linspace(1.0 / count, 1.0, num=count - RECENT_WEIGHT)
    return np.concatenate([ramp, np.ones(RECENT_WEIGHT)])


def _kernels(observed_N: np.ndarray, dist: BaseDistribution) -> _Choice | _Numeric:
    count = len(observed_N)
    if isinstance(dist, CategoricalDistribution):
        weights = np.full((count + 1, len(dist.choices)), 1.0 / (count + 1))
        weights[np.arange(count), observed_N.astype(int)] += 1.0
        return _Choice(weights / weights.sum(axis=1, keepdims=True))
    assert isinstance(dist, FloatDistribution | IntDistribution)
    half_step = 0.0 if dist.step is None else dist.step / 2
    low, high = dist.low - half_step, dist.high + half_step
    if dist.log:
        observed_N, low, high = np.log(observed_N), math.log(low), math.log(high)
    mu = np.append(observed_N, 0.5 * (low + high))
    return _Numeric(dist, low, high, mu, np.append(_bandwidths(observed_N, low, high), high - low))


def _bandwidths(observed_N: np.ndarray, low: float, high: float) -> np.ndarray:
    """A kernel reaches as far as the farther of its two neighbours; the bounds are neighbours of a lone one only."""
    order = np.argsort(observed_N)
    fenced = np.concatenate([[low], observed_N[order], [high]])
    gaps = np.diff(fenced)
    sigmas = np.maximum(gaps[:-1], gaps[1:])
    if len(observed_N) >= 2:
        sigmas[0], sigmas[-1] = gaps[1], gaps[-2]
    narrowest = (high - low) / min(NARROWEST, 2.0 + len(observed_N))
    return np.clip(sigmas[np.argsort(order)], narrowest, high - low)


def _log_mass(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Logarithm of the standard normal's probability between a and b, to full precision in both tails."""
    # The left tail is computed exactly; an interval in the right one is mirrored into it.
    right = a > 0
    a, b = np.where(right, -b, a), np.where(right, -a, b)
    central = b > 0
    log_b, log_a = log_ndtr(np.where(central, 0.0, b)), log_ndtr(np.where(central, -1.0, a))
    tail = log_b + np.log1p(-np.exp(log_a - log_b))
    return np.where(central, np.log1p(-ndtr(np.where(central, a, 0.0)) - ndtr(np.where(central, -b, -1.0))), tail)


def _quantile(q: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inverse of the distribution function of the standard normal cut to [a, b]."""
    mass = _log_mass(a, b)
    right = a >= 0
    with np.errstate(divide="ignore"):  # q may be 0: then the draw is the bound
        log_share = np.where(right, np.log1p(-q), np.log(q))
    drawn = ndtri_exp(np.logaddexp(log_ndtr(np.where(right, -b, a)), log_share + mass))
    return np.where(right, -drawn, drawn)


class Candidates:
    """Draws of one group of parameters, the most promising first; values are made only of those that are asked for."""

    def __init__(self, group: Group, samples: dict[str, np.ndarray], order: np.ndarray):
        self._group, self._samples, self._order = group, samples, order

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = self._order[place]
        return {name: dist.to_external_repr(self._samples[name][row].item()) for name, dist in self._group.items()}


class Contrast:
    """l(x), the density of the good trials, and g(x), that of the others, for one group of parameters."""

    def __init__(
        self, group: Group, observations: Observations, below: Sequence[FrozenTrial], above: Sequence[FrozenTrial]
    ):
        # By name: the order in which parameters are drawn is part of what a seed means.
        self._group = {name: group[name] for name in sorted(group)}
        self._good = Density(observations.of(below, self._group), self._group)
        self._others = Density(observations.of(above, self._group), self._group)

    def candidates(self, rng: np.random.RandomState, count: int) -> Candidates:
        """`count` draws from l(x), the highest l(x)/g(x) first."""
        samples = self._good.sample(rng, count)
        score = self._good.log_density(samples) - self._others.log_density(samples)
        return Candidates(self._group, samples, np.argsort(-score, kind="stable"))


def random_draws(group: Group, rng: np.random.RandomState, count: int) -> list[dict[str, Any]]:
    """Uniform draws (logarithmic where the distribution is): the Parzen estimator of no observation is not uniform."""
    return [{name: _draw(dist, rng) for name, dist in group.items()} for _ in range(count)]


def single_value(dist: BaseDistribution) -> Any:
    """The one value of a distribution that has no other."""
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[0]
    assert isinstance(dist, FloatDistribution | IntDistribution)
    return dist.low


def _draw(dist: BaseDistribution, rng: np.random.RandomState) -> Any:
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[rng.randint(len(dist.choices))]
    if isinstance(dist, IntDistribution):
        if dist.log:
            value = np.exp(rng.uniform(np.log(dist.low - 0.5), np.log(dist.high + 0.5)))
            return int(min(max(round(value), dist.low), dist.high))
        return int(dist.low + dist.step * rng.randint((dist.high - dist.low) // dist.step + 1))
    assert isinstance(dist, FloatDistribution)
    if dist.step is not None:
        steps = rng.randint(round((dist.high - dist.low) / dist.step) + 1)
        return float(min(dist.low + dist.step * steps, dist.high))  # rounding may put the last step beyond the bound
    if dist.log:
        return float(np.clip(np.exp(rng.uniform(np.log(dist.low), np.log(dist.high))), dist.low, dist.high))
    return float(rng.uniform(dist.low, dist.high))
