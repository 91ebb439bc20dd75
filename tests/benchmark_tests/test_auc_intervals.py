"""Intervals of a mean AUC hold the true one about as often as they say, where a bootstrap alone does not."""

import pytest

from benchmarks.auc_intervals import measured


@pytest.mark.parametrize("ids", [1, 4])
@pytest.mark.parametrize(("normal", "anomalous"), [(2, 2), (10, 10), (30, 3)])
@pytest.mark.parametrize("auc", [0.7, 0.98])
def test_few_clips_give_an_honest_interval(normal: int, anomalous: int, ids: int, auc: float) -> None:
    row = measured(normal, anomalous, ids, auc, scatter=2.0, repetitions=100)
    assert float(row["interval"]) >= 0.9, "0.93 in the long run; 100 repetitions are 0.025 off"
    assert float(row["interval"]) >= max(float(row["bootstrap"]), float(row["score"]))
    if (normal, auc) == (2, 0.98):
        assert float(row["bootstrap"]) < 0.5
