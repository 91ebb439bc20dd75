"""Seconds an epoch: unknown, then as the first epoch says, then as later ones do; what they are wanted for."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.engine.conductor import Conductor
from search.engine.pace import Pace
from search.engine.sampler import CANDIDATES, make_sampler
from search.options import SearchOptions
from search.session import readable_records
from spaces.loader import space_from_text
from tests.search_tests.engine_tests.test_conductor import STOP, begin
from tests.search_tests.engine_tests.test_sampler import add_trial, everything
from tests.search_tests.synthetic import make_conductor, report_at
from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.predict import DataSizes
from trainable.timing.speed import CPU_ESTIMATE, Speed

DATA = DataSizes(train_frames=0, test_frames=0, train_clips=40, test_clips=20, n_ids=2)
CONFIG = TrialConfig.from_flat({"width": 0.25, "n_patches": 2, "batch_size": 8})
PLAN = ExecutionPlan(micro_batch_clips=8)


def test_an_estimate_is_no_prediction_before_an_epoch_is_measured() -> None:
    pace = Pace(DATA, CPU_ESTIMATE)
    estimate = pace.estimate(CONFIG, PLAN)
    assert pace.predict(CONFIG, PLAN) is None
    for epoch, factor, predicted in ((1, 9.0, 9.0), (2, 2.0, 2.0), (3, 4.0, 3.0), (1, 30.0, 3.0)):
        pace.learn(CONFIG, replace(report_at(epoch, 0.5), plan=PLAN, epoch_seconds=factor * estimate))
        assert pace.predict(CONFIG, PLAN) == pytest.approx(predicted * estimate)
    pace.learn(CONFIG, replace(report_at(4, 0.5), plan=None, epoch_seconds=1e9))  # of an earlier version
    assert pace.predict(CONFIG, PLAN) == pytest.approx(3.0 * estimate)


def test_a_measured_speed_predicts_from_the_first() -> None:
    pace = Pace(DATA, Speed(1e12, 1e11, 1e-5))
    assert pace.predict(CONFIG, PLAN) == pace.estimate(CONFIG, PLAN)
    assert pace.estimate(CONFIG.replace(width=2.0), PLAN) > pace.estimate(CONFIG, PLAN)
    assert pace.estimate(CONFIG, replace(PLAN, micro_batch_clips=1)) > pace.estimate(CONFIG, PLAN)


WIDTHS = """
parameters:
  width: {choices: [0.25, 4.0]}
  learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
"""


def proposed_widths(seconds: Mapping[float, float] | None) -> list[float]:
    """What is proposed after twenty trials in which both widths did as well."""
    space = space_from_text(WIDTHS, "widths")
    sampler = make_sampler(
        "tpe", space, seed=0, startup_trials=4, seconds=None if seconds is None else lambda p: seconds[p["width"]]
    )
    rng = np.random.RandomState(0)
    for number in range(20):
        params = {"width": [0.25, 4.0][number % 2], "learning_rate": float(10 ** rng.uniform(-4, -2))}
        add_trial(sampler, number, params, 0.6 + 0.01 * (number // 2))
    return [sampler.suggest(index, everything).params["width"] for index in range(20, 40)]


def test_what_takes_less_time_is_preferred_where_it_does_as_well() -> None:
    assert set(proposed_widths({0.25: 1.0, 4.0: 50.0})) == {0.25}
    assert set(proposed_widths({0.25: 50.0, 4.0: 1.0})) == {4.0}
    assert proposed_widths({0.25: 3.0, 4.0: 3.0}) == proposed_widths(None), "equal times change nothing"
    in_minutes = proposed_widths({0.25: 1 / 60, 4.0: 2 / 60})
    assert in_minutes == proposed_widths({0.25: 1.0, 4.0: 2.0}), "a common factor changes nothing"


OPTIONAL = """
parameters:
  width: {choices: [0.25, 4.0]}
  learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true, when: {width: 4.0}}
"""


def test_values_that_are_not_proposed_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """All draws without a learning rate are as promising as their width alone."""
    space = space_from_text(OPTIONAL, "optional")
    sampler = make_sampler("tpe", space, seed=0, startup_trials=4, seconds=lambda params: 1.0)
    rng = np.random.RandomState(0)
    for number in range(40):
        params = {"width": 0.25} if number % 2 else {"width": 4.0, "learning_rate": float(10 ** rng.uniform(-4, -2))}
        add_trial(sampler, number, params, 0.5 + 0.01 * (number * 7 % 40))
    asked: list[Mapping[str, Any]] = []
    ratios: list[float] = []

    def gain(log_ratio: float, good_share: float) -> float:
        ratios.append(log_ratio)
        return log_ratio

    def fits(params: Mapping[str, Any]) -> bool:
        """Only the last of the batch, so that all are asked about: by descending gain."""
        asked.append(params)
        return len(asked) == CANDIDATES

    monkeypatch.setattr("search.engine.sampler.log_improvement", gain)
    sampler.suggest(40, fits)
    ratio_of = list(zip(sorted(ratios, reverse=True), asked, strict=True))
    assert len({ratio for ratio, params in ratio_of if "learning_rate" not in params}) == 1
    assert len({ratio for ratio, params in ratio_of if "learning_rate" in params}) > 1


def test_a_sampler_that_knows_no_time_refuses_to_prefer_what_is_fast() -> None:
    with pytest.raises(ConfigError, match="--prefer-fast changes nothing with --sampler random"):
        SearchOptions(space="synthetic", sampler="random", prefer_fast=True)


def timed(conductor: Conductor) -> int:
    """A trial of nine epochs of two seconds each."""
    number = begin(conductor)
    for epoch in range(1, 10):
        report = replace(report_at(epoch, 0.5), plan=PLAN, epoch_seconds=2.0)
        decision = conductor.report(number, report)
    assert decision is STOP
    conductor.finish(number, conductor.outcome(number))
    return number


def test_predicted_and_measured_seconds_are_in_folder_and_study(tmp_path: Path) -> None:
    """On a CPU from the second trial on; a resumed search has learned what can be read of what its first driver had."""
    pace = Pace(DATA, CPU_ESTIMATE)
    conductor = make_conductor(tmp_path / "run", pace=pace, prefer_fast=True)
    first, second = timed(conductor), timed(conductor)
    trials = conductor.store.study.trials()
    starts = [conductor.store.folder.read_trial(number).start for number in (first, second)]
    assert starts[0].predicted_epoch_seconds is None
    assert "predicted_epoch_seconds" not in trials[first].user_attrs
    assert starts[1].predicted_epoch_seconds == trials[second].user_attrs["predicted_epoch_seconds"] > 0
    assert trials[second].user_attrs["epoch_seconds"] == 2.0
    again = Pace(DATA, CPU_ESTIMATE)
    folder = conductor.store.folder
    damaged = folder.trial_path(second + 1)
    damaged.mkdir()
    (damaged / "trial.json").write_text("{")
    assert folder.numbers() == [first, second, second + 1]
    again.learn_from(readable_records(folder, folder.numbers()))
    assert again.predict(starts[1].config, PLAN) == pace.predict(starts[1].config, PLAN)
