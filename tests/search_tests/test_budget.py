"""The budget that finishes a search soonest: the model by hand, and the choice on real plans."""

import csv
from collections.abc import Sequence

import pytest

from benchmarks.gpu_cases import DATA as H100_DATA
from benchmarks.gpu_packing import packing_config
from search.budget import MOST_EXCLUDED, Machine, Outlook, Outlooks, choose, sample, time_on, tried
from search.engine.space_draws import draw
from spaces.loader import load_space
from tests.reader import ROOT
from trainable.config import TrialConfig
from trainable.device.budget import Card
from trainable.errors import BudgetError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.planner import Planner
from trainable.memory.predict import DataSizes, architecture_of
from trainable.memory.profile import DeviceProfile
from trainable.timing.speed import Seconds
from trainable.units import GIB, MIB

DATA = DataSizes(train_frames=10_000, test_frames=10_000, train_clips=64, test_clips=16, n_ids=2)
CARD = Card(8 * GIB, 512 * MIB)
CONFIGS = [TrialConfig.from_flat({"batch_size": size, "n_patches": 16}) for size in (8, 32, 64, 128)]


def planner() -> Planner:
    return Planner(DATA, budget_bytes=None)


def launches(config: TrialConfig, plan: ExecutionPlan) -> Seconds:
    """A trial that waits for launches: five could share the card; each micro-batch launches as much."""
    return Seconds(device=2.0, host=10.0 * -(-config.patch.batch_size // plan.micro_batch_clips))


def outlook(gib: float, *, excluded: float = 0.0, slots: int = 1, speedup: float = 1.0) -> Outlook:
    return Outlook(int(gib * GIB), 1.0 - excluded, 0.0, slots, speedup)


def test_the_fastest_budget_that_excludes_little_is_chosen() -> None:
    whole, half, third, quarter = (
        outlook(8),
        outlook(4, speedup=1.8),
        outlook(2.7, speedup=2.4, excluded=MOST_EXCLUDED - 1e-6),
        outlook(2, speedup=3.0, excluded=2 * MOST_EXCLUDED),
    )
    assert choose([whole, half, third, quarter]) is third
    assert choose([whole, half]) is half
    assert choose([whole, outlook(4, speedup=1.01)]) is whole, "hardly faster, with smaller plans"
    assert choose([outlook(8, excluded=0.5), outlook(4, excluded=0.54, speedup=2.0)]).budget_bytes == 4 * GIB
    none = Outlook(8 * GIB, 0.0, 0.0, 1)
    assert choose([none]) is none, "the search then says what the smallest needs"


def test_small_trials_are_launch_bound_until_the_card_is_full() -> None:
    """Five fill it: 10 s alone, of which the card works 2."""
    small = CONFIGS[:1]
    rows = {each.slots: each for each in tried(small, planner(), Machine(CARD), launches)}
    assert list(rows) == [1, 2, 3, 4, 6]
    assert [round(rows[slots].speedup or 0, 3) for slots in rows] == [1, 2, 3, 4, 5]
    assert rows[6].at_its_best
    assert choose(list(rows.values())).slots == 6
    few = tried(small, planner(), Machine(CARD, cores=2), launches)
    assert [(each.slots, each.speedup) for each in few] == [(1, 1), (2, 2)], "a core launches for one trial at a time"
    assert [each.slots for each in tried(small, planner(), Machine(CARD, most_slots=3), launches)] == [1, 2, 3]


def test_the_model_says_what_an_h100_measured() -> None:
    """Within a fifth, for 1, 2, 4 and 8 small trials at a time."""
    planner = Planner(H100_DATA, budget_bytes=None, profile=DeviceProfile.for_gpu("NVIDIA H100 80GB HBM3"))
    config = packing_config()
    seconds = time_on(planner, "cuda")(config, ExecutionPlan(micro_batch_clips=config.patch.batch_size))
    rows = csv.DictReader((ROOT / "benchmarks/results/h100/packing.csv").read_text().splitlines())
    measured = {int(row["trials"]): float(row["ratio"]) for row in rows if row["trials"]}
    assert sorted(measured) == [1, 2, 4, 8]
    for trials, ratio in measured.items():
        assert min(trials, seconds.alone / seconds.device) == pytest.approx(ratio, rel=0.2)


def test_a_trial_that_fills_the_card_shares_it_with_none() -> None:
    rows = tried(CONFIGS, planner(), Machine(CARD), lambda *_: Seconds(device=3.0, host=1.0))
    assert [(each.slots, each.speedup) for each in rows] == [(1, 1.0)]
    assert choose(rows).budget_bytes == CARD.usable_bytes


def test_shares_are_those_of_the_planner_and_slower_plans_count() -> None:
    machine, budget_bytes = Machine(CARD), 1200 * MIB
    (row,) = Outlooks(CONFIGS, planner(), machine, launches).under([budget_bytes])
    plans = [planner().within(budget_bytes).plan(config) for config in CONFIGS]
    unlimited = [planner().plan(config) for config in CONFIGS]
    assert all(plan.fits for plan in plans)
    whole = [plan.plan == other.plan for plan, other in zip(plans, unlimited, strict=True)]
    assert (row.whole, row.smaller, row.excluded) == (sum(whole) / 4, 1 - sum(whole) / 4, 0.0)
    assert 0 < row.smaller < 1
    seconds = [launches(config, plan.plan).alone for config, plan in zip(CONFIGS, plans, strict=True)]
    assert row.slots == 6
    assert row.speedup == pytest.approx(min(6 * 10 / (sum(seconds) / 4), 5.0))
    text = f"{row}"
    assert "6 trials a card" in text
    assert "by a smaller plan" in text
    (alone,) = Outlooks(CONFIGS, planner()).under([budget_bytes])
    assert (alone.whole, alone.slots, alone.speedup) == (row.whole, None, None)


def test_plans_of_a_larger_budget_stay_where_they_fit() -> None:
    budgets = [3 * GIB, 2 * GIB, 1200 * MIB, 900 * MIB, 700 * MIB]
    one_by_one = [next(Outlooks(CONFIGS, planner()).under([each])) for each in budgets]
    assert list(Outlooks(CONFIGS, planner()).under(budgets)) == one_by_one


def test_a_card_too_small_for_a_budget_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"does not fit a GPU of 8\.00 GiB"):
        list(Outlooks(CONFIGS, planner(), Machine(CARD)).under([9 * GIB]))


def frequency(configs: Sequence[TrialConfig], width: float) -> float:
    return sum(config.model.width == width for config in configs) / len(configs)


def test_a_sample_has_few_architectures_as_frequent_as_they_are_drawn() -> None:
    space = load_space("ad_gpu")
    draws = draw(space, 1024, seed=3)
    everything = [space.config(params, epochs=4) for params in draws]

    def sampled() -> list[TrialConfig]:
        return [config for _, config in sample(draws, lambda each: space.config(each, epochs=4), n_ids=4, count=96)]

    chosen = sampled()
    assert len(chosen) == 96
    assert chosen == sampled()
    for width in (1, 2, 4, 8):
        assert frequency(chosen, width) == pytest.approx(frequency(everything, width), abs=0.06)
    architectures, drawn = ({architecture_of(config, 4) for config in some} for some in (chosen, everything[:96]))
    assert len(architectures) < 0.7 * len(drawn)
