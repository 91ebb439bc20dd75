"""Retraining on a GPU keeps to the run's budget: cap, plan, next smaller plan. The card is made up; a CPU trains."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from analysis import retrain as module
from analysis.model_view import load_run_data
from analysis.results import RunResults, load_run
from analysis.retrain import all_normal_clips, retrain, with_seeds
from tests.trainable_tests.fake_cuda import FakeCuda, fake_cuda
from trainable.config import TrialConfig
from trainable.data.load import Dataset
from trainable.errors import BudgetError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.model.decoder import Decoder
from trainable.training.trainer import EpochLosses, Trainer
from trainable.trial import Trial
from trainable.units import GIB

pytestmark = pytest.mark.slow
NUMBER = 1
PROFILE = DeviceProfile(context_bytes=100_000_000, library_bytes=0)


@pytest.fixture
def card() -> Iterator[FakeCuda]:
    benchmark = torch.backends.cudnn.benchmark
    with mock.patch.dict(os.environ), fake_cuda(8 * GIB) as fake:
        yield fake
    torch.backends.cudnn.benchmark = benchmark


@pytest.fixture
def run(trained_path: Path) -> RunResults:
    return load_run(trained_path)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Trial]:
    """Trials that were made for the card, in their order; they run on the CPU."""
    trials: list[Trial] = []

    def on_the_cpu(*args: Any, device: str, **options: Any) -> Trial:
        assert device == "cuda:1"
        trials.append(Trial(*args, device="cpu", **options))
        return trials[-1]

    monkeypatch.setattr(module, "Trial", on_the_cpu)
    return trials


def budgeted(run: RunResults, budget_bytes: int) -> RunResults:
    """The run as if it had been searched under this budget and this profile."""
    options = {**run.manifest.options, "profile": PROFILE.to_dict()}
    manifest = dataclasses.replace(run.manifest, gpu_memory_budget_bytes=budget_bytes, options=options)
    return dataclasses.replace(run, manifest=manifest)


def planner_of(run: RunResults, dataset: Dataset, budget_bytes: int | None) -> tuple[Planner, TrialConfig]:
    full = dataclasses.replace(dataset, train=all_normal_clips(dataset))
    config = run.records[NUMBER].start.config
    return Planner.for_dataset(full, budget_bytes=budget_bytes, profile=PROFILE), config


@pytest.mark.parametrize(
    ("options", "amp", "clips"),
    [
        ({"memory_saver": True}, False, 1),  # written before there was --smallest-plan, which it meant
        ({"memory_saver": True, "smallest_plan": False}, True, 8),
        ({"memory_saver": False, "smallest_plan": True}, False, 1),
    ],
)
def test_it_is_planned_as_its_run_was_asked_to(
    run: RunResults, card: FakeCuda, options: dict[str, bool], amp: bool, clips: int
) -> None:
    kept = {
        name: value for name, value in run.manifest.options.items() if name not in ("memory_saver", "smallest_plan")
    }
    options = {**kept, **options, "profile": PROFILE.to_dict()}
    manifest = dataclasses.replace(run.manifest, gpu_memory_budget_bytes=8 * GIB, options=options)
    config = run.records[NUMBER].start.config
    planner, _ = module._planner(dataclasses.replace(run, manifest=manifest), load_run_data(run), config, "cuda:1")
    plan = planner.plan(config).plan
    assert (plan.uses_amp, plan.micro_batch_clips, plan.recompute_encoder, plan.recompute_decoder) == (
        *(amp, clips),
        *(True, True),
    )


def test_it_is_capped_and_planned_for_the_budget_and_goes_on_with_a_smaller_plan(
    run: RunResults, card: FakeCuda, made: list[Trial]
) -> None:
    dataset = load_run_data(run)
    unbounded, config = planner_of(run, dataset, None)
    budget = unbounded.predict(config, ExecutionPlan(micro_batch_clips=8)).predicted_bytes - 1
    planner, _ = planner_of(run, dataset, budget)
    choice = planner.plan(config)
    assert choice.fits
    assert choice.plan != ExecutionPlan(micro_batch_clips=8), "the whole batch does not fit"
    forward, calls = Decoder.forward, [0]

    def failing_once(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return forward(*args, **options)

    planned: list[ExecutionPlan] = []
    smaller = Planner.next_smaller

    def next_smaller(self: Planner, of: TrialConfig, plan: ExecutionPlan) -> ExecutionPlan | None:
        planned.append(plan)
        with mock.patch.object(Decoder, "forward", forward):  # a trace must not meet the injected error
            return smaller(self, of, plan)

    train_epoch = Trainer.train_epoch

    def train_epoch_failing_once(self: Trainer) -> EpochLosses:
        with mock.patch.object(Decoder, "forward", failing_once):
            return train_epoch(self)

    with (
        mock.patch.object(Planner, "next_smaller", next_smaller),
        mock.patch.object(Trainer, "train_epoch", train_epoch_failing_once),
    ):
        retrained = retrain(budgeted(run, budget), with_seeds(run, NUMBER, 1), dataset, device="cuda:1")
    assert card.fractions == {1: pytest.approx((budget - 100_000_000) / (8 * GIB))}
    assert planned == [choice.plan]
    assert made[0].trainer.plan == planner.next_smaller(config, choice.plan)
    assert retrained.held_out.auc > 0.9


def test_a_budget_that_no_plan_fits_is_one_error(run: RunResults, card: FakeCuda, made: list[Trial]) -> None:
    with pytest.raises(BudgetError, match=r"even with its smallest plan.*retrain on the CPU"):
        retrain(budgeted(run, 100_000_001), with_seeds(run, NUMBER, 1), load_run_data(run), device="cuda:1")
    assert made == []
