"""A made-up data set on which any configuration can be "trained" at once: recorded trainings spread over the space.

A search proposes configurations that nobody trained. A world gives each of them the curves of a recorded training: one
fully grown random tree (Geurts et al. 2006, "Extremely randomized trees") divides the space into one cell per recorded
configuration, where those that are alike in what matters lie together. So every curve is one that was really trained,
with its true relation between early and late epochs, scores, validation and truth; a model that interpolates smoothly
has no advantage, as it would have in a world drawn from a Gaussian process. Another tree is another world.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.tree import ExtraTreeRegressor

from benchmarks.curves import FUSED, DataSet, Recorded
from spaces.space import Choices, Space

FOREST = 200
"""Trees whose mean predicts a configuration that was left out."""


class World:
    """What every training of one made-up data set would report.

    Parameters
    ----------
    seed
        Chooses the tree.
    """

    def __init__(self, data: DataSet, space: Space, seed: int):
        self.data, self._space, self._seed = data, space, seed
        inputs, targets = features_of(data, space), _targets(data)
        self._tree = ExtraTreeRegressor(max_features=0.5, random_state=seed).fit(inputs, targets)
        self._cells: dict[int, list[int]] = {}
        for training, cell in zip(data.drawn, self._tree.apply(inputs), strict=True):
            self._cells.setdefault(int(cell), []).append(training.configuration)
        self._known = {_key(data.params[each.configuration]): each.configuration for each in data.once}

    def configuration(self, params: Mapping[str, Any]) -> int:
        """The recorded configuration whose curves these parameters get: their own where they were trained."""
        known = self._known.get(_key(params))
        if known is not None:
            return known
        cell = int(self._tree.apply(_features(params, self._space)[None])[0])
        return self._cells[cell][0]

    def train(self, params: Mapping[str, Any], seed: int) -> Recorded:
        """The recorded training behind these parameters; the seed chooses among its configuration's recorded seeds."""
        recorded = self.data.by_repeat(self.configuration(params))
        return recorded[int(np.random.default_rng([self._seed, seed]).integers(len(recorded)))]


def features_of(data: DataSet, space: Space) -> np.ndarray:
    """Drawn configurations as points, float64 (configurations, parameters)."""
    return np.array([_features(data.params[each.configuration], space) for each in data.drawn])


def _features(params: Mapping[str, Any], space: Space) -> np.ndarray:
    """Parameters as numbers in 0 … 1, logarithmic where the space says so; −1 where a condition does not hold."""
    numbers = []
    for parameter in space.parameters:
        value, distribution = params.get(parameter.name), parameter.distribution
        if value is None:
            numbers.append(-1.0)
        elif isinstance(distribution, Choices):
            numbers.append(distribution.values.index(value) / max(1, len(distribution.values) - 1))
        else:
            low, high = float(distribution.low), float(distribution.high)
            scale = np.log if distribution.log else np.asarray
            numbers.append(float((scale(value) - scale(low)) / (scale(high) - scale(low))))
    return np.array(numbers)


def _targets(data: DataSet) -> np.ndarray:
    """What a tree divides the space by: the last value and the truth, standardised; (configurations, 2)."""
    curves = [each.curves[FUSED] for each in data.drawn]
    targets = np.array([(curve.values[-1], curve.truth) for curve in curves])
    standardised: np.ndarray = (targets - targets.mean(axis=0)) / (targets.std(axis=0) + 1e-12)
    return standardised


def _key(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(params.items()))


def rank_correlations(data: DataSet, space: Space) -> tuple[float, float]:
    """Spearman's ρ of recorded truth and what is predicted for a configuration that was left out: of one tree, the
    world's, and of a forest, the best that any search could know."""
    inputs, truth = features_of(data, space), _targets(data)[:, 1]
    tree = ExtraTreeRegressor(max_features=0.5, random_state=0)
    forest = ExtraTreesRegressor(FOREST, max_features=0.5, random_state=0)
    found = [
        float(spearmanr(cross_val_predict(model, inputs, truth, cv=LeaveOneOut()), truth).statistic)
        for model in (tree, forest)
    ]
    return found[0], found[1]
