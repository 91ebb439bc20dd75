"""What ``summary.json`` and the terminal say of a search."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from search.engine.conductor import Conductor
from search.store.study import SearchStudy
from search.summary import print_summary, write_results
from search.winner import Winner, find_winner
from tests.search_tests.synthetic import make_conductor, report_at
from tests.search_tests.test_plan_recalibrate import manifest
from trainable.config import DataConfig, Objective
from trainable.data.load import load_dataset
from trainable.detection.ranking import competing
from trainable.errors import BudgetError, RunError
from trainable.record import TrialEnd, TrialStart
from trainable.scoring.clip_counts import ClipCounts
from trainable.scoring.evaluate import Evaluation
from trainable.training.checkpoint import write_checkpoint
from trainable.trial import Trial
from trainable.yardsticks.comparison import Comparison

AUCS = {"log_mel_mahalanobis": 0.849, "twfr": 0.87, "pca_codes": 0.775}
CLIPS = ClipCounts(12, 12)
BEATEN = Comparison(AUCS, 0.9, (0.01, 0.05), CLIPS)
NOT_BEATEN = Comparison(AUCS, 0.9, (-0.02, 0.08), CLIPS)


def test_failures_of_another_driver_on_the_same_study_are_not_this_runs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    for name in ("mine", "another"):
        conductor = make_conductor(tmp_path / name, study=SearchStudy(url, "together", name, shared=True))
        conductor.store.folder.write_manifest(manifest())
        start = conductor.next_trial()
        assert start is not None
        conductor.finish(start.number, conductor.failed(start.number, TrialEnd.CRASHED, f"{name} broke"))
        write_results(conductor, conductor.store, None, seconds=1.0, skipped=0)
    assert [trial.user_attrs["run"] for trial in conductor.store.study.trials()] == ["mine", "another"]
    for number, name in enumerate(("mine", "another")):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["failures"] == [{"trial": number, "end": "crashed", "reason": f"{name} broke"}]
        assert summary["counts"]["crashed"] == 1


@pytest.fixture
def ended(tmp_path: Path) -> Conductor:
    conductor = make_conductor(tmp_path / "run")
    conductor.store.folder.write_manifest(manifest())
    return conductor


def winner_with(conductor: Conductor, yardsticks: Comparison | None, clips: ClipCounts = CLIPS) -> Winner:
    start = conductor.next_trial()
    assert start is not None
    labels = np.repeat([0, 1], [clips.normal, clips.anomalous])
    scores, names = np.arange(float(len(labels))), tuple(map(str, range(len(labels))))
    held_out = Evaluation(0.9, 0.8, {"00": 0.9}, {"00": 0.8}, scores, names, ("00",) * len(labels), labels)
    return Winner(
        start,
        Objective.LABELS,
        report_at(9, 0.95),
        validation=held_out,
        held_out=held_out,
        yardsticks=yardsticks,
    )


def shown(conductor: Conductor, winner: Winner) -> str:
    """The words of the table at the end of a search, whatever its line breaks."""
    text = io.StringIO()
    console = Console(file=text, width=100)
    print_summary(console, conductor, conductor.store, winner, seconds=1.0, skipped=0)
    return " ".join(text.getvalue().replace("│", " ").split())


@pytest.mark.parametrize("yardsticks", [BEATEN, NOT_BEATEN])
def test_yardsticks_stand_beside_the_held_out_auc(ended: Conductor, yardsticks: Comparison) -> None:
    winner = winner_with(ended, yardsticks)
    write_results(ended, ended.store, winner, seconds=1.0, skipped=0)
    folder = ended.store.folder
    best = json.loads(folder.summary_path.read_text())["best"]
    assert best["yardsticks"] == AUCS
    assert best["beats_yardsticks"] is yardsticks.beaten
    assert Comparison.from_dict(best) == yardsticks
    assert yaml.safe_load(folder.best_path.read_text())["result"]["yardsticks"] == AUCS
    words = shown(ended, winner)
    assert "log-mel Mahalanobis 0.849, TWFR + Gaussian 0.870, PCA codes 0.775" in words
    assert f"the winner {yardsticks.verdict}" in words
    assert ("does not beat" in words) == (not yardsticks.beaten)
    assert ("not beaten" in words) == (not yardsticks.beaten)


def test_the_clips_that_judged_stand_beside_an_auc(ended: Conductor) -> None:
    winner = winner_with(ended, BEATEN)
    write_results(ended, ended.store, winner, seconds=1.0, skipped=0)
    best = json.loads(ended.store.folder.summary_path.read_text())["best"]
    assert best["held_out_clips"] == best["validation_clips"] == {"normal": 12, "anomalous": 12}
    words = shown(ended, winner)
    assert words.count("12 normal, 12 anomalous clips") == 2, "of validation and held-out AUC"
    assert "add some" not in words


def test_few_clips_are_warned_of_and_no_yardstick_is_beaten(ended: Conductor) -> None:
    few = ClipCounts(80, 3)
    winner = winner_with(ended, replace(BEATEN, clips=few), few)
    write_results(ended, ended.store, winner, seconds=1.0, skipped=0)
    assert json.loads(ended.store.folder.summary_path.read_text())["best"]["beats_yardsticks"] is None
    words = shown(ended, winner)
    assert words.count("only 3 anomalous clips judge: the interval says little; add some") == 1
    assert "the winner may or may not beat the yardsticks" in words
    assert "not beaten" not in words


def test_without_yardsticks_their_entries_are_empty(ended: Conductor) -> None:
    winner = winner_with(ended, None)
    write_results(ended, ended.store, winner, seconds=1.0, skipped=0)
    best = json.loads(ended.store.folder.summary_path.read_text())["best"]
    assert best["yardsticks"] is best["beats_yardsticks"] is None
    assert "not measured; see the warning" in shown(ended, winner)


def test_where_no_trial_completed_the_table_says_why_and_what_to_do(ended: Conductor) -> None:
    def words() -> str:
        text = io.StringIO()
        print_summary(Console(file=text, width=300), ended, ended.store, None, seconds=1.0, skipped=0)
        return " ".join(text.getvalue().replace("│", " ").split())

    again = f"python -m search.run --resume {ended.store.folder.path}"
    assert f"best none: no trial completed; start more with {again} --num-samples N" in words()
    start = ended.next_trial()
    assert start is not None
    assert "trials 1 trial: 1 unfinished" in words()
    assert f"to go on {again} best none: no trial completed before the search ended" in words()
    ended.finish(start.number, ended.failed(start.number, TrialEnd.CRASHED, "the worker was lost"))
    crashed = "trial 0 ended as crashed: the worker was lost (1 such trial: summary.json)"
    assert f"best none: no trial completed; {crashed}" in words()
    for end, reason in ((TrialEnd.NON_FINITE, "the loss is nan"), (TrialEnd.CRASHED, "lost again")):
        start = ended.next_trial()
        assert start is not None
        ended.finish(start.number, ended.failed(start.number, end, reason))
    assert "the worker was lost (2 such trials: summary.json)" in words()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BudgetError("no plan fits the 640 MiB budget"), "no plan fits the 640 MiB budget"),
        (MemoryError("no more"), "memory ran out under the smallest plan: no more"),
    ],
)
def test_a_winner_that_does_not_fit_this_process_leaves_the_results(
    ended: Conductor, error: Exception, reason: str
) -> None:
    """The card of the driver may hold less than those that trained."""

    def refuse(start: TrialStart) -> Trial:
        raise error

    start = ended.next_trial()
    assert start is not None
    for epoch in range(1, ended.options.max_epochs + 1):
        ended.report(start.number, replace(report_at(epoch, 0.7), auc_by_density={"fused": 0.7}))
    ended.finish(start.number, ended.outcome(start.number))
    dataset = load_dataset(DataConfig())
    winner = find_winner(ended, ended.store, dataset, refuse)
    assert winner is not None
    assert winner.no_detector == "no trial has a checkpoint left"
    write_checkpoint(ended.store.folder.checkpoint_path(start.number) / "epoch-000009.ckpt", {"epoch": 9})
    winner = find_winner(ended, ended.store, dataset, refuse)
    assert winner is not None
    assert (winner.held_out, winner.unmeasured) == (None, reason)
    assert winner.members == ()
    assert winner.no_detector == f"trial 0 cannot be restored: {reason}"
    assert "detector none: trial 0 cannot be restored" in shown(ended, winner)


def test_a_winner_whose_reports_are_lost_is_one_line(ended: Conductor) -> None:
    start = ended.next_trial()
    assert start is not None
    for epoch in range(1, ended.options.max_epochs + 1):
        ended.report(start.number, replace(report_at(epoch, 0.7), auc_by_density={"fused": 0.7}))
    ended.finish(start.number, ended.outcome(start.number))
    (ended.store.folder.trial_path(start.number) / "epochs.jsonl").unlink()
    assert competing(ended.store.folder.read_trials()) == []
    with pytest.raises(RunError, match=r"the reports of trial 0, the best, are not in .*; restore it from a copy"):
        find_winner(ended, ended.store, load_dataset(DataConfig()), lambda start: pytest.fail("nothing to restore"))


def test_what_the_summary_says_of_names_and_reasons_any_terminal_may_show(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path / "run\x1b[2J")
    conductor.store.folder.write_manifest(manifest())
    start = conductor.next_trial()
    assert start is not None
    conductor.finish(start.number, conductor.failed(start.number, TrialEnd.CRASHED, "no fan\x1b[31m"))
    shown = io.StringIO()
    print_summary(Console(file=shown, width=1000), conductor, conductor.store, None, seconds=1.0, skipped=0)
    assert "\x1b" not in shown.getvalue()
    assert r"Search run\x1b[2J" in shown.getvalue()
    assert r"no fan\x1b[31m" in shown.getvalue()
