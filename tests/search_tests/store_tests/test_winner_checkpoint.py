"""The winner's held-out AUC is of the very weights that its trial is reported for, or there is none and it says why."""

import json
import re
from pathlib import Path

import pytest
import torch

import search.winning_models
from search.run import main
from tests.analysis_tests.trained import write_recordings
from tests.search_tests.test_run import SPACE
from trainable.record import RunFolder
from trainable.training.checkpoint import list_checkpoints, read_checkpoint, write_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole search of one trial."""
    folder = tmp_path_factory.mktemp("winner")
    machine = write_recordings(folder / "machines", machine_type="press", train=6, test=4)
    (folder / "space.yaml").write_text(SPACE.replace("width: 0.25", "width: 0.125"))
    words = ["--space", str(folder / "space.yaml"), "--data-root", str(machine), "--machine-type", "press", "--local"]
    assert main([*words, "--quiet", "--num-samples", "1", "--output", str(folder / "run")]) == 0
    return folder / "run"


def winner(run: Path) -> dict:
    """What the summary says of it when the search, which is over, is resumed."""
    assert main(["--resume", str(run)]) == 0
    best = json.loads((run / "summary.json").read_text())["best"]
    return {name: best[name] for name in ("trial", "epochs", "validation_auc", "held_out_auc", "held_out_interval")}


WRONG = {
    "truncated": None,
    "of something else": {"x": 1},
    "of values of other types": {"trainer": 5, "best_auc": 1, "best_epoch": 1},
    "of a list where a name was": {"trainer": {"config": []}, "best_auc": 0.5, "best_epoch": 1},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_newest_checkpoint_that_is_no_good_is_passed_over_and_its_epoch_trained_again(run, wrong, caplog):
    before = winner(run)
    assert before["epochs"] == 3
    assert before["held_out_auc"] is not None
    checkpoints = list_checkpoints(RunFolder(run).checkpoint_path(0))
    good = checkpoints[3].read_bytes()
    try:
        if WRONG[wrong] is None:
            checkpoints[3].write_bytes(good[:-9])
        else:
            write_checkpoint(checkpoints[3], WRONG[wrong])
        assert winner(run) == before
        assert "training resumes from epoch 2" in caplog.text
    finally:
        checkpoints[3].write_bytes(good)


def test_a_checkpoint_of_a_later_epoch_than_the_one_reported_is_not_taken(run):
    before = winner(run)
    checkpoints = list_checkpoints(RunFolder(run).checkpoint_path(0))
    later = checkpoints[3].with_name("epoch-000004.ckpt")
    state = read_checkpoint(checkpoints[3])
    state["trainer"]["model"] = {name: torch.zeros_like(each) for name, each in state["trainer"]["model"].items()}
    write_checkpoint(later, state)
    try:
        assert winner(run) == before
    finally:
        later.unlink()


def test_other_weights_than_those_reported_get_no_held_out_score(run, monkeypatch, caplog, capsys):
    checkpoints = list_checkpoints(RunFolder(run).checkpoint_path(0))
    good = checkpoints[3].read_bytes()
    monkeypatch.setattr(search.winning_models, "SAME_AUC", -1.0)
    checkpoints[3].unlink()
    try:
        found = winner(run)
    finally:
        checkpoints[3].write_bytes(good)
    assert found["held_out_auc"] is None
    assert found["validation_auc"] is not None
    assert "not measured: its last checkpoint is lost" in " ".join(
        re.sub(r"[│\n]", " ", capsys.readouterr().out).split()
    )
    assert "the winner's held-out AUC cannot be measured: its last checkpoint is lost" in caplog.text
