"""What more trials of a search are expected to bring."""

from itertools import combinations

import numpy as np
import pytest

from trainable.detection.gain import expected_gain
from trainable.detection.ranking import LEADERS


def best(values: tuple[float, ...]) -> float:
    return float(np.sort(values)[-LEADERS:].mean())


def test_it_is_what_the_last_trials_brought_over_all_orders() -> None:
    values = tuple(np.random.default_rng(0).normal(0.9, 0.02, 13))
    before = np.mean([best(drawn) for drawn in combinations(values, 10)])
    assert expected_gain(values, 0, more=3) == pytest.approx(best(values) - before)


def test_trials_that_were_stopped_count_as_the_lowest_that_completed() -> None:
    values = [0.7, *np.linspace(0.8, 0.9, 9)]
    assert expected_gain(values, 4, more=5) == pytest.approx(expected_gain([*values, *[0.7] * 4], 0, more=5))


def test_it_falls_with_the_trials_and_bounds_what_as_many_more_bring() -> None:
    rng = np.random.default_rng(1)
    draws = rng.normal(0.9, 0.02, (400, 60))
    expected = np.array([[expected_gain(list(row[:count]), 0) for count in (20, 30, 50)] for row in draws])
    brought = [np.mean([best(row[: count + 10]) - best(row[:count]) for row in draws]) for count in (20, 30, 50)]
    assert list(expected.mean(axis=0)) == sorted(expected.mean(axis=0), reverse=True)
    assert (expected.mean(axis=0) > brought).all()


@pytest.mark.parametrize(("completed", "stopped"), [(LEADERS - 1, 40), (LEADERS, 9), (17, 0)])
def test_too_few_trials_tell_nothing(completed: int, stopped: int) -> None:
    assert expected_gain([0.9] * completed, stopped) is None
    assert expected_gain([0.9] * (completed + 1), stopped) == pytest.approx(0.0)
