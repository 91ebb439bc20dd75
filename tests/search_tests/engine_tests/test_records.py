"""What is known of a trial while it runs and once it has ended: its record, its ending for the sampler, its rank."""

import math
from dataclasses import replace

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from search.engine.asha import Decision
from search.engine.label import label_of
from search.engine.memory_record import MemoryRecord
from search.engine.observation import memory_constraint, observation, state_of
from search.engine.optuna_trials import frozen, rank, to_optuna, violation
from search.engine.running import RunningTrial
from search.engine.space_draws import active_params, all_distributions, probes, smallest
from search.engine.standing import Standing, failure_kind
from spaces.loader import space_from_text
from spaces.space import Choices, Range
from tests.search_tests.synthetic import report_at, small_space
from trainable.config import TrialConfig
from trainable.detection.ranking import LEADERS
from trainable.execution_plan import ExecutionPlan
from trainable.record import FAILURES, TrialEnd, TrialOutcome, TrialStart

NAN = float("nan")


def ending(end: TrialEnd, final_auc: float | None = None, reason: str = "") -> TrialOutcome:
    return TrialOutcome(end=end, reason=reason, epochs=3, best_auc=final_auc, final_auc=final_auc)


# ---- what the sampler learns -----------------------------------------------------------------------------------------


def test_only_a_completed_trial_with_a_number_has_a_value() -> None:
    assert state_of(ending(TrialEnd.COMPLETED, 0.7)) == (TrialState.COMPLETE, 0.7)
    for auc in (None, NAN, math.inf):
        assert state_of(ending(TrialEnd.COMPLETED, auc)) == (TrialState.PRUNED, None)
    for end in set(TrialEnd) - {TrialEnd.COMPLETED}:
        assert state_of(ending(end, 0.7)) == (TrialState.PRUNED, None)


def test_memory_is_a_constraint_where_there_are_a_budget_and_a_prediction() -> None:
    assert memory_constraint(100, 100) == {"memory": 0.0}
    assert memory_constraint(272, 100) == {"memory": pytest.approx(1.0, abs=0.01)}
    assert memory_constraint(1, 100) == {"memory": pytest.approx(math.log(0.01))}
    assert memory_constraint(100, None) == memory_constraint(0, 100) == {}


@pytest.mark.parametrize("end", TrialEnd)
def test_a_failure_violates_a_constraint_and_no_other_ending_does(end: TrialEnd) -> None:
    dists = {"x": FloatDistribution(0.0, 1.0)}
    trial = observation(4, {"x": 0.5}, dists, {1: 0.6, 2: 0.7}, ending(end, 0.7), {"memory": -0.5})
    assert (trial.number, trial.params, trial.intermediate_values) == (4, {"x": 0.5}, {1: 0.6, 2: 0.7})
    assert trial.distributions == dists
    failed = {"failure": 1.0} if end in FAILURES else {}
    assert trial.constraints == {"memory": -0.5} | failed
    assert violation(trial) == (1.0 if end in FAILURES else 0.0)
    assert observation(4, {}, {}, {}, ending(end)).constraints == failed


def test_violations_add_up_and_room_to_spare_makes_up_for_none() -> None:
    def of(**constraints: float) -> float:
        return violation(frozen(0, TrialState.PRUNED, {}, {}, constraints=constraints))

    assert of(memory=0.5, failure=1.0) == 1.5
    assert of(memory=-2.0, failure=1.0) == 1.0
    assert of(memory=0.0) == of() == 0.0


def test_completed_ranks_before_pruned_later_before_earlier_and_no_number_last() -> None:
    best_first = [
        (TrialState.COMPLETE, 0.4, {}),
        (TrialState.COMPLETE, 0.3, {1: 0.9}),
        (TrialState.PRUNED, None, {1: 0.1, 3: 0.2}),
        (TrialState.PRUNED, None, {3: 0.1}),
        (TrialState.PRUNED, None, {2: 0.3, 3: NAN}),
        (TrialState.PRUNED, None, {2: 0.9}),
        (TrialState.PRUNED, None, {}),
    ]
    trials = [frozen(0, state, {}, {}, value=value, intermediate=seen) for state, value, seen in best_first]
    ranks = [rank(trial) for trial in trials]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)
    lower = [rank(trials[place], maximize=False) for place in (1, 0, 3, 2, 4, 5, 6)]
    assert lower == sorted(lower)


def test_bounds_steps_and_scales_are_the_same_in_optuna() -> None:
    assert to_optuna(Choices((4, "a"))) == CategoricalDistribution((4, "a"))
    assert to_optuna(Range(2, 10, step=4, integer=True)) == IntDistribution(2, 10, step=4)
    assert to_optuna(Range(2, 10, log=True, integer=True)) == IntDistribution(2, 10, log=True)
    assert to_optuna(Range(0.5, 2.0, step=0.25)) == FloatDistribution(0.5, 2.0, step=0.25)
    assert to_optuna(Range(0.5, 2.0, log=True)) == FloatDistribution(0.5, 2.0, log=True)


# ---- a running trial -------------------------------------------------------------------------------------------------


def started(params: dict[str, object] | None = None) -> TrialStart:
    return TrialStart(
        number=7, params=params or {}, config=TrialConfig(), plan=ExecutionPlan(micro_batch_clips=1), predicted_bytes=9
    )


def test_a_trial_s_outcome_has_its_last_and_its_best_value() -> None:
    trial = RunningTrial(started(), failures=2)
    assert trial.epoch == 0
    nothing = trial.outcome(TrialEnd.CRASHED, "early")
    assert (nothing.epochs, nothing.best_auc, nothing.final_auc, nothing.failures) == (0, None, None, 2)
    for epoch, auc in ((1, 0.6), (2, 0.8), (3, NAN), (4, 0.7)):
        trial.add(report_at(epoch, auc))
    ended = trial.outcome(TrialEnd.PRUNED, "weak")
    assert ended == TrialOutcome(end=TrialEnd.PRUNED, reason="weak", epochs=4, best_auc=0.8, final_auc=0.7, failures=2)


def test_a_decision_stands_and_one_of_an_earlier_process_was_to_continue() -> None:
    trial = RunningTrial(started(), {1: 0.5, 2: 0.6})
    trial.decided(2, Decision.STOP)
    assert trial.epoch == 2
    assert (trial.decision(1), trial.decision(2)) == (Decision.CONTINUE, Decision.STOP)


def test_memory_s_record_has_the_highest_peak_and_the_largest_error() -> None:
    first = replace(report_at(1, 0.5), events=("a",), peak_bytes=90, predicted_allocated_bytes=100)
    record = MemoryRecord([first])
    assert record.attributes() == {"memory_events": ["a"], "peak_bytes": 90, "peak_MiB": 0.0, "memory_error": -0.1}
    record.add(replace(report_at(2, 0.5), events=("b", "c"), peak_bytes=123, predicted_allocated_bytes=99))
    record.add(replace(report_at(3, 0.5), peak_bytes=80, predicted_allocated_bytes=100))
    record.add(report_at(4, 0.5))
    record.add(replace(report_at(5, 0.5), peak_bytes=110))  # nothing was predicted: no error
    record.add(replace(report_at(6, 0.5), predicted_allocated_bytes=10))  # nothing was measured
    record.add(replace(report_at(4, 0.5), driver_bytes=800, cap_bytes=200))
    record.add(replace(report_at(7, 0.5), driver_bytes=700, cap_bytes=190))  # in another process
    expected = {"memory_events": ["a", "b", "c"], "peak_bytes": 123, "memory_error": 0.24242}
    expected |= {"driver_bytes": 800, "peak_MiB": 0.0, "cap_bytes": 190}
    assert record.attributes() == expected
    assert MemoryRecord().attributes() == {}


def test_a_label_has_the_first_three_parameters_floats_in_three_digits() -> None:
    params = {"learning_rate": 0.0012345, "num_embeddings": 64, "distance": "cosine", "latent_dim": 8}
    start = replace(started(params), config=TrialConfig.from_flat(params))
    assert label_of("ours", start) == "ours 00007 learning_rate=0.00123 num_embeddings=64 distance=cosine"


# ---- standing --------------------------------------------------------------------------------------------------------


def test_the_eight_best_trials_lead_and_of_equals_the_first() -> None:
    standing = Standing(least_epochs=1)
    assert standing.best is None
    for number, auc in enumerate((0.5, 0.9, 0.7, 0.9, 0.6, 0.8, NAN, 0.3, 0.4, 0.2)):
        assert standing.ended(number, ending(TrialEnd.COMPLETED, auc)) is None
    standing.ended(10, ending(TrialEnd.CRASHED, 0.99))
    standing.ended(11, ending(TrialEnd.COMPLETED, None))
    best = [(0.9, 1), (0.9, 3), (0.8, 5), (0.7, 2), (0.6, 4), (0.5, 0), (0.4, 8), (0.3, 7)]
    assert standing.leaders == best
    assert standing.best == (0.9, 1)
    assert standing.counts[TrialEnd.COMPLETED] == 11
    assert standing.counts[TrialEnd.CRASHED] == 1
    assert sum(standing.counts.values()) == 12


def test_a_stopped_trial_leads_where_it_has_trained_enough_and_does_not_win() -> None:
    standing = Standing(least_epochs=3)
    standing.ended(0, replace(ending(TrialEnd.PRUNED, 0.99), epochs=2))
    standing.ended(1, replace(ending(TrialEnd.PRUNED, 0.9), epochs=3))
    assert standing.kept == [1]
    standing.ended(2, replace(ending(TrialEnd.COMPLETED, 0.7), epochs=9))
    standing.ended(3, replace(ending(TrialEnd.COMPLETED, 0.8), epochs=9))
    assert standing.best == (0.8, 3)
    assert standing.leaders == [(0.9, 1), (0.8, 3), (0.7, 2)]
    assert standing.kept == [3, 1, 2], "the winner first"


def test_a_trial_without_a_model_does_not_lead_once_the_search_was_resumed():
    standing = Standing(least_epochs=1)
    for number in range(LEADERS + 2):
        standing.ended(number, replace(ending(TrialEnd.PRUNED, 0.9 - number / 100), epochs=3))
    standing.resumed({1, LEADERS, LEADERS + 1})
    assert [number for _, number in standing.leaders] == [1, LEADERS, LEADERS + 1]
    standing.ended(LEADERS + 2, replace(ending(TrialEnd.PRUNED, 0.85), epochs=3))
    assert [number for _, number in standing.leaders] == [1, LEADERS + 2, LEADERS, LEADERS + 1]


def crashes(standing: Standing, *reasons: str) -> list[str | None]:
    return [standing.ended(number, ending(TrialEnd.CRASHED, reason=each)) for number, each in enumerate(reasons)]


def test_five_first_failures_of_one_kind_end_a_search_once() -> None:
    standing = Standing(least_epochs=1)
    *first, fifth, sixth = crashes(standing, "no 1", "no 2", "no 3", "no 4", "no 5", "no 6")
    assert first == [None] * 4
    assert fifth == "the first 5 trials all failed in the same way: crashed: no 5"
    assert sixth is None
    assert standing.same_failures
    standing.forget_first_endings()
    assert not standing.same_failures
    assert crashes(standing, "no 7") == [None]


def test_what_did_not_fit_is_no_ending_of_a_first_trial_and_one_that_trained_is() -> None:
    standing = Standing(least_epochs=1)
    standing.ended(0, ending(TrialEnd.OVER_BUDGET, reason="too large"))
    assert crashes(standing, "a", "a", "a", "a", "a")[-1] is not None
    for other in (TrialEnd.COMPLETED, TrialEnd.PRUNED):
        standing = Standing(least_epochs=1)
        standing.ended(0, ending(other, 0.5))
        assert crashes(standing, *"aaaaaa") == [None] * 6
    standing = Standing(least_epochs=1)
    standing.ended(0, ending(TrialEnd.NON_FINITE, reason="a"))
    assert crashes(standing, *"aaaa") == [None] * 4, "the same words of another ending"


def test_five_that_trained_are_no_failure_of_one_kind() -> None:
    standing = Standing(least_epochs=1)
    assert [standing.ended(number, ending(TrialEnd.PRUNED, 0.5)) for number in range(5)] == [None] * 5
    assert not standing.same_failures


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("no space on /tmp/run-1/a.txt", "no space on /home/x/b", True),
        ("at 0x7f3a of 12 bytes", "at 0x11bc of 999 bytes", True),
        ("trial 1a2b3c4d", "trial ffee99aa", True),
        ("no device", "no driver", False),
        ("defaced", "faceted", False),
    ],
)
def test_paths_addresses_identifiers_and_numbers_make_no_other_kind_of_failure(
    one: str, other: str, same: bool
) -> None:
    assert (failure_kind(one) == failure_kind(other)) is same


# ---- draws -----------------------------------------------------------------------------------------------------------


def test_the_smallest_corner_has_the_lowest_numbers_and_the_first_word() -> None:
    space = space_from_text(
        "parameters: {latent_dim: {low: 8, high: 64}, num_embeddings: {choices: [64, 32]}, "
        "distance: {choices: [euclidean, cosine]}, learning_rate: {low: 0.001, high: 0.1, log: true}}"
    )
    corner = smallest(space)
    expected = {"latent_dim": 8, "num_embeddings": 32, "distance": "euclidean", "learning_rate": 0.001}
    assert corner == expected
    assert type(corner["latent_dim"]) is int
    drawn = list(probes(space, 3))
    assert drawn[0] == corner
    assert len(drawn) == 65
    assert list(probes(space, 3)) == drawn
    assert list(probes(space, 4))[1:] != drawn[1:]


def test_a_parameter_whose_condition_does_not_hold_is_left_out() -> None:
    values = {"num_embeddings": 32, "latent_dim": 8, "commitment_cost": 0.1, "learning_rate": 1e-3}
    values |= {"commitment_warmup_start": 0.5}
    assert "commitment_warmup_start" not in active_params(small_space(), values | {"commitment_warmup_epochs": 0})
    assert active_params(small_space(), values | {"commitment_warmup_epochs": 1})["commitment_warmup_start"] == 0.5
    assert list(all_distributions(small_space())) == sorted([*values, "commitment_warmup_epochs"])
