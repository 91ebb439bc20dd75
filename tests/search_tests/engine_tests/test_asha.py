"""ASHA's decisions, worked by hand."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.engine.asha import Asha, Decision
from spaces.loader import builtin_spaces, load_space
from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.training.phases import commitment_scale

CONTINUE, STOP = Decision.CONTINUE, Decision.STOP
NAN = float("nan")


def asha(**options: int) -> Asha:
    return Asha(**{"grace_period": 1, "reduction_factor": 3, "max_epochs": 9, **options})


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({}, (1, 3)),
        ({"max_epochs": 10}, (1, 3, 9)),
        ({"max_epochs": 27, "grace_period": 2}, (2, 6, 18)),
        ({"max_epochs": 20, "reduction_factor": 2}, (1, 2, 4, 8, 16)),
        ({"grace_period": 9}, ()),
        ({"max_epochs": 1}, ()),
        ({"longest_warmup": 1}, (2, 6)),
        ({"longest_warmup": 2}, (3,)),
        ({"longest_warmup": 4, "max_epochs": 30}, (5, 15)),
        ({"grace_period": 5, "longest_warmup": 2}, (5,)),
        ({"grace_period": 2, "longest_warmup": 2}, (3,)),
        ({"longest_warmup": 8}, ()),
        ({"longest_warmup": 9}, ()),
    ],
)
def test_rungs_are_grace_times_powers_of_eta(options: dict[str, int], epochs: tuple[int, ...]) -> None:
    assert asha(**options).rung_epochs == epochs


@given(st.integers(1, 50), st.integers(2, 5), st.integers(1, 200), st.integers(0, 50))
def test_no_rung_lies_within_the_longest_warm_up(grace: int, eta: int, most: int, warmup: int) -> None:
    rungs = asha(grace_period=grace, reduction_factor=eta, max_epochs=most, longest_warmup=warmup).rung_epochs
    assert all(grace <= epoch < most for epoch in rungs)
    assert all(warmup == 0 or warmup < epoch for epoch in rungs)
    assert all(later == eta * earlier for earlier, later in pairwise(rungs))
    assert bool(rungs) == (max(grace, warmup + 1 if warmup else 1) < most)


@pytest.mark.parametrize("warmup", [0, 1, 2, 5])
def test_the_first_report_that_is_judged_is_of_an_epoch_at_full_commitment(warmup: int) -> None:
    """The report at epoch r is of the r-th epoch, whose index is r − 1; the one before it may still warm up."""
    config = TrialConfig.from_flat({"commitment_warmup_epochs": warmup, "commitment_warmup_start": 0.0, "epochs": 30})
    first = asha(longest_warmup=warmup, max_epochs=30).rung_epochs[0]
    assert commitment_scale(config, first - 1) == 1.0
    if warmup:
        assert commitment_scale(config, first - 2) < 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grace_period": 3, "max_epochs": 3}, "at epoch 3 (grace period and commitment warm-up), and a trial has 3;"),
        ({"longest_warmup": 2, "max_epochs": 3}, "at epoch 3 "),
        ({"longest_warmup": 8, "max_epochs": 9}, "at epoch 9 "),
        ({"grace_period": 12}, "at epoch 12 "),
        ({}, ""),
        ({"longest_warmup": 7, "max_epochs": 9}, ""),
        ({"max_epochs": 1}, ""),
    ],
)
def test_it_says_so_if_it_will_never_decide(options: dict[str, int], words: str) -> None:
    warning = asha(**options).warning
    assert bool(warning) == bool(words)
    assert words in warning
    assert "\n" not in warning


def test_builtin_spaces_judge_after_their_warm_up() -> None:
    for name in builtin_spaces():
        space = load_space(name)
        search = space.search
        rungs = asha(
            grace_period=search.grace_period,
            reduction_factor=search.reduction_factor,
            max_epochs=search.max_epochs,
            longest_warmup=space.longest_warmup,
        ).rung_epochs
        assert rungs[0] > space.longest_warmup


def test_the_stopping_rule_at_one_rung() -> None:
    """η = 3: of n values seen, the best max(1, ⌊n / 3⌋) go on."""
    scheduler = asha()
    reported = [(0.50, CONTINUE), (0.60, CONTINUE), (0.55, STOP), (0.58, STOP), (0.70, CONTINUE)]  # the best of so far
    reported += [(0.65, CONTINUE)]  # n = 6: the best two are 0.70 and 0.65
    reported += [(0.64, STOP), (0.66, CONTINUE)]  # third; then second again
    reported += [(0.655, CONTINUE)]  # n = 9: the best three are 0.70, 0.66 and 0.655
    reported += [(0.655, CONTINUE), (0.655, CONTINUE)]  # ties with the last that goes on stay
    reported += [(0.6549, STOP)]  # n = 12: four values or more are better
    assert [scheduler.report(number, 1, value) for number, (value, _) in enumerate(reported)] == [
        each[1] for each in reported
    ]


def test_each_rung_compares_with_its_own_values() -> None:
    scheduler = asha(max_epochs=10)
    assert scheduler.report(0, 1, 0.9) is CONTINUE
    assert scheduler.report(0, 2, 0.1) is CONTINUE, "between rungs nobody is stopped"
    assert scheduler.report(0, 3, 0.5) is CONTINUE
    assert scheduler.report(1, 1, 0.95) is CONTINUE
    assert scheduler.report(1, 3, 0.4) is STOP
    assert scheduler.report(0, 9, 0.2) is CONTINUE, "the first at its rung"
    assert [rung.values for rung in scheduler.rungs] == [[0.9, 0.95], [0.4, 0.5], [0.2]]


def test_a_trial_is_recorded_once_a_rung_and_stays_stopped() -> None:
    scheduler = asha()
    scheduler.report(0, 1, 0.9)
    assert scheduler.report(1, 1, 0.5) is STOP
    assert scheduler.report(1, 1, 0.99) is STOP
    assert scheduler.report(1, 2, 0.99) is STOP
    assert scheduler.report(0, 1, 0.1) is CONTINUE
    assert scheduler.rungs[0].values == [0.5, 0.9]


def test_after_a_missed_rung_the_first_report_counts() -> None:
    scheduler = asha(max_epochs=10)
    scheduler.report(0, 1, 0.9)
    assert scheduler.report(1, 2, 0.5) is STOP
    assert scheduler.report(2, 5, 0.95) is CONTINUE
    assert [rung.values for rung in scheduler.rungs] == [[0.5, 0.9, 0.95], [0.95], []]


def test_what_is_no_number_is_the_worst() -> None:
    scheduler = asha()
    assert scheduler.report(0, 1, NAN) is CONTINUE, "the first is the best so far"
    assert scheduler.report(1, 1, 0.1) is CONTINUE
    assert scheduler.report(2, 1, NAN) is STOP
    assert scheduler.report(3, 1, float("-inf")) is STOP
    assert scheduler.report(4, 1, float("inf")) is CONTINUE
    assert scheduler.report(5, 1, NAN) is STOP


def test_a_forgotten_trial_leaves_its_values() -> None:
    scheduler = asha()
    scheduler.report(0, 1, 0.9)
    assert scheduler.report(1, 1, 0.5) is STOP
    scheduler.forget(1)
    scheduler.forget(99)
    assert scheduler.rungs[0].values == [0.5, 0.9]
    assert scheduler.report(2, 1, 0.6) is STOP


def drive(scheduler: Asha, curves: list[list[float]], seed: int) -> dict[int, dict[int, float]]:
    """Trials report in an order that slots might give; what each reported before it was stopped."""
    rng = random.Random(seed)
    reported: dict[int, dict[int, float]] = {number: {} for number in range(len(curves))}
    alive = list(reported)
    while alive:
        number = rng.choice(alive)
        epoch = len(reported[number]) + 1
        value = curves[number][epoch - 1]
        reported[number][epoch] = value
        if scheduler.report(number, epoch, value) is STOP or epoch == scheduler.max_epochs:
            alive.remove(number)
    return reported


CURVES = st.lists(st.lists(st.floats(0, 1) | st.just(NAN), min_size=12, max_size=12), min_size=1, max_size=25)


@given(CURVES, st.integers(0, 1000))
def test_rungs_rebuilt_from_a_study_are_the_live_ones(curves: list[list[float]], seed: int) -> None:
    live = asha(max_epochs=12)
    reported = drive(live, curves, seed)
    rebuilt = asha(max_epochs=12)
    rebuilt.rebuild(reported)
    assert [rung.values for rung in rebuilt.rungs] == [rung.values for rung in live.rungs]
    for number in reported:
        for scheduler in (live, rebuilt):
            scheduler.forget(number)
    value = 0.5
    assert rebuilt.report(999, 1, value) == live.report(999, 1, value)


def test_a_rebuilt_trial_is_not_recorded_again_where_it_passed() -> None:
    scheduler = asha(max_epochs=10)
    scheduler.rebuild({4: {1: 0.5, 2: 0.6}})
    assert scheduler.report(4, 2, 0.6) is CONTINUE
    assert scheduler.report(4, 3, 0.7) is CONTINUE
    assert [rung.values for rung in scheduler.rungs] == [[0.5], [0.7], []]


def test_a_trial_that_still_runs_elsewhere_is_added_as_it_goes_and_only_once() -> None:
    scheduler = asha(max_epochs=10)
    for values in ({1: 0.5}, {1: 0.5, 2: 0.6}, {1: 0.5, 2: 0.6, 3: 0.7}):
        scheduler.rebuild({4: values})
    assert [rung.values for rung in scheduler.rungs] == [[0.5], [0.7], []]


@given(CURVES, st.integers(0, 1000))
def test_the_best_at_a_rung_always_goes_on(curves: list[list[float]], seed: int) -> None:
    scheduler = asha(max_epochs=12)
    reported = drive(scheduler, curves, seed)
    for rung in scheduler.rungs:
        best = [
            number for number, values in reported.items() if values.get(rung.epoch, NAN) == max(rung.values, default=2)
        ]
        assert all(len(reported[number]) > rung.epoch for number in best)


@pytest.mark.parametrize("options", [{"grace_period": 0}, {"max_epochs": 0}, {"reduction_factor": 1}])
def test_numbers_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be at least"):
        asha(**options)
