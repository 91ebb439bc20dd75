"""Tables as a reader sees them, and the advice beside them."""

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from analysis.advice import next_steps
from analysis.pruning import pruning_savings
from analysis.results import CUT_OFF, ENDS, RunResults, load_run
from analysis.state import SearchState
from analysis.tables import (
    END_MEANINGS,
    Table,
    _spread,
    ends_table,
    plans_table,
    range_text,
    run_table,
    searched_table,
    text_of,
    top_table,
)
from search.engine.standing import Standing
from search.store.folder import held
from tests.analysis_tests.synthetic import make_run
from trainable.config import DataConfig
from trainable.detection.gain import gain_text
from trainable.detection.ranking import least_epochs
from trainable.durable import write_json
from trainable.record import RunFolder
from trainable.units import GIB


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (False, "no"),
        (0.123456, "0.1235"),
        (7, "7"),
        ("euclidean", "euclidean"),
    ],
)
def test_values_are_short(value: object, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("distribution", "text"),
    [
        (IntDistribution(32, 512, log=True), "32 … 512, logarithmic"),
        (IntDistribution(8, 32, step=8), "8 … 32, steps of 8"),
        (IntDistribution(8, 32), "8 … 32"),
        (FloatDistribution(0.05, 2.0, log=True), "0.05 … 2, logarithmic"),
        (FloatDistribution(0.0, 1.0, step=0.1), "0 … 1, steps of 0.1"),
        (CategoricalDistribution((True, False)), "yes, no"),
    ],
)
def test_ranges_in_words(distribution: object, text: str) -> None:
    assert range_text(distribution) == text  # type: ignore[arg-type]


def by_first(table: Table) -> dict[str, tuple[str, ...]]:
    assert all(len(row) == len(table.columns) for row in table.rows)
    return {row[0]: row for row in table.rows}


def test_searched_parameters_with_the_winners_values(synthetic_run: RunResults) -> None:
    rows = by_first(searched_table(synthetic_run))
    assert set(rows) == set(synthetic_run.params)
    params = synthetic_run.records[synthetic_run.best_number].start.params
    assert rows["num_embeddings"][1] == "32 … 512, logarithmic"
    # Integers stay integers, also where pandas had to make floats of them.
    assert rows["num_embeddings"][2] == str(params["num_embeddings"])
    assert rows["stride"][2] == str(params["stride"])
    low = float(rows["num_embeddings"][3].split(" … ")[0])
    assert low > 200  # the best ten have large codebooks, by the formula


def test_choices_are_counted_as_they_are_written() -> None:
    choices = CategoricalDistribution((0.0, 3.0, 10.0))
    assert _spread(pd.Series([10.0, 3.0, 10.0, None]), choices) == "10 (2×), 3 (1×)"


def test_the_top_table_is_the_ranking(synthetic_run: RunResults) -> None:
    table = top_table(synthetic_run, 5)
    assert [row[0] for row in table.rows] == [str(number) for number in synthetic_run.ranked.index[:5]]
    assert table.rows[0][1] == f"{synthetic_run.ranked['final_auc'].iloc[0]:.3f}"
    assert table.rows[0][3] == "27 of 27"
    assert "num_embeddings" in table.rows[0][-1]
    assert "nan" not in " ".join(" ".join(row) for row in table.rows)


def test_every_ending_has_a_row_and_a_meaning(synthetic_run: RunResults) -> None:
    assert set(END_MEANINGS) == set(ENDS)
    rows = by_first(ends_table(synthetic_run))
    assert len(rows) == len(ENDS) - 1, "none was cut off, as none is by a search of today"
    assert rows["over budget"][1] == "5"
    assert rows["crashed"][3] == "the worker died three times"
    assert rows["pruned"][3] == ""


def test_a_search_that_its_time_limit_ended_says_what_is_left_and_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with patch("os.fsync"):
        make_run(path, trials=9, finished=False)
    write_json(path / "summary.json", {"parts": 1, "stop_reason": "the time limit of 3600 s was reached"})
    run = load_run(path)
    assert run.state is SearchState.ENDED
    assert run.notes == (
        "1 trial unfinished and 1 of 9 not begun: the time limit of 3600 s was reached; resume with "
        f"python -m search.run --resume {path}.",
    )
    rows = by_first(ends_table(run))
    assert rows["unfinished"][1:4:2] == ("1", "the time limit of 3600 s was reached")
    first = next_steps(run)[0]
    assert first.text == "It ended early: the time limit of 3600 s was reached."
    assert "--resume" in first.command


def test_earlier_versions_called_trials_pruned_that_a_time_limit_ended(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=9)
    trials = load_run(path).trials
    number = int(trials.index[trials["end"] == "pruned"][0])
    before = pruning_savings(trials, 27)
    file = RunFolder(path).trial_path(number) / "end.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "reason": "the time limit of 60 s was reached"}))
    write_json(path / "summary.json", {"parts": 1, "stop_reason": "the time limit of 60 s was reached"})
    run = load_run(path)
    assert run.trials["end"].loc[number] == CUT_OFF
    saved = pruning_savings(run.trials, 27)
    assert saved.pruned == before.pruned - 1
    assert saved.saved_epochs == before.saved_epochs - (27 - int(run.trials["epochs"].loc[number]))
    assert by_first(ends_table(run))["cut off"][1] == "1"
    assert run.stopped_text.endswith(" 1 trial cut off with it cannot go on.")


def test_advice_where_no_trial_says_why(tmp_path: Path) -> None:
    with patch("os.fsync"):
        run = load_run(make_run(tmp_path / "run", trials=1, finished=False))
    run = replace(run, trials=run.trials.assign(reason="", final_auc=float("nan")), state=SearchState.ENDED)
    assert [step.title for step in next_steps(run)] == ["Search again"]


def test_plans_count_trials_that_started(synthetic_run: RunResults) -> None:
    table = plans_table(synthetic_run)
    assert sum(int(row[1]) for row in table.rows) == 35
    counts = [int(row[1]) for row in table.rows]
    assert counts == sorted(counts, reverse=True)


def test_the_run_table_says_what_was_asked(synthetic_run: RunResults) -> None:
    rows = by_first(run_table(synthetic_run))
    assert rows["command"][1] == "python -m search.run --space synthetic"
    assert rows["trials requested"][1] == "40"
    assert rows["GPU memory budget a trial"][1] == "2.00 GiB"


def test_advice_names_commands_that_hold_the_runs_path(synthetic_run: RunResults) -> None:
    steps = {step.title: step for step in next_steps(synthetic_run)}
    retrain = steps["Train the detector on all normal clips"]
    assert retrain.command.startswith(f"python -m analysis.best {synthetic_run.folder.path} --retrain")
    assert "--warm-start" in steps["Begin another search where this one ended"].command
    assert steps["1 trial ran out of memory"].text


def test_advice_to_search_more_says_what_it_is_expected_to_bring(
    synthetic_run: RunResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    standing = Standing(least_epochs(synthetic_run.manifest.max_epochs))
    for number, record in synthetic_run.records.items():
        assert record.outcome is not None
        standing.ended(number, record.outcome)
    gain = standing.expected_gain
    assert gain is not None, "trials that ASHA stopped count, as they do in the search"
    assert synthetic_run.expected_gain == pytest.approx(gain)
    step = next(step for step in next_steps(synthetic_run) if step.title == "Search more")
    assert gain_text(gain) in step.text
    assert "--num-samples 80" in step.command
    monkeypatch.setattr("analysis.advice.HARDLY_AUC", 1.0)
    titles = [step.title for step in next_steps(synthetic_run)]
    assert "Do not search longer in this space" in titles
    assert "Search more" not in titles


def test_advice_for_an_interrupted_search_is_to_resume_it(tmp_path: Path) -> None:
    with patch("os.fsync"):
        run = load_run(make_run(tmp_path / "a run's folder", trials=9, finished=False))
    first = next_steps(run)[0]
    assert "7 of 9 trials ended, as of " in first.text  # one is over budget, one has no ending
    assert "--resume" in first.command
    assert str(run.folder.path) in shlex.split(first.command)
    assert run.notes[0] == run.state_text
    assert "interrupted or running on another machine" in run.state_text


def test_a_search_that_runs_is_let_run(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=9, finished=False)
    with held(path):  # as the search's own driver holds it
        run = load_run(path)
    assert "The search is still running: 7 of 9 trials ended" in run.notes[0]
    assert not [step.command for step in next_steps(run) if step.command]
    with held(path):  # and reading has let go of it
        pass


def test_a_summary_of_the_part_before_a_resume_ends_nothing(synthetic_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(synthetic_path, tmp_path / "run")
    manifest = RunFolder(path).read_manifest()
    RunFolder(path).write_manifest(replace(manifest, history=({"resumed": "later"},)))
    assert load_run(path).state is SearchState.OPEN
    write_json(RunFolder(path).summary_path, {"parts": 2})
    assert load_run(path).state is SearchState.ENDED


def test_advice_names_the_data_and_the_budget_of_the_run(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=9)
    (path / "space.yaml").write_text("parameters: {}\n")
    data = DataConfig(data_root="my recordings", machine_type="pump", validation_share=0.3).to_dict()
    folder = RunFolder(path)
    folder.write_manifest(replace(folder.read_manifest(), data=data, gpu_memory_budget_bytes=24 * GIB))
    command = next(s.command for s in next_steps(load_run(path)) if "--warm-start" in s.command)
    words = shlex.split(command)
    for flag, value in {
        "--space": str(path / "space.yaml"),
        "--data-root": "my recordings",
        "--machine-type": "pump",
        "--validation-share": "0.3",
        "--gpu-memory-budget": "24GiB",
        "--warm-start": str(path),
    }.items():
        assert words[words.index(flag) + 1] == value
    assert "--sample-rate" not in words


def test_advice_where_nothing_trained(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=8, with_study=False)
    for number in range(7):
        shutil.rmtree(path / "trials" / f"{number:05d}")
    run = load_run(path)
    assert run.best_number is None
    assert [step.title for step in next_steps(run)] == ["Narrow the space or raise the budget"]


def test_the_top_table_has_a_column_for_all_that_judged(unlabelled_run: RunResults, both_run: RunResults) -> None:
    table = top_table(unlabelled_run, 5)
    assert table.columns[:3] == ("trial", "pseudo-AUC", "epochs")
    assert table.rows[0][1] == f"{unlabelled_run.ranked['final_auc'].iloc[0]:.3f}"
    table = top_table(both_run, 5)
    assert table.columns[1:5] == (both_run.measure, "validation AUC", "pAUC", "pseudo-AUC")
    mean, labelled, _, pseudo = map(float, table.rows[0][1:5])
    assert mean == pytest.approx((labelled + pseudo) / 2, abs=0.0011)
    for table in (top_table(unlabelled_run, 40), top_table(both_run, 40)):
        assert "nan" not in " ".join(" ".join(row) for row in table.rows)
    assert by_first(run_table(unlabelled_run))["trials judged by"][1] == "pseudo-AUC"


def test_advice_without_labels_is_to_make_a_detector_and_to_label_a_few(unlabelled_run: RunResults) -> None:
    steps = {step.title: step for step in next_steps(unlabelled_run)}
    assert "--retrain" in steps["Make a detector of this search"].command
    assert "before any anomaly is labelled" in steps["Make a detector of this search"].text
    words = shlex.split(steps["Label a few anomalies"].command)
    assert [words[index + 1] for index, word in enumerate(words) if word == "--objective"] == ["both"]
    again = shlex.split(steps["Begin another search where this one ended"].command)
    assert again[again.index("--objective") + 1] == "normal-only"
    assert "Try another density model" not in steps


def test_advice_where_both_judged_asks_for_no_labels(both_run: RunResults, synthetic_run: RunResults) -> None:
    titles = [step.title for step in next_steps(both_run)]
    assert "Make a detector of this search" in titles
    assert "Label a few anomalies" not in titles
    assert "Label a few anomalies" not in [step.title for step in next_steps(synthetic_run)]


def test_advice_to_train_longer_names_what_rose(unlabelled_run: RunResults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.advice.RISING_AUC", -1.0)
    step = next(step for step in next_steps(unlabelled_run) if step.title == "Train longer")
    assert step.text.startswith("The winner's pseudo-AUC still rose by ")
