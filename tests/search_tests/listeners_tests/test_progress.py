"""What a search is doing now: counts, the best, epochs expected of a trial, time left; all reckoned by hand."""

from dataclasses import replace

import pytest

from search.engine.asha import Decision
from search.listeners.progress import Leader, Progress, expected_epochs
from search.options import SearchOptions
from tests.search_tests.synthetic import report_at
from trainable.config import TrialConfig
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialStart
from trainable.units import duration_text


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def start(number: int, **params: object) -> TrialStart:
    """Parameters that are no knobs are shown as they are."""
    config = TrialConfig.from_flat({name: value for name, value in params.items() if name in TrialConfig().flat()})
    return TrialStart(number=number, params=params, config=config, plan=None, predicted_bytes=3 * 2**30)


def report(epoch: int, auc: float, **values: object) -> EpochReport:
    return replace(report_at(epoch, auc), **{"epoch_seconds": 2.0, **values})


def ended(end: TrialEnd, epochs: int, auc: float | None = 0.7, reason: str = "") -> TrialOutcome:
    return TrialOutcome(end=end, reason=reason, epochs=epochs, best_auc=auc, final_auc=auc)


def make(*, workers: int = 1, clock: Clock | None = None, **options: object) -> Progress:
    asked = SearchOptions(space="synthetic", **{"num_samples": 6, "max_epochs": 9, "grace_period": 1, **options})
    return Progress(asked, (1, 3), workers, clock or Clock())


@pytest.mark.parametrize(
    ("rungs", "factor", "epochs", "expected"),
    [
        ((), 3, 9, 9.0),
        ((1, 3), 3, 9, 1 + 2 / 3 + 6 / 9),
        ((2, 4, 8), 2, 10, 2 + 2 / 2 + 4 / 4 + 2 / 8),
        ((5,), 4, 5, 5.0),
    ],
)
def test_expected_epochs_of_a_trial(rungs, factor, epochs, expected):
    assert expected_epochs(rungs, factor, epochs) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (0, 1 + 2 / 3 + 6 / 9),
        (1, 2 + 6 / 3),  # the first rung is behind it: two epochs to the next are sure
        (2, 1 + 6 / 3),
        (3, 6.0),  # no rung is left: it trains to the end
        (8, 1.0),
        (9, 0.0),
    ],
)
def test_rungs_that_a_trial_has_passed_stop_it_no_more(done, expected):
    assert expected_epochs((1, 3), 3, 9, done=done) == pytest.approx(expected)


def test_time_left_follows_the_schedule_and_then_what_was_seen():
    progress = make()
    assert progress.seconds_left() is None
    progress.on_start(start(0), resumed=False)
    progress.on_report(0, report(1, 0.6), Decision.CONTINUE)
    # Five trials have not begun, 7/3 epochs each; the one that runs goes on past its rung, 4 more. 2 s an epoch.
    assert progress.seconds_left() == pytest.approx(2.0 * (5 * 7 / 3 + 4))
    progress.on_end(start(0), ended(TrialEnd.PRUNED, 1))
    # The schedule's 7/3 epochs weigh as three trials, the one epoch of the trial that ended as one: (7 + 1) / 4.
    assert progress.seconds_left() == pytest.approx(2.0 * 5 * 2)


def test_one_trial_at_the_end_is_not_shared_by_the_workers():
    """At epoch 10 of 27, past all rungs, 60 s an epoch: 17 minutes, however many workers stand by."""
    options = SearchOptions(space="synthetic", num_samples=1, max_epochs=27, grace_period=1)
    progress = Progress(options, (1, 3, 9), 8, Clock())
    progress.on_start(start(0), resumed=False)
    for epoch in range(1, 11):
        progress.on_report(0, report(epoch, 0.6, epoch_seconds=60.0), Decision.CONTINUE)
    assert progress.seconds_left() == pytest.approx(17 * 60)


def test_a_slow_trial_is_waited_for_at_its_own_pace():
    progress = make(workers=2, num_samples=2)
    for number, epoch, seconds in ((0, 3, 10.0), (1, 8, 1.0)):
        progress.on_start(start(number), resumed=False)
        for each in range(1, epoch + 1):
            progress.on_report(number, report(each, 0.6, epoch_seconds=seconds), Decision.CONTINUE)
    assert progress.seconds_left() == pytest.approx(6 * 10.0)


def test_time_left_is_shared_by_the_slots_and_never_beyond_the_limit():
    clock = Clock()
    one, two = make(clock=clock), make(clock=clock, workers=2, time_limit_seconds=8.0)
    for progress in (one, two):
        progress.on_start(start(0), resumed=False)
        progress.on_report(0, report(3, 0.6), Decision.CONTINUE)
    clock.now += 3
    assert two.seconds_left() == 5.0
    clock.now += 30
    assert two.seconds_left() == 0.0
    assert make(workers=2, clock=clock).seconds_left() is None
    many = make(clock=clock, workers=2)
    many.on_start(start(0), resumed=False)
    many.on_report(0, report(3, 0.6), Decision.CONTINUE)
    assert many.seconds_left() == pytest.approx(one.seconds_left() / 2)


def test_counts_and_best():
    progress = make()
    progress.on_end(start(0), ended(TrialEnd.OVER_BUDGET, 0, None))
    assert progress.ended == 0
    for number, auc in ((1, 0.6), (2, 0.8), (3, 0.7)):
        progress.on_start(start(number), resumed=False)
        progress.on_report(number, report(1, auc), Decision.CONTINUE)
    assert progress.best == Leader(0.8, 2, 1, False)
    progress.on_end(start(2), ended(TrialEnd.CRASHED, 1))
    assert progress.best == Leader(0.7, 3, 1, False), "a trial that failed does not lead"
    assert progress.ended == 1
    assert sorted(progress.running) == [1, 3]
    assert progress.counts[TrialEnd.CRASHED] == progress.counts[TrialEnd.OVER_BUDGET] == 1


def test_the_leader_is_ranked_as_the_winner_is():
    """The last epoch ranks, which may be lower than one before; completed trials lead those that are not."""
    progress = make()
    for number in (0, 1, 2):
        progress.on_start(start(number), resumed=False)
    for number, epoch, auc in ((0, 1, 0.9), (0, 2, 0.6), (1, 1, 0.8)):
        progress.on_report(number, report(epoch, auc), Decision.CONTINUE)
    assert progress.best == Leader(0.8, 1, 1, False)
    progress.on_end(start(1), ended(TrialEnd.PRUNED, 1, 0.8))
    assert progress.best == Leader(0.8, 1, 1, False)
    progress.on_end(start(0), ended(TrialEnd.COMPLETED, 9, 0.6))
    assert progress.best == Leader(0.6, 0, 9, True)
    progress.on_report(2, report(1, 0.95), Decision.CONTINUE)
    assert progress.best == Leader(0.6, 0, 9, True)
    progress.on_end(start(2), ended(TrialEnd.COMPLETED, 9, 0.6))
    assert progress.best == Leader(0.6, 0, 9, True), "of equals the first"


def test_an_auc_that_is_no_number_is_never_the_best():
    progress = make()
    progress.on_start(start(0), resumed=False)
    progress.on_report(0, report(1, float("nan")), Decision.CONTINUE)
    assert progress.best is None
    progress.on_report(0, report(2, 0.6), Decision.CONTINUE)
    assert progress.best == Leader(0.6, 0, 2, False)
    progress.on_report(0, report(3, float("nan")), Decision.CONTINUE)
    assert progress.best is None


def test_after_a_resume_old_endings_count_but_not_for_the_time():
    progress = make()
    counts = {**dict.fromkeys(TrialEnd, 0), TrialEnd.PRUNED: 3, TrialEnd.COMPLETED: 1}
    progress.resume_from(counts, (0.9, 2), {4: 4})
    assert progress.ended == 4
    assert progress.best == Leader(0.9, 2, 9, True)
    assert progress.seconds_left() is None
    progress.on_start(start(4), resumed=True)
    assert progress.running[4].epoch == 4
    progress.on_report(4, report(5, 0.6), Decision.CONTINUE)
    # Of the trial that goes on four epochs are left, of the one that has not begun 7/3.
    assert progress.seconds_left() == pytest.approx(2.0 * (4 + 7 / 3))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (60, "1 min"),
        (3540, "59 min"),
        (3599, "1 h 0 min"),
        (12000, "3 h 20 min"),
    ],
)
def test_durations_as_a_person_says_them(seconds, text):
    assert duration_text(seconds) == text
