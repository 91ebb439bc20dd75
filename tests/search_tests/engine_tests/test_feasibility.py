"""What fits, asked once and remembered; and the budget that would do."""

from typing import Any

import pytest

from search.engine.feasibility import REMEMBERED, Feasibility, unplanned
from tests.search_tests.synthetic import small_space, synthetic_bytes, synthetic_plans
from trainable.config import TrialConfig
from trainable.errors import BudgetError
from trainable.execution_plan import ExecutionPlan, MemoryPlan
from trainable.units import MIB, parse_bytes

SMALL = {"num_embeddings": 32, "latent_dim": 8}
LARGE = {"num_embeddings": 256, "latent_dim": 64}


def config(params: dict[str, Any]) -> TrialConfig:
    return small_space().config(params, epochs=small_space().search.max_epochs)


class Asked:
    """A planner that writes down what it was asked."""

    def __init__(self, budget_bytes: int, factor: int = 1):
        self.configs: list[TrialConfig] = []
        self._budget_bytes, self._factor = budget_bytes, factor

    def __call__(self, config: TrialConfig) -> MemoryPlan:
        self.configs.append(config)
        predicted = synthetic_bytes(config) * self._factor
        return MemoryPlan(ExecutionPlan(micro_batch_clips=1), predicted, predicted <= self._budget_bytes, "too large")


def test_without_a_budget_nobody_is_asked() -> None:
    asked = Asked(0)
    feasibility = Feasibility(small_space(), budget_bytes=None, plans=asked)
    assert feasibility.fits(LARGE)
    feasibility.require([LARGE])
    assert asked.configs == []


def test_the_same_parameters_are_asked_about_once_in_any_order() -> None:
    asked = Asked(1000)
    feasibility = Feasibility(small_space(), budget_bytes=1000, plans=asked)
    assert feasibility.fits(SMALL)
    assert feasibility.fits(dict(reversed(SMALL.items())))
    assert not feasibility.fits(LARGE)
    assert feasibility.plan(config(LARGE)).reason == "too large"
    assert len(asked.configs) == feasibility.draws_asked == 2
    assert feasibility.smallest_bytes == 256
    assert asked.configs[0].patch.n_patches == 4, "the space's fixed values hold"


def test_what_is_remembered_is_bounded() -> None:
    feasibility = Feasibility(small_space(), budget_bytes=10**9, plans=synthetic_plans(10**9))
    for index in range(REMEMBERED + 100):
        assert feasibility.fits({"learning_rate": 1e-4 + index * 1e-8})
    assert len(feasibility._answers) == REMEMBERED
    assert len(feasibility._choices) == 1
    assert feasibility.draws_asked == REMEMBERED + 100
    assert feasibility.fits({"learning_rate": 1e-4 + (REMEMBERED + 99) * 1e-8})
    assert feasibility.draws_asked == REMEMBERED + 100, "the newest are known"
    assert feasibility.fits({"learning_rate": 1e-4})
    assert feasibility.draws_asked == REMEMBERED + 101, "the oldest is forgotten"


def test_what_needs_the_same_memory_is_asked_about_once() -> None:
    asked = Asked(1000)
    feasibility = Feasibility(small_space(), budget_bytes=1000, plans=asked)
    for rate, cost in ((1e-3, 0.1), (2e-3, 0.1), (1e-3, 0.5)):
        params = {**SMALL, "learning_rate": rate, "commitment_cost": cost, "commitment_warmup_epochs": 2}
        assert feasibility.fits(params)
        assert feasibility.plan(config(params)).fits
    assert len(asked.configs) == 1
    assert feasibility.draws_asked == 3


def test_smaller_than_what_fits_fits_and_larger_than_what_does_not_does_not() -> None:
    """1000 bytes: 32 × 31 fit and 33 × 31 do not; most other answers follow from those two."""
    asked = Asked(1000)
    feasibility = Feasibility(small_space(), budget_bytes=1000, plans=asked)
    assert feasibility.fits({"num_embeddings": 32, "latent_dim": 31})
    assert not feasibility.fits({"num_embeddings": 33, "latent_dim": 31})
    for codes in (2, 16, 32, 33, 64):
        for width in (2, 31, 32, 500):
            known = len(asked.configs)
            assert feasibility.fits({"num_embeddings": codes, "latent_dim": width}) == (codes * width <= 1000)
            follows = (codes <= 32 and width <= 31) or (codes >= 33 and width >= 31)
            assert len(asked.configs) == known or not follows
    assert feasibility.smallest_bytes == min(synthetic_bytes(config) for config in asked.configs)


def test_no_more_is_asked_once_something_fits() -> None:
    asked = Asked(1000)
    Feasibility(small_space(), budget_bytes=1000, plans=asked).require([LARGE, SMALL, {**SMALL, "latent_dim": 9}])
    assert len(asked.configs) == 2


def test_a_budget_that_nothing_fits_is_told_which_would() -> None:
    feasibility = Feasibility(small_space(), budget_bytes=10 * MIB, plans=Asked(10 * MIB, factor=100_000))
    with pytest.raises(BudgetError) as caught:
        feasibility.require([LARGE, SMALL])
    message = str(caught.value)
    assert "nothing in space 'synthetic' fits 10.0 MiB" in message
    assert "(1 clips, chunk 16384, device, float32)" in message
    enough = parse_bytes(message.rsplit(" ", 1)[1])
    assert 256 * 100_000 <= enough < 256 * 100_000 + MIB
    Feasibility(small_space(), budget_bytes=enough, plans=Asked(enough, factor=100_000)).require([LARGE, SMALL])


def test_without_a_planner_the_whole_batch_runs_at_once() -> None:
    choice = unplanned(TrialConfig.from_flat({"batch_size": 24}))
    assert choice == MemoryPlan(ExecutionPlan(micro_batch_clips=24), 0, True)


def test_a_configuration_has_the_phases_of_the_trial_that_runs() -> None:
    """A fifth of two epochs rounds to none: such a trial is never in phase 1 or 3."""
    asked = Asked(10**9)
    Feasibility(small_space(), budget_bytes=10**9, plans=asked, epochs=2).fits(SMALL)
    Feasibility(small_space(), budget_bytes=10**9, plans=asked).fits(SMALL)
    assert [config.phase.epochs for config in asked.configs] == [2, small_space().search.max_epochs]
