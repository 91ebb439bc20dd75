"""The best configurations where labels, pseudo-anomalies or both judged."""

import json
from pathlib import Path

import pytest
import yaml

from analysis.results import RunResults, load_run
from analysis.winners import export_winners, find_winners, winners_text
from trainable.config import Objective


def test_without_labels_nobody_knows_how_many_faults_are_heard(unlabelled_run: RunResults) -> None:
    winners, notes = find_winners(unlabelled_run, 3)
    assert notes == [winners[0].missing]
    assert "nobody knows yet how many faults are heard" in notes[0]
    assert "--objective both" in notes[0]
    for winner in winners:
        assert winner.objective is Objective.NORMAL_ONLY
        assert winner.value == winner.pseudo_auc == unlabelled_run.trials["final_auc"].loc[winner.number]
        assert winner.validation_auc is winner.validation_pauc is winner.held_out_auc is None
    assert find_winners(unlabelled_run, 3, held_out=True)[1] == notes


def test_the_terminal_says_what_the_values_are(unlabelled_run: RunResults) -> None:
    winners, _ = find_winners(unlabelled_run, 2)
    head, first, *_, last = winners_text(winners).splitlines()
    assert head.split()[:3] == ["rank", "trial", "pseudo-AUC"]
    assert "validation" not in head
    assert first[: head.index("pseudo-AUC") + 10].split()[-1] == f"{winners[0].value:.3f}"
    assert last.startswith(
        "Completed trials first, by the pseudo-AUC of their last epoch; a pseudo-AUC ranks trainings"
    )


def test_where_both_judged_each_has_its_column(both_run: RunResults) -> None:
    winners, _ = find_winners(both_run, 1)
    head, first, *_, last = winners_text(winners).splitlines()
    shown = [first[: head.index(name) + len(name)].split()[-1] for name in ("mean AUC", "validation AUC", "pseudo-AUC")]
    assert shown == [f"{each:.3f}" for each in (winners[0].value, winners[0].validation_auc, winners[0].pseudo_auc)]
    assert "by the mean of validation AUC and pseudo-AUC of their last epoch; held-out clips took no part" in last


def test_where_labels_alone_judged_there_is_no_pseudo_auc(synthetic_run: RunResults) -> None:
    (winner,), _ = find_winners(synthetic_run, 1)
    assert winner.objective is Objective.LABELS
    assert winner.value == winner.validation_auc
    assert winner.pseudo_auc is None
    assert winners_text([winner]).splitlines()[-1] == (
        "Completed trials first, by the validation AUC of their last epoch; held-out clips took no part in the choice."
    )


def test_what_is_exported_says_what_judged(unlabelled_run: RunResults, tmp_path: Path) -> None:
    winners, _ = find_winners(unlabelled_run, 1)
    path, listed = export_winners(unlabelled_run, winners, tmp_path)
    for result in (yaml.safe_load(path.read_text())["result"], json.loads(listed.read_text())["best"][0]):
        assert result["objective"] == "normal-only"
        assert result["value"] == result["pseudo_auc"] == pytest.approx(winners[0].value)
        assert result["validation_auc"] is None


def test_winners_of_a_trained_run_without_labels(unlabelled_path: Path) -> None:
    run = load_run(unlabelled_path)
    winners, notes = find_winners(run, 5)
    assert [winner.number for winner in winners] == run.ranked.index.tolist()
    assert len(notes) == 1
