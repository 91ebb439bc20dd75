"""A run read back as tables: against runs whose truths are known."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import optuna
import pandas as pd
import pytest

from analysis.importance import importances
from analysis.pruning import pruning_savings, survivors
from analysis.results import UNFINISHED, RunResults, auc_at, comparison_epoch, load_run
from analysis.study import read_only_urls, read_study
from tests.analysis_tests.synthetic import DISTRIBUTIONS, FAMILY_SPREAD, MAX_EPOCHS, PSEUDO_LESS, RUNGS, make_run
from trainable.errors import RunError


def copy_run(path: Path, target: Path) -> Path:
    shutil.copytree(path, target)
    return target


def test_every_trial_is_a_row(synthetic_run: RunResults) -> None:
    assert synthetic_run.trials.index.tolist() == list(range(40))
    assert set(synthetic_run.params) == set(DISTRIBUTIONS)
    assert synthetic_run.notes == ()


def test_endings_are_counted_each_apart(synthetic_run: RunResults) -> None:
    counts = synthetic_run.end_counts()
    assert counts["over_budget"] == 5  # numbers 7, 15, 23, 31, 39
    assert (counts["out_of_memory"], counts["non_finite"], counts["crashed"]) == (1, 1, 1)
    assert counts[UNFINISHED] == 0
    assert sum(counts.values()) == 40
    assert synthetic_run.trials["end"].loc[[4, 5, 6, 7]].tolist() == [
        "out_of_memory",
        "non_finite",
        "crashed",
        "over_budget",
    ]


def test_epochs_are_those_of_the_files(synthetic_run: RunResults, synthetic_path: Path) -> None:
    lines = sum(len(file.read_text().splitlines()) for file in synthetic_path.glob("trials/*/epochs.jsonl"))
    assert len(synthetic_run.epochs) == lines
    assert synthetic_run.trials["epochs"].sum() == lines
    assert len(synthetic_run.ids) == 2 * lines
    assert len(synthetic_run.densities) == 3 * lines
    assert synthetic_run.densities.groupby("density")["comparison"].first().to_dict() == {
        "counts": False,
        "grid_neighbours": False,
        "reconstruction_error": True,
    }


def test_final_values_are_those_of_the_last_epoch(synthetic_run: RunResults) -> None:
    for number, part in synthetic_run.epochs.groupby("number"):
        row = synthetic_run.trials.loc[number]
        assert row["final_auc"] == part["validation_auc"].iloc[-1]
        assert row["best_auc"] == part["validation_auc"].max()
        assert part["validation_auc"].iloc[row["best_epoch"] - 1] == row["best_auc"]
        assert row["epoch_seconds"] == pytest.approx(part["epoch_seconds"].median())
        assert row["peak_bytes"] == part["peak_bytes"].max()


def test_completed_trials_rank_first_then_by_final_auc(synthetic_run: RunResults) -> None:
    ranked = synthetic_run.ranked
    assert ranked.index[0] == synthetic_run.best_number
    tiers = ranked["end"].map({"completed": 0, "pruned": 1}).fillna(2)
    assert tiers.is_monotonic_increasing
    for _, part in ranked.groupby(tiers):
        assert part["final_auc"].is_monotonic_decreasing
    assert "over_budget" not in set(ranked["end"])
    assert set(tiers) == {0, 1, 2}


def rewrite_auc(path: Path, number: int, aucs: list[float]) -> None:
    file = path / "trials" / f"{number:05d}" / "epochs.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line, auc in zip(lines[-len(aucs) :], aucs, strict=True):
        line["validation_auc"] = auc
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_pruned_trial_with_a_higher_auc_is_no_winner(
    synthetic_path: Path, synthetic_run: RunResults, tmp_path: Path
) -> None:
    path = copy_run(synthetic_path, tmp_path / "run")
    pruned = int(synthetic_run.trials.index[synthetic_run.trials["end"] == "pruned"][0])
    rewrite_auc(path, pruned, [0.9999])
    run = load_run(path)
    assert run.best_number == synthetic_run.best_number
    assert run.trials["end"].loc[run.best_number] == "completed"
    completed = (run.ranked["end"] == "completed").sum()
    assert run.ranked.index[completed] == pruned


def test_the_last_epoch_ranks_and_not_the_best_one(
    synthetic_path: Path, synthetic_run: RunResults, tmp_path: Path
) -> None:
    path = copy_run(synthetic_path, tmp_path / "run")
    first, second = (int(number) for number in synthetic_run.ranked.index[:2])
    rewrite_auc(path, first, [0.9999, 0.51])  # peaked, then fell
    run = load_run(path)
    assert run.trials["best_auc"].loc[first] == 0.9999
    assert run.best_number == second


def test_equal_aucs_rank_by_number(synthetic_path: Path, synthetic_run: RunResults, tmp_path: Path) -> None:
    path = copy_run(synthetic_path, tmp_path / "run")
    top = [int(number) for number in synthetic_run.ranked.index[:3]]
    for number in top:
        rewrite_auc(path, number, [0.97])
    assert load_run(path).ranked.index[:3].tolist() == sorted(top)


def test_a_conditional_parameter_is_absent_where_it_was_not_drawn(synthetic_run: RunResults) -> None:
    off = synthetic_run.trials["params_commitment_warmup_epochs"] == 0
    absent = synthetic_run.trials["params_commitment_warmup_start"].isna()
    assert off.any()
    assert (off == absent).all()


def test_an_unfinished_trial_is_called_so(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=3, finished=False, with_study=False)
    run = load_run(path)
    assert run.trials["end"].iloc[-1] == UNFINISHED
    assert run.end_counts()[UNFINISHED] == 1


def test_without_a_study_the_folder_alone_is_read(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=8, with_study=False)
    run = load_run(path)
    assert len(run.trials) == 8
    assert run.distributions == {}
    assert len(run.notes) == 1
    assert "does not exist" in run.notes[0]


def test_proposals_that_never_started_come_from_the_study(synthetic_path: Path, tmp_path: Path) -> None:
    path = copy_run(synthetic_path, tmp_path / "run")
    shutil.rmtree(path / "trials" / "00007")
    run = load_run(path)
    assert run.trials["end"].loc[7] == "over_budget"
    assert run.trials["epochs"].loc[7] == 0
    assert run.trials["predicted_bytes"].loc[7] > 2 * 2**30
    assert pd.notna(run.trials["params_num_embeddings"].loc[7])


@pytest.mark.parametrize("outcome", [7, {"end": "later"}, {"end": "over_budget", "colour": "red"}])
def test_a_proposal_that_says_wrongly_how_it_ended_is_one_line(
    synthetic_path: Path, synthetic_run: RunResults, tmp_path: Path, outcome: object
) -> None:
    path = copy_run(synthetic_path, tmp_path / "run")
    number = int(synthetic_run.trials.index[synthetic_run.trials["end"] == "over_budget"][0])
    shutil.rmtree(path / "trials" / f"{number:05d}", ignore_errors=True)
    with closing(sqlite3.connect(path / "study.db")) as study, study:
        study.execute(
            "UPDATE trial_user_attributes SET value_json = ? WHERE key = 'outcome' AND trial_id = "
            "(SELECT trial_id FROM trials WHERE number = ?)",
            (json.dumps(outcome), number),
        )
    with pytest.raises(RunError, match=f"trial {number} of the study says wrongly how it ended: "):
        load_run(path)


def test_trials_of_another_driver_of_a_shared_study_are_left_out(synthetic_path: Path, tmp_path: Path) -> None:
    path = copy_run(synthetic_path, tmp_path / "run")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "name": "another"}))
    shutil.rmtree(path / "trials" / "00007")
    assert 7 not in load_run(path).trials.index


def test_reading_changes_nothing(synthetic_path: Path) -> None:
    before = {file: file.read_bytes() for file in synthetic_path.rglob("*") if file.is_file()}
    load_run(synthetic_path)
    assert {file: file.read_bytes() for file in before} == before


def test_a_study_can_be_read_while_it_is_written(synthetic_path: Path, tmp_path: Path) -> None:
    path = copy_run(synthetic_path, tmp_path / "run")
    storage = optuna.storages.RDBStorage(f"sqlite:///{path / 'study.db'}")
    try:
        study = optuna.load_study(study_name="synthetic", storage=storage)
        study.ask()
        assert (path / "study.db-wal").exists()
        assert len(load_run(path).trials) == 40  # the new trial has neither ending nor record yet
    finally:
        storage.remove_session()
        storage.engine.dispose()


def test_read_only_urls_of_a_missing_study(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist"):
        read_only_urls(tmp_path / "study.db")


def test_the_ranges_are_the_studys(synthetic_run: RunResults) -> None:
    assert synthetic_run.distributions == DISTRIBUTIONS
    assert len(read_study(synthetic_run.folder, synthetic_run.manifest).trials) == 40


def test_what_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="does not exist") as error:
        load_run(tmp_path / "nothing")
    assert "\n" not in str(error.value)


def test_a_run_without_trials_is_refused(tmp_path: Path) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=0)
    with pytest.raises(RunError, match="no trial yet"):
        load_run(path)


def test_a_damaged_study_leaves_the_folders_tables(synthetic_path: Path, tmp_path: Path) -> None:
    path = copy_run(synthetic_path, tmp_path / "run")
    (path / "study.db").write_bytes(b"no database" * 100)
    run = load_run(path)
    assert len(run.trials) == 40
    assert "cannot be read" in run.notes[0]
    assert run.distributions == {}


def test_a_study_in_a_folder_that_may_not_be_written(synthetic_path: Path, own_folder: Path) -> None:
    path = copy_run(synthetic_path, own_folder / "archive")
    for folder in (path, *(entry for entry in path.rglob("*") if entry.is_dir())):
        folder.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:  # root may write everywhere
            os.seteuid(65534)
        run = load_run(path)
    finally:
        os.seteuid(user)
        for folder in (path, *(entry for entry in path.rglob("*") if entry.is_dir())):
            folder.chmod(0o755)
    assert run.notes == ()
    assert run.distributions == DISTRIBUTIONS


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder that other users may enter: pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_half_written_line_is_left_out(synthetic_path: Path, synthetic_run: RunResults, tmp_path: Path) -> None:
    path = copy_run(synthetic_path, tmp_path / "run")
    best = synthetic_run.best_number
    with (path / "trials" / f"{best:05d}" / "epochs.jsonl").open("a") as file:
        file.write('{"epoch": 28, "pha')
    assert load_run(path).trials["epochs"].loc[best] == MAX_EPOCHS


def test_pruning_savings_are_those_counted_by_hand(synthetic_run: RunResults) -> None:
    stopped = dict.fromkeys(RUNGS, 0)
    for end_file in synthetic_run.folder.path.glob("trials/*/end.json"):
        end = json.loads(end_file.read_text())
        if end["end"] == "pruned":
            stopped[end["epochs"]] += 1
    savings = pruning_savings(synthetic_run.trials, MAX_EPOCHS)
    assert all(stopped.values())  # every rung stopped some, or this test shows little
    assert savings.pruned == sum(stopped.values())
    assert savings.saved_epochs == 26 * stopped[1] + 24 * stopped[3] + 18 * stopped[9]
    completed = synthetic_run.end_counts()["completed"]
    failed = 1 + 2 + 3  # epochs of the three that failed
    trained = 27 * completed + failed + 1 * stopped[1] + 3 * stopped[3] + 9 * stopped[9]
    assert savings.trained_epochs == trained
    assert savings.saved_share == savings.saved_epochs / (savings.saved_epochs + trained)


def test_saved_hours_by_hand() -> None:
    trials = pd.DataFrame(
        {
            "end": ["completed", "pruned", "pruned", "over_budget"],
            "epochs": [10, 1, 4, 0],
            "epoch_seconds": [5.0, 40.0, 100.0, float("nan")],
            "hours": [0.1, 0.2, 0.3, 0.0],
        }
    )
    savings = pruning_savings(trials, 10)
    assert savings.saved_epochs == 9 + 6
    assert savings.saved_hours == pytest.approx((9 * 40 + 6 * 100) / 3600)
    assert savings.trained_hours == pytest.approx(0.6)


def test_survivors_fall_at_the_rungs_only(synthetic_run: RunResults) -> None:
    table = survivors(synthetic_run.trials, MAX_EPOCHS)
    assert table.index.tolist() == list(range(1, 28))
    assert table.index[table["stopped"] > 0].tolist() == list(RUNGS)
    assert table["trained"].iloc[0] == 35  # all but those over budget
    completed = synthetic_run.end_counts()["completed"]
    assert table["trained"].iloc[-1] == completed
    # Between one rung and the next nobody leaves but the three that failed, at epochs 1, 2 and 3.
    for rung, following in ((3, 9), (9, 27)):
        failed = int(rung == 3)
        assert table["trained"].loc[rung] - table["stopped"].loc[rung] - failed == table["trained"].loc[following]


def test_importances_find_what_made_the_auc(synthetic_run: RunResults) -> None:
    found = importances(synthetic_run)
    assert next(iter(found.shares)) == "num_embeddings"
    assert found.shares["num_embeddings"] > 2 * found.shares["stride"]
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
    assert str(found.epoch) in found.note


def test_importances_know_their_uncertainty(synthetic_run: RunResults) -> None:
    found = importances(synthetic_run)
    assert set(found.intervals) == set(found.chance) == set(found.shares)
    for name, (low, high) in found.intervals.items():
        assert 0.0 <= low <= found.shares[name] <= high <= 1.0
    assert list(found.beyond_chance) == ["num_embeddings"]
    assert "Beyond what chance gives: num_embeddings." in found.note


def test_importances_of_values_that_nothing_made_are_chance(synthetic_run: RunResults) -> None:
    rng = np.random.default_rng(3)
    run = replace(synthetic_run)
    run.__dict__["epochs"] = synthetic_run.epochs.assign(value=rng.permutation(synthetic_run.epochs["value"]))
    found = importances(run)
    assert found.shares
    assert found.beyond_chance == {}
    assert "does not tell what mattered" in found.note


def test_importances_need_enough_trials(tmp_path: Path) -> None:
    with patch("os.fsync"):
        few = load_run(make_run(tmp_path / "few", trials=10))
        no_study = load_run(make_run(tmp_path / "no_study", trials=20, with_study=False))
    assert importances(few).shares == {}
    assert "at least 12" in importances(few).note
    assert importances(no_study).shares == {}
    assert "ranges are unknown" in importances(no_study).note


def test_the_comparison_epoch_is_one_that_four_fifths_reached() -> None:
    lengths = [1, 9, 9, 9, 9, 27, 27, 27, 27, 27]
    epochs = pd.DataFrame(
        [(number, epoch, 0.01 * epoch) for number, length in enumerate(lengths) for epoch in range(1, length + 1)],
        columns=["number", "epoch", "value"],
    )
    assert comparison_epoch(epochs) == 9
    assert comparison_epoch(epochs, share=0.5) == 27
    assert auc_at(epochs, 9).to_dict() == {number: pytest.approx(0.09) for number in range(1, 10)}
    with pytest.raises(ValueError, match="no trial"):
        comparison_epoch(epochs.head(0))


def test_without_labels_the_pseudo_auc_is_the_value(unlabelled_run: RunResults) -> None:
    epochs = unlabelled_run.epochs
    assert unlabelled_run.measure == "pseudo-AUC"
    assert not unlabelled_run.labelled
    assert epochs["value"].equals(epochs["pseudo_auc"].rename("value"))
    for name in ("validation_auc", "validation_pauc"):
        assert epochs[name].isna().all()
        assert epochs[name].dtype == float
    assert unlabelled_run.trials["final_pauc"].isna().all()
    assert len(unlabelled_run.ids) == 0
    assert list(unlabelled_run.ids.columns) == ["number", "epoch", "machine_id", "auc", "pauc"]
    best = unlabelled_run.records[unlabelled_run.best_number or 0].epochs[-1]
    assert unlabelled_run.ranked["final_auc"].iloc[0] == best.pseudo_auc
    assert auc_at(epochs, 1).notna().all()


def test_the_mean_of_both_is_the_value(both_run: RunResults) -> None:
    epochs = both_run.epochs
    assert both_run.measure == "mean of validation AUC and pseudo-AUC"
    assert both_run.labelled
    assert epochs["value"].to_numpy() == pytest.approx((epochs["validation_auc"] + epochs["pseudo_auc"]).to_numpy() / 2)
    assert (epochs["validation_auc"] - epochs["pseudo_auc"]).to_numpy() == pytest.approx(PSEUDO_LESS)
    row = both_run.trials.loc[both_run.best_number]
    assert row["final_auc"] == pytest.approx((row["validation_auc"] + row["pseudo_auc"]) / 2)


def test_labels_alone_leave_no_pseudo_auc(synthetic_run: RunResults) -> None:
    assert synthetic_run.measure == "validation AUC"
    assert synthetic_run.labelled
    assert synthetic_run.epochs["pseudo_auc"].isna().all()
    assert synthetic_run.epochs["value"].equals(synthetic_run.epochs["validation_auc"].rename("value"))
    assert len(synthetic_run.families) == 0


def test_a_search_that_labels_did_not_judge_may_have_labels(unlabelled_run: RunResults) -> None:
    clips = {**unlabelled_run.manifest.clips, "held_out": 10}
    assert replace(unlabelled_run, manifest=replace(unlabelled_run.manifest, clips=clips)).labelled


def test_densities_say_which_kind_of_auc_they_have(both_run: RunResults, unlabelled_run: RunResults) -> None:
    per_epoch = both_run.densities.groupby(["number", "epoch"])["measure"].value_counts().unstack()
    assert set(map(tuple, per_epoch[["validation AUC", "pseudo-AUC"]].to_numpy())) == {(3, 2)}
    assert set(unlabelled_run.densities["measure"]) == {"pseudo-AUC"}
    assert not unlabelled_run.densities["comparison"].any()
    means = unlabelled_run.families.groupby(["number", "epoch", "density"])["auc"].mean()
    listed = unlabelled_run.densities.set_index(["number", "epoch", "density"])["auc"]
    assert listed.to_numpy() == pytest.approx(means.loc[listed.index].to_numpy())
    assert set(unlabelled_run.families["family"]) == set(FAMILY_SPREAD)


def test_importances_without_labels_are_of_the_pseudo_auc(unlabelled_run: RunResults) -> None:
    assert next(iter(importances(unlabelled_run).shares)) == "num_embeddings"
