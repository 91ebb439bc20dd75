"""The table of density models: the strongest yardstick is named, and differences to it are paired."""

import numpy as np
import pytest

from benchmarks.density import PCA_CODES, SCORING_PASS, Measured, row_name, rows, strongest
from trainable.data.clips import Split, TestClips
from trainable.scoring.metrics import bootstrap_aucs, percentile_interval
from trainable.yardsticks.catalogue import YARDSTICKS
from trainable.yardsticks.idnn import IDNN

LABELS = np.arange(40) % 2
CLIPS = TestClips(
    np.zeros((40 * 64, 64), dtype=np.float32),
    np.arange(41) * 64,
    ("00",) * 20 + ("02",) * 20,
    tuple(map(str, range(40))),
    Split.HELD_OUT,
    labels=LABELS,
)


def scores(signal: float, seed: int) -> np.ndarray:
    return signal * LABELS + np.random.default_rng(seed).standard_normal(40)


@pytest.fixture
def table() -> dict[str, Measured]:
    """IDNN finds more than the other yardsticks, the density model more than it."""
    signals = {row_name(kind): 2.0 if kind is IDNN else 1.0 for kind in YARDSTICKS} | {"counts": 3.0}
    table = {name: Measured() for name in signals}
    for index, (name, signal) in enumerate(signals.items()):
        for seed in (0, 1):
            table[name].add(CLIPS, scores(signal, 10 * index + seed), 0.1)
    table[SCORING_PASS] = Measured(shares=[0.5])
    return table


def test_the_strongest_yardstick_is_named(table: dict[str, Measured]) -> None:
    assert strongest(table) == "IDNN (yardstick)"
    by_name = {row["detector"]: row for row in rows(table)}
    assert [name for name, row in by_name.items() if row["over_yardstick"] == "the strongest"] == ["IDNN (yardstick)"]
    assert {row_name(kind) for kind in YARDSTICKS} < set(by_name)
    assert by_name[PCA_CODES]["over_pca_codes"] == ""
    assert next(iter(by_name)) == "counts"
    assert list(by_name)[-1] == SCORING_PASS
    assert by_name[SCORING_PASS]["over_yardstick"] == ""


def test_differences_are_of_the_same_resamples(table: dict[str, Measured]) -> None:
    mine = next(row for row in rows(table) if row["detector"] == "counts")

    def resamples(signal: float, first: int) -> np.ndarray:
        drawn = [bootstrap_aucs(LABELS, scores(signal, first + seed), CLIPS.machine_ids) for seed in (0, 1)]
        return np.mean(drawn, axis=0)

    # The yardsticks are in the order of the catalogue, then the density model.
    for column, first, signal in (("over_yardstick", 40, 2.0), ("over_pca_codes", 20, 1.0)):
        low, high = percentile_interval(resamples(3.0, 50) - resamples(signal, first))
        assert mine[column] == f"{low:+.3f} … {high:+.3f}"
