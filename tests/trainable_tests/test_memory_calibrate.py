"""What the peaks of a run's trials teach a device profile, and which of them do."""

from dataclasses import replace

import pytest

from tests.search_tests.synthetic import report_at
from trainable.config import TrialConfig
from trainable.data.load import Dataset
from trainable.execution_plan import ExecutionPlan
from trainable.memory.calibrate import Measured, errors_of, peaks_of, recalibrated
from trainable.memory.predict import DataSizes, Predictor
from trainable.memory.profile import DeviceProfile
from trainable.record import TrialRecord, TrialStart
from trainable.training.phases import phase_of

pytestmark = pytest.mark.slow
PLANS = (ExecutionPlan(micro_batch_clips=16), ExecutionPlan(micro_batch_clips=4))


def test_the_margin_covers_what_no_workspace_explains(tiny_dataset: Dataset) -> None:
    data = DataSizes.of(tiny_dataset)
    config = TrialConfig.from_flat({"width": 1.0})
    predicted = Predictor(data).predict(config, PLANS[0]).allocated_bytes
    measured = [Measured(config, PLANS[0], predicted), Measured(config, PLANS[0], int(predicted * 1.08))]
    assert errors_of(measured, data, DeviceProfile()).above_margin == 1
    corrected = recalibrated(DeviceProfile(), measured, data)
    assert errors_of(measured, data, corrected).above_margin == 0
    assert recalibrated(corrected, [], data) is corrected


def test_a_trial_whose_phase_2_was_rounded_away_is_measured_by_the_phases_it_has() -> None:
    """Of 3 epochs round(0.5 · 3) = 2 are phase 1 and round(0.4 · 3) = 1 is phase 3."""
    config = TrialConfig.from_flat({"epochs": 3, "vq_only_share": 0.5, "frozen_share": 0.4})
    assert [phase_of(config.phase, epoch) for epoch in range(3)] == [1, 1, 3]
    whole = record_of(config, [(1, 70, PLANS[0]), (1, 71, PLANS[0]), (3, 75, PLANS[0])])
    assert list(peaks_of(whole)) == [Measured(config, PLANS[0], 75)]
    stopped_early = record_of(config, [(1, 70, PLANS[0]), (1, 71, PLANS[0])])
    assert list(peaks_of(stopped_early)) == [], "phase 3 was not seen, and may be what was predicted"
    moved = record_of(config, [(1, 70, PLANS[0]), (1, 30, PLANS[1]), (3, 28, PLANS[1])])
    assert list(peaks_of(moved)) == [Measured(config, PLANS[1], 30)]


def test_an_epoch_that_recovered_measures_no_plan_and_one_over_its_budget_does() -> None:
    config = TrialConfig.from_flat({"epochs": 1, "vq_only_share": 1.0, "frozen_share": 0.0})
    record = record_of(config, [(1, 70, PLANS[0])])
    for event, measured in (
        ("epoch 1: over the budget: the driver counted 3 GiB, 1 GiB more than the budget of 2 GiB", 1),
        ("epoch 1: out of memory under (whole batch), continued with (…): CUDA out of memory.", 0),
    ):
        with_event = replace(record, epochs=(replace(record.epochs[0], events=(event,)),))
        assert len(list(peaks_of(with_event))) == measured


def record_of(config: TrialConfig, epochs: list[tuple[int, int, ExecutionPlan]]) -> TrialRecord:
    """A trial that reported these phases, peaks (bytes) and plans."""
    start = TrialStart(number=0, params={}, config=config, plan=PLANS[0], predicted_bytes=1)
    reports = tuple(
        replace(report_at(epoch, 0.5), phase=phase, peak_bytes=peak, plan=plan)
        for epoch, (phase, peak, plan) in enumerate(epochs, start=1)
    )
    return TrialRecord(start, reports, None)
