"""A search resumes from what it finds: a lost study is rebuilt from the folder, other spaces are tolerated."""

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from search.engine.conductor import Conductor
from search.engine.sampler import Proposal
from search.engine.space_draws import smallest
from search.runners.local import LocalRunner
from search.store.study import SearchStudy
from spaces.loader import space_from_text
from tests.search_tests.synthetic import SPACE, SyntheticTrial, make_conductor, report_at
from trainable.errors import RunError
from trainable.execution_plan import ExecutionPlan, MemoryPlan
from trainable.record import RunFolder, TrialEnd


def drive(conductor: Conductor, factory: Any = SyntheticTrial) -> Conductor:
    LocalRunner(conductor, store=conductor.store, options=conductor.options, trial_factory=factory).run()
    return conductor


class Interrupted(SyntheticTrial):
    """Ctrl-C after the first epoch of trial 3."""

    def step(self):
        if self.start.number == 3 and self.epoch == 1:
            raise KeyboardInterrupt
        return super().step()


def interrupted(path: Path, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        drive(make_conductor(path, **options), Interrupted)


def lose_study(path: Path) -> None:
    for file in path.glob("study.db*"):
        file.unlink()


def reported(path: Path) -> list[list[int]]:
    """Epochs of each trial's file as they stand there, repetitions included."""
    found = []
    for record in RunFolder(path).read_trials():
        lines = (RunFolder(path).trial_path(record.number) / "epochs.jsonl").read_text().splitlines()
        assert len(lines) == len(record.epochs), "an epoch was reported twice"
        found.append([report.epoch for report in record.epochs])
    return found


def table(path: Path) -> list[Any]:
    return [
        (record.start.params, record.outcome, [report.validation_auc for report in record.epochs])
        for record in RunFolder(path).read_trials()
    ]


def test_a_lost_study_is_made_again_of_the_folder_and_the_search_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"num_samples": 12, "max_epochs": 3, "grace_period": 1, "concurrency": 2}
    interrupted(tmp_path / "cut/run", **options)
    shutil.copytree(tmp_path / "cut", tmp_path / "whole")
    drive(make_conductor(tmp_path / "whole/run", **options))
    before = make_conductor(tmp_path / "cut/run", **options).store.study.trials()
    lose_study(tmp_path / "cut/run")
    conductor = make_conductor(tmp_path / "cut/run", **options)
    assert f"lacks {len(before)} of the trials" in caplog.text
    after = conductor.store.study.trials()
    for name in ("number", "state", "params", "distributions", "intermediate_values", "constraints"):
        assert [getattr(trial, name) for trial in after] == [getattr(trial, name) for trial in before], name
    for name in ("run", "config", "plan", "predicted_bytes", "end", "reason", "outcome"):
        assert [trial.user_attrs.get(name) for trial in after] == [trial.user_attrs.get(name) for trial in before], name
    drive(conductor)
    assert table(tmp_path / "cut/run") == table(tmp_path / "whole/run")
    reported(tmp_path / "cut/run")
    lose_study(tmp_path / "cut/run")
    ended = make_conductor(tmp_path / "cut/run", **options)
    assert ended.done
    assert ended.best == conductor.best
    assert all(trial.state.is_finished() for trial in ended.store.study.trials())


def test_what_was_over_budget_repels_the_sampler_after_the_study_was_lost_too(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, budget_bytes=1000)
    params = smallest(conductor.space)
    choice = MemoryPlan(ExecutionPlan(micro_batch_clips=1), 2000, False, "too large")
    config = conductor.space.config(params, epochs=9)
    conductor._record_over_budget(Proposal(params, False, 1), config, choice)
    lose_study(tmp_path)
    again = make_conductor(tmp_path, budget_bytes=1000)
    (trial,) = again.store.study.trials()
    assert trial.state == TrialState.PRUNED
    assert trial.constraints["memory"] > 0
    assert again.started == 0
    assert again.standing.counts[TrialEnd.OVER_BUDGET] == 1


def test_an_older_study_is_given_the_trials_that_came_later(tmp_path: Path) -> None:
    options = {"max_epochs": 2, "grace_period": 2}
    conductor = drive(make_conductor(tmp_path / "run", num_samples=3, **options))
    conductor.store.study._writer._storage.engine.dispose()
    shutil.copy(tmp_path / "run/study.db", tmp_path / "old.db")
    drive(make_conductor(tmp_path / "run", num_samples=6, **options)).store.study._writer._storage.engine.dispose()
    lose_study(tmp_path / "run")
    shutil.copy(tmp_path / "old.db", tmp_path / "run/study.db")
    ended = make_conductor(tmp_path / "run", num_samples=6, **options)
    assert ended.done
    assert len(ended.store.study.trials()) == 6
    assert reported(tmp_path / "run") == [[1, 2]] * 6


def test_numbers_that_another_run_has_taken_are_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    drive(make_conductor(tmp_path / "run", num_samples=2, max_epochs=1))
    before = table(tmp_path / "run")
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    theirs = make_conductor(tmp_path / "theirs", study=SearchStudy(url, "shared", "theirs", shared=True))
    theirs.next_trial()
    with pytest.raises(RunError, match=r"shared\.db does not hold trial 0 of .*run, and its number is taken"):
        make_conductor(tmp_path / "run", study=SearchStudy(url, "shared", "run", shared=True))
    assert table(tmp_path / "run") == before


def test_a_gap_in_the_folder_of_a_lost_study_is_refused(tmp_path: Path) -> None:
    drive(make_conductor(tmp_path, num_samples=3, max_epochs=1))
    lose_study(tmp_path)
    shutil.rmtree(RunFolder(tmp_path).trial_path(1))
    with pytest.raises(RunError, match=r"does not hold trial 0 .* not the next one; restore the study"):
        make_conductor(tmp_path)


def test_an_ending_that_only_the_folder_has_is_told_to_the_study(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path)
    start = conductor.next_trial()
    assert start is not None
    conductor.report(start.number, report_at(1, 0.5))
    outcome = conductor.failed(start.number, TrialEnd.CRASHED, "gone")
    conductor.store.folder.write_outcome(start.number, outcome)
    again = make_conductor(tmp_path)
    assert again.unfinished() == []
    assert again.store.study.trials()[0].user_attrs["outcome"]["end"] == "crashed"


def test_restarts_are_counted_beyond_the_process(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, max_failures=2)
    start = conductor.next_trial()
    assert start is not None
    assert conductor.retry(start.number)
    again = make_conductor(tmp_path, max_failures=2)
    assert again.retry(start.number)
    once_more = make_conductor(tmp_path, max_failures=2)
    assert not once_more.retry(start.number)
    assert once_more.failed(start.number, TrialEnd.CRASHED, "gone").failures == 2


# ---- another space ---------------------------------------------------------------------------------------------------

OTHER_SPACES = {
    "a parameter less": SPACE.replace("  latent_dim: {low: 8, high: 64, log: true}\n", ""),
    "fewer choices": SPACE.replace("[32, 64, 128, 256]", "[32]"),
    "other choices": SPACE.replace("[32, 64, 128, 256]", "[16, 48]"),
    "a narrower range": SPACE.replace("low: 8, high: 64", "low: 30, high: 31"),
    "another scale": SPACE.replace("low: 0.02, high: 2.0, log: true", "low: 0.5, high: 0.6"),
    "a parameter more": SPACE.replace("fixed:\n", "  batch_size: {choices: [4, 8]}\nfixed:\n"),
}


@pytest.mark.parametrize("name", OTHER_SPACES)
def test_trials_of_another_space_go_on_as_they_were_begun(tmp_path: Path, name: str) -> None:
    options = {"max_epochs": 3, "grace_period": 1, "concurrency": 3, "startup_trials": 4}
    interrupted(tmp_path / "run", num_samples=8, **options)
    before = {record.number: record.start for record in RunFolder(tmp_path / "run").read_trials()}
    space = space_from_text(OTHER_SPACES[name], "synthetic")
    conductor = drive(make_conductor(tmp_path / "run", space=space, num_samples=16, **options))
    records = RunFolder(tmp_path / "run").read_trials()
    assert len(records) == 16
    assert all(record.outcome is not None for record in records)
    for record in records:
        if record.number in before:
            assert record.start == before[record.number]
        else:
            assert space.holds(record.start.params)
    assert [trial.params for trial in conductor.store.study.trials()] == [record.start.params for record in records]
    assert make_conductor(tmp_path / "run", space=space, num_samples=16, **options).done


def test_drivers_of_one_study_with_spaces_that_do_not_go_together_are_told_so(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"

    def driver(name: str, text: str) -> Conductor:
        study = SearchStudy(url, "shared", name, shared=True)
        return make_conductor(tmp_path / name, study=study, space=space_from_text(text, name))

    driver("mine", SPACE).next_trial()
    with pytest.raises(RunError, match=r"holds trials of another space: .*; name another --study-name"):
        driver("theirs", OTHER_SPACES["other choices"]).next_trial()


# ---- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table_name", "change"),
    [
        ("trial_user_attributes", "value_json = 'no json'"),
        ("trial_user_attributes", "value_json = '7'"),
        ("trial_user_attributes", "key = key || 'x'"),
        ("trial_params", "distribution_json = '{}'"),
        ("trials", "state = 'UNHEARD'"),
        ("trials", "number = NULL"),
        ("trial_intermediate_values", "step = 'x' || step"),
    ],
)
def test_a_study_of_damaged_content_is_one_line_or_lived_with(tmp_path: Path, table_name: str, change: str) -> None:
    options = {"max_epochs": 3, "grace_period": 1, "concurrency": 2}
    interrupted(tmp_path / "run", **options)
    with sqlite3.connect(tmp_path / "run/study.db") as database:
        database.execute(f"UPDATE {table_name} SET {change}")
    database.close()
    try:
        make_conductor(tmp_path / "run", **options)
    except RunError as error:
        (line,) = str(error).splitlines()
        refused = "study.db" in line
        assert refused
        lose_study(tmp_path / "run")
    drive(make_conductor(tmp_path / "run", **options))
    assert len(reported(tmp_path / "run")) == 8


@pytest.mark.parametrize("cut", [0, 100, 5000, 20_000])
def test_a_cut_study_is_refused_with_what_to_do(tmp_path: Path, cut: int) -> None:
    drive(make_conductor(tmp_path / "run", num_samples=3, max_epochs=1)).store.study._writer._storage.engine.dispose()
    os.truncate(tmp_path / "run/study.db", cut)
    for file in tmp_path.glob("run/study.db-*"):
        file.unlink()
    if cut == 0:  # an empty file is an empty database: rebuilt from the folder
        assert make_conductor(tmp_path / "run", num_samples=3, max_epochs=1).done
        return
    with pytest.raises(RunError, match="move it away and resume") as caught:
        make_conductor(tmp_path / "run", num_samples=3, max_epochs=1)
    assert "\n" not in str(caught.value)
    lose_study(tmp_path / "run")
    assert make_conductor(tmp_path / "run", num_samples=3, max_epochs=1).done


def test_a_full_disk_is_one_line_that_names_the_study(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path)
    start = conductor.next_trial()
    assert start is not None

    def limited(connection: Any, _record: Any, _proxy: Any) -> None:
        connection.execute("PRAGMA max_page_count = 1")

    from sqlalchemy import event

    event.listen(conductor.store.study._writer._storage.engine, "checkout", limited)
    conductor.store.study._writer._storage.engine.dispose()

    def report_for_ever() -> None:
        for epoch in range(1, 1000):
            conductor.report(start.number, report_at(epoch, 0.5))

    with pytest.raises(RunError, match=r"the study /.*study\.db cannot be written: .*full.*; make room") as caught:
        report_for_ever()
    assert "\n" not in str(caught.value)


def test_other_drivers_trials_are_asked_for_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"

    def driver(name: str) -> Conductor:
        study = SearchStudy(url, "shared", name, shared=True)
        return make_conductor(tmp_path / name, study=study, num_samples=50, max_epochs=1)

    theirs = driver("theirs")
    first, second = theirs.next_trial(), theirs.next_trial()
    assert first is not None
    assert second is not None
    mine = driver("mine")
    theirs.report(second.number, report_at(1, 0.7))
    theirs.finish(second.number, theirs.outcome(second.number))
    assert [trial.number for trial in mine.store.study.unread_trials()] == [0, 1], "what ran when it was read"
    assert [trial.number for trial in mine.store.study.unread_trials()] == [0], "what still runs"
    theirs.report(first.number, report_at(1, 0.6))
    theirs.finish(first.number, theirs.outcome(first.number))
    third = theirs.next_trial()
    assert third is not None
    mine._refresh()
    assert mine.sampler.history.finished == 1, "the other was taken above"
    assert [trial.number for trial in mine.store.study.unread_trials()] == [third.number]
