"""The conductor alone: which trial, go on or stop, how it ended; whatever moment the driver was killed at."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.engine.conductor import Conductor, Decision
from search.engine.feasibility import Feasibility
from search.engine.observation import observation
from search.engine.optuna_trials import frozen
from search.engine.sampler import make_sampler
from search.engine.space_draws import distributions_of
from search.options import SearchOptions
from search.store.study import SearchStudy
from spaces.loader import space_from_text
from tests.search_tests.synthetic import SPACE, conductor_of, make_conductor, report_at, short_warmup_space, small_space
from trainable.config import TrialConfig
from trainable.errors import BudgetError, ConfigError
from trainable.execution_plan import ExecutionPlan, MemoryPlan
from trainable.record import EpochReport, RunFolder, TrialEnd, TrialOutcome, TrialStart

CONTINUE, STOP, SUSPEND = Decision.CONTINUE, Decision.STOP, Decision.SUSPEND


def begin(conductor: Conductor) -> int:
    start = conductor.next_trial()
    assert start is not None
    return start.number


def report_epochs(conductor: Conductor, number: int, *aucs: float) -> list[Decision]:
    """Decisions after the epochs that follow those already reported."""
    first = len(conductor.store.folder.read_trial(number).epochs) + 1
    return [conductor.report(number, report_at(first + index, auc)) for index, auc in enumerate(aucs)]


def complete(conductor: Conductor, auc: float) -> int:
    """A trial that went through all epochs to that value."""
    number = begin(conductor)
    assert report_epochs(conductor, number, *[auc] * conductor.options.max_epochs)[-1] is STOP
    conductor.finish(number, conductor.outcome(number))
    return number


class RecordingListener:
    """A listener that records every call."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        self.words.append(f"{'resumed' if resumed else 'start'} {start.number}")

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        self.words.append(f"epoch {report.epoch} of {number}: {decision}")

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        self.words.append(f"end {start.number}: {outcome.end}")


def test_a_trial_is_started_told_and_ended_in_folder_study_and_listener(tmp_path: Path) -> None:
    listener_log = RecordingListener()
    conductor = make_conductor(tmp_path, max_epochs=3, listener=listener_log)
    start = conductor.next_trial()
    assert start is not None
    assert start.config.phase.epochs == 3
    assert start.config.seed == SearchOptions(space="s").trial_seed(0)
    assert start.plan == ExecutionPlan(micro_batch_clips=1)
    assert tuple(conductor.running) == (0,)
    assert report_epochs(conductor, 0, 0.6, 0.7, 0.65) == [CONTINUE, CONTINUE, STOP]
    conductor.finish(0, conductor.outcome(0))
    record = conductor.store.folder.read_trial(0)
    assert record.start == start
    assert [each.validation_auc for each in record.epochs] == [0.6, 0.7, 0.65]
    assert record.outcome == TrialOutcome(end=TrialEnd.COMPLETED, reason="", epochs=3, best_auc=0.7, final_auc=0.65)
    (trial,) = conductor.store.study.trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.65)
    assert listener_log.words[:2] == ["start 0", "epoch 1 of 0: continue"]
    assert listener_log.words[-2:] == ["epoch 3 of 0: stop", "end 0: completed"]
    assert conductor.standing.counts[TrialEnd.COMPLETED] == 1
    assert conductor.running == {}


def test_the_winner_is_the_best_last_epoch_and_of_equals_the_first(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, max_epochs=2, grace_period=2)
    for auc in (0.7, 0.8, 0.8, 0.6):
        complete(conductor, auc)
    assert conductor.best == (0.8, 1)
    number = begin(conductor)
    report_epochs(conductor, number, 0.99, 0.5)
    conductor.finish(number, conductor.outcome(number))
    number = begin(conductor)
    report_epochs(conductor, number, 0.99)
    conductor.finish(number, conductor.failed(number, TrialEnd.CRASHED, "gone"))
    assert conductor.best == (0.8, 1)
    assert make_conductor(tmp_path, max_epochs=2, grace_period=2).best == (0.8, 1), "also after a resume"


def test_asha_stops_the_weak_and_says_why(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, max_epochs=9, grace_period=3)
    complete(conductor, 0.8)
    number = begin(conductor)
    assert report_epochs(conductor, number, 0.5, 0.5, 0.5) == [CONTINUE, CONTINUE, STOP]
    outcome = conductor.outcome(number)
    assert outcome.end is TrialEnd.PRUNED
    assert outcome.reason == "not among the best 1/3 of the trials seen at epoch 3"
    conductor.finish(number, outcome)
    assert conductor.store.study.trials()[number].state == TrialState.PRUNED


def test_no_trial_is_judged_while_another_may_still_warm_up(tmp_path: Path) -> None:
    """The longest warm-up of the space is two epochs, the grace period one."""
    conductor = make_conductor(tmp_path, grace_period=1, reduction_factor=2, max_epochs=9, space=small_space())
    assert conductor.asha.rung_epochs == (3, 6)


@pytest.mark.parametrize("end", [TrialEnd.OUT_OF_MEMORY, TrialEnd.NON_FINITE, TrialEnd.CRASHED])
def test_each_failure_keeps_its_word_and_one_line_of_reason(tmp_path: Path, end: TrialEnd) -> None:
    conductor = make_conductor(tmp_path)
    number = begin(conductor)
    report_epochs(conductor, number, float("nan"), 0.6)
    outcome = conductor.failed(number, end, "first line\n  second line " + "x" * 1000)
    assert outcome.reason.startswith("first line second line xxx")
    assert len(outcome.reason) == 500
    assert (outcome.best_auc, outcome.final_auc, outcome.epochs) == (0.6, 0.6, 2)
    conductor.finish(number, outcome)
    assert conductor.standing.counts[end] == 1
    assert conductor.store.folder.read_trial(number).outcome == outcome
    trial = conductor.store.study.trials()[number]
    assert trial.constraints == {"failure": 1.0}
    assert trial.user_attrs["outcome"]["end"] == end.value
    assert conductor.sampler.history.kept_feasible == 0


def test_an_ending_is_told_once_and_an_epoch_once(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, grace_period=2)
    complete(conductor, 0.8)
    number = begin(conductor)
    assert report_epochs(conductor, number, 0.5, 0.5) == [CONTINUE, STOP]
    assert conductor.report(number, report_at(1, 0.99)) is CONTINUE
    assert conductor.report(number, report_at(2, 0.99)) is STOP, "the decision stands"
    assert len(conductor.store.folder.read_trial(number).epochs) == 2
    assert conductor.asha.rungs[0].values == [0.5, 0.8]
    conductor.finish(number, conductor.outcome(number))
    with pytest.raises(KeyError):
        conductor.finish(number, conductor.failed(number, TrialEnd.CRASHED, "again"))
    with pytest.raises(KeyError):
        conductor.report(number, report_at(3, 0.5))
    with pytest.raises(KeyError):
        conductor.report(77, report_at(1, 0.5))


def test_restarts_are_counted_and_limited(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, max_failures=2)
    number = begin(conductor)
    assert [conductor.retry(number) for _ in range(4)] == [True, True, False, False]
    assert conductor.failed(number, TrialEnd.CRASHED, "").failures == 2
    assert conductor.failed(number, TrialEnd.CRASHED, "").reason == "crashed"
    assert not make_conductor(tmp_path / "none", max_failures=0).retry(0)


def test_after_the_time_limit_nothing_starts_and_what_runs_stays_unfinished_and_resumes(tmp_path: Path) -> None:
    now = [100.0]
    conductor = make_conductor(tmp_path, time_limit_seconds=60.0, clock=lambda: now[0])
    number = begin(conductor)
    now[0] = 159.9
    assert report_epochs(conductor, number, 0.9) == [CONTINUE]
    now[0] = 160.0
    assert conductor.next_trial() is None
    assert conductor.exhausted
    assert not conductor.done
    assert report_epochs(conductor, number, 0.99) == [SUSPEND]
    assert conductor.done
    assert list(conductor.running) == [number]
    assert conductor.stop_reason == "the time limit of 60 s was reached"
    resumed = make_conductor(tmp_path)
    assert [start.number for start in resumed.unfinished()] == [number]
    assert resumed.running[number].values == {1: 0.9, 2: 0.99}
    assert (resumed.stop_reason, resumed.done) == (None, False)


def test_a_search_at_its_time_limit_still_ends_what_has_ended(tmp_path: Path) -> None:
    now = [0.0]
    conductor = make_conductor(tmp_path, time_limit_seconds=1.0, clock=lambda: now[0])
    first_rung, epochs = conductor.asha.rung_epochs[0], conductor.options.max_epochs
    good, poor, last = (begin(conductor) for _ in range(3))
    report_epochs(conductor, last, *[0.9] * (epochs - 1))
    report_epochs(conductor, poor, *[0.5] * (first_rung - 1))
    now[0] = 1.0
    assert report_epochs(conductor, poor, 0.5) == [STOP]
    assert conductor.outcome(poor).end is TrialEnd.PRUNED
    assert conductor.outcome(poor).reason.startswith("not among the best 1/")
    assert report_epochs(conductor, last, 0.9) == [STOP]
    assert conductor.outcome(last).end is TrialEnd.COMPLETED
    assert report_epochs(conductor, good, 0.95) == [SUSPEND]


def test_a_stopped_search_keeps_its_first_reason(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path)
    number = begin(conductor)
    conductor.stop("the disk is full")
    conductor.stop("another reason")
    assert conductor.next_trial() is None
    assert report_epochs(conductor, number, 0.9) == [SUSPEND]
    assert conductor.stop_reason == "the disk is full"


def test_no_more_trials_start_than_were_asked_for(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, num_samples=3, max_epochs=1)
    numbers = [begin(conductor) for _ in range(3)]
    assert conductor.next_trial() is None
    assert conductor.started == 3
    for number in numbers:
        report_epochs(conductor, number, 0.5)
        conductor.finish(number, conductor.outcome(number))
    assert conductor.done
    assert make_conductor(tmp_path, num_samples=3, max_epochs=1).next_trial() is None
    assert begin(make_conductor(tmp_path, num_samples=4, max_epochs=1)) == 3


def test_a_search_that_has_become_flat_starts_no_more_trials_and_ends_those_that_run(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, num_samples=40, max_epochs=1, until_flat=0.002)
    for _ in range(17):
        complete(conductor, 0.9)
    last, running = begin(conductor), begin(conductor)
    assert not conductor.exhausted, "seventeen trials are too few to tell"
    assert report_epochs(conductor, last, 0.9) == [STOP]
    conductor.finish(last, conductor.outcome(last))
    assert conductor.next_trial() is None
    assert not conductor.done
    assert report_epochs(conductor, running, 0.95) == [STOP], "it goes on to its end"
    conductor.finish(running, conductor.outcome(running))
    assert conductor.standing.expected_gain == pytest.approx((0.95 - 0.9) / 8 * 10 / 19)
    assert begin(conductor) == 19, "a better trial is a reason to go on"


def test_a_flat_search_is_flat_when_resumed_unless_more_is_asked(tmp_path: Path) -> None:
    options = {"num_samples": 40, "max_epochs": 1}
    conductor = make_conductor(tmp_path, until_flat=0.002, **options)
    for _ in range(18):
        complete(conductor, 0.9)
    assert conductor.done
    assert conductor.stop_reason is None
    assert make_conductor(tmp_path, until_flat=0.002, **options).done
    assert begin(make_conductor(tmp_path, until_flat=0.0, **options)) == 18


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_a_budget_that_nothing_fits_names_the_one_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"fits 100 B: .* needs 256 B .* give --gpu-memory-budget at least 1MiB"):
        make_conductor(tmp_path / "a", budget_bytes=100).next_trial()
    assert make_conductor(tmp_path / "b", budget_bytes=256).next_trial() is not None


def test_whether_anything_fits_is_asked_about_the_same_configurations_of_a_seed(tmp_path: Path) -> None:
    def asked(name: str, seed: int) -> list[TrialConfig]:
        conductor, seen = make_conductor(tmp_path / name, budget_bytes=100, seed=seed), []

        def nothing_fits(config: TrialConfig) -> MemoryPlan:
            seen.append(config)
            return MemoryPlan(ExecutionPlan(micro_batch_clips=1), 2000 - len(seen), False, "too large")

        conductor.feasibility = Feasibility(conductor.space, budget_bytes=100, plans=nothing_fits)
        with pytest.raises(BudgetError, match="nothing in space"):
            conductor.next_trial()
        return seen

    once = asked("a", 1)
    assert once == asked("b", 1)
    assert once != asked("c", 2)


def test_every_started_trial_fits(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, budget_bytes=1024, max_epochs=1)
    asked = [1]  # the smallest corner, before the first proposal
    for index in range(8):
        start = conductor.next_trial()
        assert start is not None
        assert 0 < start.predicted_bytes <= 1024
        asked.append(conductor.feasibility.draws_asked)
        report_epochs(conductor, start.number, 0.5 + index / 100)
        conductor.finish(start.number, conductor.outcome(start.number))
    assert conductor.standing.counts[TrialEnd.OVER_BUDGET] == 0
    draws = [trial.user_attrs["draws"] for trial in conductor.store.study.trials()]
    assert draws == [now - before for before, now in itertools.pairwise(asked)], "each candidate asked about is kept"
    assert sum(draws) > len(draws), "some did not fit"


def test_what_does_not_fit_is_recorded_not_counted_and_the_search_gives_up_in_time(tmp_path: Path) -> None:
    space = space_from_text(SPACE.replace("parameters:", "parameters:\n  width: {low: 0.25, high: 4.0}"), "wide")
    conductor = make_conductor(tmp_path, budget_bytes=1000, space=space)

    def only_the_corner(config: TrialConfig) -> MemoryPlan:
        fits = config.model.width == 0.25
        return MemoryPlan(ExecutionPlan(micro_batch_clips=1), 500 if fits else 2000, fits, "" if fits else "too large")

    conductor.feasibility = Feasibility(space, budget_bytes=1000, plans=only_the_corner)
    with pytest.raises(BudgetError, match=r"hardly anything in the space fits 1000 B: .* draws"):
        conductor.next_trial()
    assert conductor.started == 0
    assert conductor.standing.counts[TrialEnd.OVER_BUDGET] == 20
    records = conductor.store.folder.read_trials()
    assert len(records) == 20
    assert {record.outcome.end for record in records if record.outcome} == {TrialEnd.OVER_BUDGET}
    assert all(trial.constraints["memory"] > 0 for trial in conductor.store.study.trials())
    resumed = make_conductor(tmp_path, budget_bytes=1000)
    assert resumed.standing.counts[TrialEnd.OVER_BUDGET] == 20
    assert resumed.started == 0


# ---- resume ----------------------------------------------------------------------------------------------------------


def test_a_resumed_search_proposes_what_the_uninterrupted_one_would(tmp_path: Path) -> None:
    def go(path: Path, *, interrupted: bool) -> list[Mapping[str, Any]]:
        conductor = make_conductor(path, num_samples=14, max_epochs=2, grace_period=2, seed=3)
        params = []
        for index in range(14):
            if interrupted:
                conductor = make_conductor(path, num_samples=14, max_epochs=2, grace_period=2, seed=3)
            start = conductor.next_trial()
            assert start is not None
            params.append({**start.params, "seed": start.config.seed})
            report_epochs(conductor, start.number, 0.5, 0.5 + (index * 7 % 14) / 100)
            conductor.finish(start.number, conductor.outcome(start.number))
        return params

    assert go(tmp_path / "a", interrupted=True) == go(tmp_path / "b", interrupted=False)


def test_killed_between_study_and_folder_everything_is_brought_together(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, grace_period=2)
    complete(conductor, 0.6)
    number = begin(conductor)
    report_epochs(conductor, number, 0.7)
    folder = conductor.store.folder
    folder.append_epoch(number, report_at(2, 0.75))  # in the folder, not yet in the study
    ended = folder.trial_path(0)
    (ended / "end.json").unlink()  # in the study, not yet in the folder
    another = TrialStart(number=0, params={}, config=TrialConfig(seed=1), plan=None, predicted_bytes=0)
    conductor.store.study.start(another, {})  # no folder yet
    resumed = make_conductor(tmp_path, grace_period=2)
    assert (ended / "end.json").exists()
    assert folder.read_trial(number + 1).epochs == ()
    listener_log = RecordingListener()
    resumed.listener = listener_log
    assert [start.number for start in resumed.unfinished()] == [number, number + 1]
    assert listener_log.words == [f"resumed {number}", f"resumed {number + 1}"]
    assert resumed.unfinished() == [], "given out once"
    assert resumed.store.study.trials()[number].intermediate_values == {1: 0.7, 2: 0.75}
    assert resumed.started == 3
    assert resumed.asha.rungs[0].values == [0.6, 0.75], "the rung at epoch 2"
    assert report_epochs(resumed, number, 0.8) == [CONTINUE]


def test_a_word_of_an_ending_without_its_state_is_finished(tmp_path: Path) -> None:
    """As versions left it that wrote the two apart."""
    conductor = make_conductor(tmp_path)
    number = begin(conductor)
    report_epochs(conductor, number, 0.7)
    outcome = conductor.failed(number, TrialEnd.NON_FINITE, "loss is nan")
    trial_id = conductor.store.study.trials()[number]._trial_id
    storage = conductor.store.study.optuna_study._storage
    storage.set_trial_user_attr(trial_id, "outcome", {**outcome.__dict__, "end": outcome.end.value})
    resumed = make_conductor(tmp_path)
    assert resumed.unfinished() == []
    assert resumed.store.folder.read_trial(number).outcome == outcome
    assert resumed.store.study.trials()[number].state == TrialState.PRUNED
    assert resumed.standing.counts[TrialEnd.NON_FINITE] == 1


def test_killed_after_the_last_epoch_the_trial_is_complete(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, max_epochs=2, grace_period=2)
    number = begin(conductor)
    report_epochs(conductor, number, 0.6, 0.7)
    resumed = make_conductor(tmp_path, max_epochs=2, grace_period=2)
    assert resumed.unfinished() == []
    assert resumed.best == (0.7, number)
    assert resumed.store.study.trials()[number].state == TrialState.COMPLETE


def test_killed_before_it_could_say_stop_the_trial_is_pruned(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, grace_period=2)
    complete(conductor, 0.9)
    number = begin(conductor)
    assert report_epochs(conductor, number, 0.5, 0.5) == [CONTINUE, STOP]
    resumed = make_conductor(tmp_path, grace_period=2)
    assert resumed.unfinished() == []
    assert resumed.standing.counts[TrialEnd.PRUNED] == 1
    assert resumed.running == {}
    assert resumed.asha.rungs[0].values == [0.5, 0.9], "not recorded twice"


def test_a_trial_that_was_let_go_on_goes_on_after_a_kill_though_better_ones_have_come(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, grace_period=2)
    early, late = begin(conductor), begin(conductor)
    assert report_epochs(conductor, early, 0.5, 0.5) == [CONTINUE, CONTINUE], "the first is the best so far"
    assert report_epochs(conductor, late, 0.9, 0.9) == [CONTINUE, CONTINUE]
    resumed = make_conductor(tmp_path, grace_period=2)
    assert [start.number for start in resumed.unfinished()] == [early, late]
    assert report_epochs(resumed, early, 0.95) == [CONTINUE]


def test_a_search_that_ended_by_the_same_failure_may_be_tried_again(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, num_samples=20)
    for _ in range(5):
        number = begin(conductor)
        conductor.finish(number, conductor.failed(number, TrialEnd.CRASHED, f"no device {number}"))
    assert conductor.next_trial() is None
    assert "first 5 trials all failed in the same way" in str(conductor.stop_reason)
    resumed = make_conductor(tmp_path, num_samples=20)
    assert resumed.stop_reason is None
    assert resumed.next_trial() is not None


def test_different_failures_do_not_end_the_search(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, num_samples=20)
    for reason in ("a", "b", "a", "b", "a", "b", "a"):
        number = begin(conductor)
        conductor.finish(number, conductor.failed(number, TrialEnd.CRASHED, reason))
    assert conductor.stop_reason is None


# ---- several drivers -------------------------------------------------------------------------------------------------


def driver(folder: Path, name: str) -> Conductor:
    study = SearchStudy(f"sqlite:///{folder / 'shared.db'}", "shared", name, shared=True)
    return make_conductor(folder / name, study=study, grace_period=2, max_epochs=3, num_samples=3)


def test_drivers_of_one_study_learn_from_each_other(tmp_path: Path) -> None:
    mine, theirs = driver(tmp_path, "mine"), driver(tmp_path, "theirs")
    complete(theirs, 0.9)
    number = begin(mine)
    assert number == 1
    assert mine.sampler.history.finished == 1
    assert report_epochs(mine, number, 0.5, 0.5) == [CONTINUE, STOP], "judged beside the other driver's trial"
    mine.finish(number, mine.outcome(number))
    assert mine.best is None, "each names the winner among its own"
    assert mine.started == 1
    assert [record.number for record in mine.store.folder.read_trials()] == [1]
    again = driver(tmp_path, "mine")
    assert again.started == 1
    assert again.sampler.history.finished == 2
    assert again.asha.rungs[0].values == [0.5, 0.9]


def test_a_driver_compares_with_trials_that_another_one_still_runs(tmp_path: Path) -> None:
    mine, theirs = driver(tmp_path, "mine"), driver(tmp_path, "theirs")
    asked = optuna.create_study(storage=f"sqlite:///{tmp_path / 'shared.db'}", study_name="shared", load_if_exists=True)
    asked.ask()  # another program's, which has no parameters yet
    running = begin(theirs)
    report_epochs(theirs, running, 0.9, 0.9)
    first = begin(mine)
    assert report_epochs(mine, first, 0.5, 0.5) == [CONTINUE, STOP], "judged beside what runs elsewhere"
    assert {trial.number: trial.state for trial in mine.sampler.history.trials()} == {
        running: TrialState.RUNNING,
        first: TrialState.RUNNING,
    }
    mine.finish(first, mine.outcome(first))
    begin(mine)
    assert mine.asha.rungs[0].values == [0.5, 0.9], "not added again"
    again = driver(tmp_path, "mine")
    begin(again)
    assert again.asha.rungs[0].values == [0.5, 0.9]


def test_trials_have_seeds_of_their_own() -> None:
    seeds = {SearchOptions(space="s", seed=seed).trial_seed(index) for seed in range(20) for index in range(100)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert SearchOptions(space="s", seed=1).trial_seed(2) == SearchOptions(space="s", seed=1).trial_seed(2)


def test_what_memory_did_reaches_the_study_with_the_ending_also_over_a_kill(tmp_path: Path) -> None:
    """Two recoveries, one of them after a change of driver; the largest error counts, and a CPU's trial has none."""
    first = make_conductor(tmp_path / "run")
    number, silent = begin(first), begin(first)
    measured = {"peak_bytes": 110, "predicted_allocated_bytes": 100}
    first.report(number, replace(report_at(1, 0.5), events=("out of memory under (8 clips)",), **measured))
    first.report(silent, report_at(1, 0.5))
    second = make_conductor(tmp_path / "run")
    second.report(number, replace(report_at(2, 0.6), events=("out of memory under (4 clips)",), peak_bytes=90))
    for each in (number, silent):
        second.finish(each, second.failed(each, TrialEnd.OUT_OF_MEMORY, "no plan is smaller"))
    attrs = second.store.study.trials()[number].user_attrs
    assert attrs["memory_events"] == ["out of memory under (8 clips)", "out of memory under (4 clips)"]
    assert (attrs["peak_bytes"], attrs["memory_error"]) == (110, pytest.approx(0.1))
    assert not {"memory_events", "peak_bytes", "memory_error"} & set(second.store.study.trials()[silent].user_attrs)


def test_a_started_trial_says_how_far_it_is_within_the_budget(tmp_path: Path) -> None:
    """log(predicted / budget): 0 at the budget, below it where there is room; also among what the sampler knows."""
    conductor = make_conductor(tmp_path / "a", budget_bytes=4096, num_samples=2)
    number = complete(conductor, 0.7)
    trial = conductor.store.study.trials()[number]
    assert trial.constraints == {"memory": pytest.approx(math.log(trial.user_attrs["predicted_bytes"] / 4096))}
    assert trial.constraints["memory"] <= 0
    assert [each.constraints for each in conductor.sampler.history.trials()] == [trial.constraints]
    free = make_conductor(tmp_path / "b")
    begin(free)
    assert free.store.study.trials()[0].constraints == {}


def test_restarts_are_still_counted_after_a_change_of_driver(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, max_failures=2)
    number = begin(conductor)
    report_epochs(conductor, number, 0.6)
    assert conductor.retry(number)
    resumed = make_conductor(tmp_path, max_failures=2)
    assert resumed.running[number].failures == 1
    assert resumed.running[number].epoch == 1
    assert [resumed.retry(number) for _ in range(2)] == [True, False]
    assert make_conductor(tmp_path, max_failures=2).failed(number, TrialEnd.CRASHED, "x").failures == 2
    assert resumed.outcome(number).failures == 2


def test_a_trial_that_the_space_no_longer_contains_goes_on_and_teaches_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    conductor = make_conductor(tmp_path, max_epochs=2, grace_period=2)
    ended, number = complete(conductor, 0.7), begin(conductor)
    narrow = space_from_text(SPACE.replace("{choices: [32, 64, 128, 256]}", "{choices: [31]}"), "synthetic")
    resumed = make_conductor(tmp_path, max_epochs=2, grace_period=2, space=narrow)
    assert [start.number for start in resumed.unfinished()] == [number]
    assert f"trial {number} resumes with its original parameters" in caplog.text
    assert resumed.sampler.history.trials() == []
    assert resumed.best == (0.7, ended)
    report_epochs(resumed, number, 0.8, 0.9)
    resumed.finish(number, resumed.outcome(number))
    assert resumed.sampler.history.trials() == []
    assert resumed.best == (0.9, number)
    again = resumed.next_trial()
    assert again is not None
    assert again.params["num_embeddings"] == 31


def test_given_parameters_are_proposed_first_then_what_the_sampler_of_that_seed_draws(tmp_path: Path) -> None:
    space = short_warmup_space()
    given = {"num_embeddings": 64, "latent_dim": 16, "commitment_cost": 0.2, "commitment_warmup_epochs": 0}
    given["learning_rate"] = 2e-3
    options = SearchOptions(space="synthetic", num_samples=9, max_epochs=9, seed=5, startup_trials=4, local=True)
    folder = RunFolder(tmp_path)
    study = SearchStudy.in_folder(folder.study_path, "given")
    conductor = conductor_of(folder, study, space, options, initial=[given])
    alone = make_sampler("tpe", space, seed=5, startup_trials=4, initial=[given])
    for index in range(9):
        start = conductor.next_trial()
        assert start is not None
        assert start.params == alone.suggest(index, lambda params: True).params
        assert (index == 0) == (start.params == given)
        alone.update(frozen(index, TrialState.RUNNING, start.params, distributions_of(space, start.params)))
        report_epochs(conductor, start.number, *[0.5 + index / 100] * 9)
        outcome = (
            conductor.failed(start.number, TrialEnd.CRASHED, "x") if index == 3 else conductor.outcome(start.number)
        )
        conductor.finish(start.number, outcome)
        values = dict.fromkeys(range(1, 10), 0.5 + index / 100)
        alone.update(observation(index, start.params, distributions_of(space, start.params), values, outcome))


def test_a_sampler_that_leaves_the_space_is_an_error_that_names_it(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path)
    inside = conductor.sampler.suggest(0, lambda params: True)
    beyond = replace(inside, params={**inside.params, "latent_dim": 65})
    conductor.sampler.suggest = lambda index, fits: beyond  # type: ignore[method-assign]
    with pytest.raises(
        ConfigError, match=r"the sampler tpe proposed \{.*'latent_dim': 65.*\}, which space 'synthetic'"
    ):
        conductor.next_trial()
    assert conductor.started == 0


def test_what_does_not_fit_is_told_and_teaches_nothing_and_a_time_limit_ends_the_asking(tmp_path: Path) -> None:
    space = space_from_text(SPACE.replace("parameters:", "parameters:\n  width: {low: 0.25, high: 4.0}"), "wide")
    now, heard = [0.0], RecordingListener()
    options = {"budget_bytes": 1000, "time_limit_seconds": 7.0, "space": space}
    conductor = make_conductor(tmp_path, clock=lambda: now[0], listener=heard, **options)

    def a_second_each(config: TrialConfig) -> MemoryPlan:
        now[0] += 1.0
        fits = config.model.width == 0.25
        return MemoryPlan(ExecutionPlan(micro_batch_clips=1), 500 if fits else 2000, fits, "" if fits else "too large")

    conductor.feasibility = Feasibility(space, budget_bytes=1000, plans=a_second_each)
    conductor.feasibility.fits = lambda params: True  # type: ignore[method-assign]
    assert conductor.next_trial() is None
    assert conductor.stop_reason == "the time limit of 7 s was reached"
    assert heard.words == [f"end {number}: over_budget" for number in range(7)]
    assert conductor.sampler.history.trials() == []
    assert conductor.done
    record = conductor.store.folder.read_trial(3)
    assert record.outcome == TrialOutcome(
        end=TrialEnd.OVER_BUDGET, reason="too large", epochs=0, best_auc=None, final_auc=None
    )
    seeds = {each.start.config.seed for each in conductor.store.folder.read_trials()}
    assert seeds == {SearchOptions(space="s").trial_seed(index) for index in range(7)}, "each proposal has its own"


def test_one_that_fits_begins_the_count_of_those_that_do_not_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.engine.conductor.OVER_BUDGET_IN_A_ROW", 3)
    conductor = make_conductor(tmp_path, budget_bytes=1000, num_samples=2)
    answers = iter([False] * 2 + [True] + [False] * 3)

    def by_turns(config: TrialConfig) -> MemoryPlan:
        fits = next(answers)
        return MemoryPlan(ExecutionPlan(micro_batch_clips=1), 500 if fits else 2000, fits, "" if fits else "too large")

    conductor.feasibility.require = lambda candidates: None  # type: ignore[method-assign]
    conductor.feasibility.fits = lambda params: True  # type: ignore[method-assign]
    conductor.feasibility.plan = by_turns  # type: ignore[method-assign]
    assert begin(conductor) == 2
    with pytest.raises(BudgetError, match="hardly anything"):
        conductor.next_trial()
    assert conductor.standing.counts[TrialEnd.OVER_BUDGET] == 5
