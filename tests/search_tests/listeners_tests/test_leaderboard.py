"""The order of the leaderboard: the winner's rule among completed trials, then those that run, then pruned ones."""

from search.engine.asha import Decision
from search.listeners.leaderboard import PLACES
from tests.search_tests.listeners_tests.test_progress import ended, make, report, start
from trainable.record import TrialEnd, TrialRecord


def numbers(progress):
    return [place.start.number for place in progress.places()]


def test_completed_trials_lead_then_running_ones_and_failures_do_not_compete():
    progress = make()
    trials = [
        (0, 0.90, TrialEnd.PRUNED),
        (1, 0.70, TrialEnd.COMPLETED),
        (2, 0.80, TrialEnd.COMPLETED),
        (3, 0.95, TrialEnd.OUT_OF_MEMORY),
        (4, float("nan"), TrialEnd.COMPLETED),
        (5, 0.85, None),
        (6, 0.70, TrialEnd.COMPLETED),
    ]
    for number, value, end in trials:
        progress.on_start(start(number), resumed=False)
        progress.on_report(number, report(1, value), Decision.CONTINUE)
        if end is not None:
            progress.on_end(start(number), ended(end, 1, value))
    progress.on_start(start(7), resumed=False)  # no epoch yet
    assert numbers(progress) == [2, 1, 6, 5, 0]
    assert [place.end for place in progress.places()][3:] == [None, TrialEnd.PRUNED]


def test_there_are_as_many_places_as_fit_and_those_of_before_a_resume_stay():
    progress = make(num_samples=20)
    earlier = [
        TrialRecord(start(number), (report(1, 0.5), report(2, 0.6 + number / 100)), ended(TrialEnd.COMPLETED, 2))
        for number in range(PLACES)
    ]
    unfinished = TrialRecord(start(9), (report(1, 0.99),), None)
    progress.resume_from(dict.fromkeys(TrialEnd, 0), (0.64, 4), leaders=[*earlier, unfinished])
    assert numbers(progress) == [4, 3, 2, 1, 0]
    progress.on_start(start(10), resumed=False)
    progress.on_report(10, report(1, 0.62), Decision.STOP)
    progress.on_end(start(10), ended(TrialEnd.COMPLETED, 1, 0.62))
    assert numbers(progress) == [4, 3, 2, 10, 1]
