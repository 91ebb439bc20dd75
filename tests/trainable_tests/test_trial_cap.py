"""A trial keeps to what the driver leaves of its budget: a smaller plan before training, or a clear end."""

from dataclasses import replace
from unittest import mock

import pytest
import torch

from tests.trainable_tests.fake_cuda import fake_cuda
from trainable.config import TrialConfig
from trainable.data.load import Dataset
from trainable.device.cap import ProcessCap
from trainable.errors import BudgetError
from trainable.execution_plan import ExecutionPlan, MemoryPlan
from trainable.memory.planner import Planner
from trainable.trial import PlannedTrial, Trial
from trainable.units import GIB, MIB

CONFIG = TrialConfig.from_flat({"epochs": 2, "batch_size": 8, "n_patches": 2, "num_embeddings": 16, "latent_dim": 8})
WHOLE = ExecutionPlan(micro_batch_clips=8)


@pytest.fixture(scope="module")
def planner(tiny_dataset: Dataset) -> Planner:
    return Planner.for_dataset(tiny_dataset, budget_bytes=None)


def planned(planner: Planner, cap_bytes: int) -> PlannedTrial:
    """The whole batch at once under an allocator capped so, with 100 MiB more outside of it than planned."""
    prediction = planner.predict(CONFIG, WHOLE)
    memory = MemoryPlan(WHOLE, prediction.predicted_bytes, allocated_bytes=prediction.allocated_bytes)
    outside = planner.profile.outside_bytes
    cap = ProcessCap(
        budget_bytes=cap_bytes + outside + 100 * MIB,
        outside_bytes=outside + 100 * MIB,
        planned_outside_bytes=outside,
        measured=True,
    )
    return PlannedTrial(CONFIG, memory, planner, cap)


def needed(planner: Planner, plan: ExecutionPlan) -> int:
    return planner.predict(CONFIG, plan).predicted_bytes - planner.profile.outside_bytes


def test_a_plan_that_fits_is_kept(planner: Planner) -> None:
    fits = planned(planner, needed(planner, WHOLE))
    assert fits.within_cap() == fits
    assert replace(fits, cap=None).within_cap().memory.plan == WHOLE


def test_a_trial_takes_the_next_smaller_plan_and_its_first_report_says_so(
    planner: Planner, tiny_dataset: Dataset
) -> None:
    too_large = planned(planner, needed(planner, WHOLE) - 1)
    smaller = planner.next_smaller(CONFIG, WHOLE)
    trial = Trial(too_large, tiny_dataset)
    assert trial.trainer.plan == smaller
    reports = [trial.step(), trial.step()]
    (event,) = reports[0].events
    assert event.startswith("epoch 1: plan too large for the cap: (8 clips, chunk 16384, device, float32) is predicted")
    assert "100 MiB more than was planned; trains with (" in event
    assert reports[1].events == ()
    assert smaller is not None
    assert reports[0].plan == smaller
    assert reports[0].predicted_bytes == planner.predict(CONFIG, smaller).predicted_bytes
    assert too_large.cap is not None
    assert [report.cap_bytes for report in reports] == [too_large.cap.cap_bytes] * 2


def test_it_goes_down_as_far_as_is_needed(planner: Planner) -> None:
    last, plans = WHOLE, 0
    while (smaller := planner.next_smaller(CONFIG, last)) is not None:
        last, plans = smaller, plans + 1
    assert plans > 1
    found = planned(planner, needed(planner, last)).within_cap()
    assert needed(planner, found.memory.plan) == needed(planner, last)
    assert len(found.events) == plans
    assert found.within_cap() == found
    with pytest.raises(
        BudgetError, match=r"^no plan fits the .* budget: the smallest is predicted .*give a larger --gpu-memory"
    ):
        planned(planner, needed(planner, last) - 1).within_cap()


def test_without_a_planner_there_is_no_smaller_plan(planner: Planner) -> None:
    with pytest.raises(BudgetError, match="no plan fits"):
        replace(planned(planner, needed(planner, WHOLE) - 1), planner=None).within_cap()


def test_more_than_the_budget_by_the_driver_is_an_event_whenever_it_grows(
    planner: Planner, tiny_dataset: Dataset
) -> None:
    fits = planned(planner, 1 * GIB)
    assert fits.cap is not None
    budget = fits.cap.budget_bytes
    trial = Trial(fits, tiny_dataset)
    counts = [budget, budget + MIB, budget + MIB, budget + 2 * MIB]
    with fake_cuda(8 * GIB) as fake:
        trial.device = torch.device("cuda", 0)
        reports = []
        for count in counts:
            fake.outside_bytes = count
            with mock.patch.object(trial.trainer, "epoch", 0):
                reports.append(trial.step())
    assert [report.driver_bytes for report in reports] == counts
    assert [len(report.events) for report in reports] == [0, 1, 0, 1]
    assert "over the budget: the driver counted" in reports[1].events[0]
    assert "1.00 MiB more than the budget" in reports[1].events[0]
