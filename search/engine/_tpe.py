"""The densities of TPE: many scored candidates at once, which Optuna's own sampler does not return.

Optuna's `TPESampler` draws 24 candidates and returns only the best one; another one costs a new trial. Here all
candidates are kept, the most promising first, so that those that do not fit the budget can be skipped. The method is
that of Optuna 5.0.0 (`multivariate=True, constant_liar=True`), and so are the numbers: a test compares both. No private
name of Optuna is used.

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
"""Cached rows, one per trial and group of parameters; the sampler reads about 225 per group at a time."""
MOST_GOOD = 25
"""Most trials that l(x) is estimated from; below that, a tenth of the finished ones."""
RECENT_WEIGHT = 25
"""This many of the newest observations have full weight; that of older ones falls linearly to 1 / N."""
NARROWEST = 100.0
"""A kernel is at least 1 / NARROWEST of its range wide, and wider while there are fewer kernels."""
_LOG_SQRT_2_PI = 0.5 * math.log(2 * math.pi)
Group = Mapping[str, BaseDistribution]
"""Parameters that are drawn together; none has only a single value."""


def good_count(finished: int) -> int:
    """How many of the finished trials count as good."""
    return min(math.ceil(0.1 * finished), MOST_GOOD)


def split(
    trials: Sequence[FrozenTrial], feasible: int, *, maximize: bool
) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """Splits trials into good ones and others (which include the running ones), each sorted by number.

    Parameters
    ----------
    trials
        Completed, pruned and running trials. A trial that violates a constraint is never good.
    feasible
        Number of finished trials that may be good.
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
    """Converts trials' parameters of a group to numbers.

    Parameters
    ----------
    remember
        Cache the numbers of finished trials. Correct only if all trials are of one study and no parameter's
        distribution ever changes.
    """

    def __init__(self, *, remember: bool):
        self._remember = remember
        self._rows: OrderedDict[tuple[int, tuple[str, ...]], list[float] | None] = OrderedDict()

    def of(self, trials: Sequence[FrozenTrial], group: Group) -> np.ndarray:
        """Array[N, parameters of the group]; trials with a missing or out-of-range value are left out."""
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
    """Truncated normal kernels of a numeric parameter, on a log scale if its distribution is logarithmic."""

    dist: FloatDistribution | IntDistribution
    low: float
    high: float
    """Bounds of the truncation: half a step wider than the distribution on each side."""
    mu_M: np.ndarray
    sigma_M: np.ndarray

    def log_density(self, values_B: np.ndarray) -> np.ndarray:
        """Log density of a continuous parameter or log probability of a stepped one, without terms common to all."""
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
        """Converts draws to parameter values: off the log scale, rounded to a step, within the bounds."""
        dist = self.dist
        values = np.exp(drawn_B) if dist.log else drawn_B
        if dist.step is not None:
            values = dist.low + np.round((values - dist.low) / dist.step) * dist.step
        return np.clip(values, dist.low, dist.high)


class Density:
    """A mixture of product kernels: one kernel per observation, and a wide one as prior.

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
        """`count` draws of each parameter, Array[B] in Optuna's internal representation (a choice is its index)."""
        chosen_B = rng.choice(len(self._weights_M), p=self._weights_M, size=count)
        samples: dict[str, np.ndarray] = {}
        for name, kernels in self._kernels.items():
            if isinstance(kernels, _Choice):
                cumulated = np.cumsum(kernels.weights[chosen_B], axis=-1)
                cumulated[:, -1] = 1.0  # despite rounding, no draw may exceed the last choice
                samples[name] = np.sum(cumulated < rng.rand(count)[:, None], axis=-1)
        numeric = {name: each for name, each in self._kernels.items() if isinstance(each, _Numeric)}
        quantiles = rng.uniform(size=(len(numeric), count))
        for quantiles_B, (name, each) in zip(quantiles, numeric.items(), strict=True):
            mu_B, sigma_B = each.mu_M[chosen_B], each.sigma_M[chosen_B]
            drawn = _quantile(quantiles_B, (each.low - mu_B) / sigma_B, (each.high - mu_B) / sigma_B)
            samples[name] = each.values(drawn * sigma_B + mu_B)
        return samples

    def log_density(self, samples: Mapping[str, np.ndarray]) -> np.ndarray:
        """Log density at each draw, Array[B]."""
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
    """Each bandwidth is the distance to the farther neighbour; the bounds are neighbours only of a lone kernel."""
    order = np.argsort(observed_N)
    fenced = np.concatenate([[low], observed_N[order], [high]])
    gaps = np.diff(fenced)
    sigmas = np.maximum(gaps[:-1], gaps[1:])
    if len(observed_N) >= 2:
        sigmas[0], sigmas[-1] = gaps[1], gaps[-2]
    narrowest = (high - low) / min(NARROWEST, 2.0 + len(observed_N))
    return np.clip(sigmas[np.argsort(order)], narrowest, high - low)


def _log_mass(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Log probability of the standard normal between a and b, accurate in both tails."""
    # The left tail is accurate; an interval in the right tail is mirrored into it.
    right = a > 0
    a, b = np.where(right, -b, a), np.where(right, -a, b)
    central = b > 0
    log_b, log_a = log_ndtr(np.where(central, 0.0, b)), log_ndtr(np.where(central, -1.0, a))
    tail = log_b + np.log1p(-np.exp(log_a - log_b))
    return np.where(central, np.log1p(-ndtr(np.where(central, a, 0.0)) - ndtr(np.where(central, -b, -1.0))), tail)


def _quantile(q: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quantile function of the standard normal truncated to [a, b]."""
    mass = _log_mass(a, b)
    right = a >= 0
    with np.errstate(divide="ignore"):  # q may be 0: then the draw is the bound
        log_share = np.where(right, np.log1p(-q), np.log(q))
    drawn = ndtri_exp(np.logaddexp(log_ndtr(np.where(right, -b, a)), log_share + mass))
    return np.where(right, -drawn, drawn)


class Candidates:
    """Draws of one group of parameters, the most promising first; a draw becomes values only when it is read."""

    def __init__(self, group: Group, samples: dict[str, np.ndarray], log_ratio_B: np.ndarray):
        self._group, self._samples, self._log_ratio_B = group, samples, log_ratio_B
        self._order = np.argsort(-log_ratio_B, kind="stable")

    def log_ratio(self, place: int) -> float:
        """log l(x)/g(x) of a draw."""
        return float(self._log_ratio_B[self._order[place]])

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = self._order[place]
        return {name: dist.to_external_repr(self._samples[name][row].item()) for name, dist in self._group.items()}


class Contrast:
    """l(x), the density of the good trials, and g(x), that of the others, for one group of parameters."""

    def __init__(
        self, group: Group, observations: Observations, below: Sequence[FrozenTrial], above: Sequence[FrozenTrial]
    ):
        # Sorted by name, so that a seed gives the same draws whatever the order of the parameters.
        self._group = {name: group[name] for name in sorted(group)}
        self._good = Density(observations.of(below, self._group), self._group)
        self._others = Density(observations.of(above, self._group), self._group)

    def candidates(self, rng: np.random.RandomState, count: int) -> Candidates:
        """`count` draws from l(x), the highest l(x)/g(x) first."""
        samples = self._good.sample(rng, count)
        return Candidates(self._group, samples, self._good.log_density(samples) - self._others.log_density(samples))


def log_improvement(log_ratio: float, good_share: float) -> float:
    """log of the expected improvement, up to a constant, at log l(x)/g(x) (Bergstra et al. 2011, section 4.1).

    Parameters
    ----------
    good_share
        γ, the share of the trials that count as good.
    """
    return -math.log(good_share + (1.0 - good_share) * math.exp(min(-log_ratio, 700.0)))


def random_draws(group: Group, rng: np.random.RandomState, count: int) -> list[dict[str, Any]]:
    """Uniform draws (log-uniform if the distribution is logarithmic); a Parzen estimator without data is not."""
    return [{name: _draw(dist, rng) for name, dist in group.items()} for _ in range(count)]


def single_value(dist: BaseDistribution) -> Any:
    """The only value of a single-valued distribution."""
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
        return float(min(dist.low + dist.step * steps, dist.high))  # rounding may put the last step above the bound
    if dist.log:
        return float(np.clip(np.exp(rng.uniform(np.log(dist.low), np.log(dist.high))), dist.low, dist.high))
    return float(rng.uniform(dist.low, dist.high))
