"""What Weights & Biases is told of a search, read from the files that it keeps where it is offline."""

import json
import logging
import os
import struct
import time
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from search.engine.asha import Decision
from search.listeners import wandb as listener
from search.listeners.wandb import WandbRuns, run_id
from search.options import SearchOptions
from search.run import main
from tests.analysis_tests.trained import write_recordings
from tests.search_tests.listeners_tests.test_mlflow import SPACE
from tests.search_tests.listeners_tests.test_progress import ended, report, start
from trainable.errors import ConfigError
from trainable.record import RunFolder, TrialEnd

KEY = "feedc0de" * 5
BLOCK = 32_768
"""W&B's files are logs as LevelDB writes them: blocks of parts with a checksum, a length and a kind."""

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of wandb


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """Offline, with a key that must not be written down; variables are gone after the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)


def listen(folder: Path, identity: str = "pumps-1") -> WandbRuns:
    return WandbRuns("team/pumps", space="pumps", identity=identity, folder=folder)


def records(path: Path) -> list[Record]:
    data, position, whole, found = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        if position + 7 + size > len(data):  # not all of it is written yet
            break
        whole += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(whole))
            whole = b""
    return found


def ended_records(path: Path) -> list[Record]:
    """Its records once its end is among them: a process of W&B's own writes them."""
    deadline = time.monotonic() + 120
    kept: list[Record] = []
    while not any(record.HasField("exit") for record in kept):
        kept = records(path)
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.02)
    return kept


class Told:
    """What the files of one run say."""

    def __init__(self, path: Path):
        kept = ended_records(path)
        runs = [record.run for record in kept if record.HasField("run")]
        self.run = runs[-1]
        self.config = {
            item.key: json.loads(item.value_json) for run in runs for item in run.config.update if item.key != "_wandb"
        }
        self.history = [
            {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            for record in kept
            if record.HasField("history")
        ]
        self.summary = {
            item.key: json.loads(item.value_json)
            for record in kept
            if record.HasField("summary")
            for item in record.summary.update
            if item.key
        }
        self.exit = [record.exit.exit_code for record in kept if record.HasField("exit")]
        self.preempted = any(record.HasField("preempting") for record in kept)


def told(folder: Path) -> dict[int, list[Told]]:
    """By number of trial, the oldest first."""
    found: dict[int, list[Told]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        run = Told(path)
        found.setdefault(run.config["trial"], []).append(run)
    return found


def test_a_trial_is_a_run_with_parameters_memory_scalars_by_epoch_and_its_end(tmp_path):
    trial = start(3, num_embeddings=64, learning_rate=0.00125)
    with listen(tmp_path) as runs:
        runs.on_start(trial, resumed=False)
        runs.on_report(3, report(1, 0.6, peak_bytes=2**30), Decision.CONTINUE)
        runs.on_report(3, report(2, float("nan")), Decision.STOP)
        runs.on_end(trial, ended(TrialEnd.NON_FINITE, 2, reason="loss is NaN"))
        runs.on_end(start(4), ended(TrialEnd.OVER_BUDGET, 0, None))
    assert not runs.lost
    ((run,),) = told(tmp_path).values()
    assert (run.run.entity, run.run.project, run.run.run_group) == ("team", "pumps", "pumps-1")
    assert run.run.display_name == "pumps 00003 num_embeddings=64 learning_rate=0.00125"
    assert run.config == {"num_embeddings": 64, "learning_rate": 0.00125, "trial": 3, "predicted_bytes": 3 * 2**30}
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert set(report(1, 0.6).scalars()) <= set(run.history[0])
    assert (run.history[0]["value"], run.history[0]["peak_bytes"]) == (0.6, 2**30)
    assert run.summary["end"] == "non_finite"
    assert run.summary["reason"] == "loss is NaN"
    assert (list(run.run.tags), run.exit) == (["non_finite"], [1])


def test_a_resumed_search_goes_on_in_the_runs_it_left_and_another_has_its_own(tmp_path):
    trial = start(0, latent_dim=8)
    with listen(tmp_path) as first:
        first.on_start(trial, resumed=False)
        first.on_report(0, report(1, 0.6), Decision.SUSPEND)
    with listen(tmp_path) as resumed:
        resumed.on_start(trial, resumed=True)
        resumed.on_report(0, report(2, 0.7), Decision.STOP)
        resumed.on_end(trial, ended(TrialEnd.COMPLETED, 2))
    with listen(tmp_path, "pumps-2") as another:
        another.on_start(trial, resumed=False)
    (runs,) = told(tmp_path).values()
    by_group = {group: [run for run in runs if run.run.run_group == group] for group in ("pumps-1", "pumps-2")}
    left, gone_on = sorted(by_group["pumps-1"], key=lambda run: run.history[0]["epoch"])
    assert left.run.run_id == gone_on.run.run_id == run_id("pumps-1", 0)
    assert left.preempted
    assert not gone_on.preempted
    assert (left.exit, gone_on.exit, gone_on.summary["end"]) == ([1], [0], "completed")
    assert [run.run.run_id for run in by_group["pumps-2"]] == [run_id("pumps-2", 0)]


def test_what_fails_in_wandb_is_said_once_and_ends_nothing(tmp_path, caplog, monkeypatch):
    import wandb

    def no_server(**_: object) -> None:
        raise wandb.errors.CommError("no\nserver")

    monkeypatch.setattr(wandb, "init", no_server)
    with caplog.at_level(logging.WARNING), listen(tmp_path) as runs:
        for number in (0, 1):
            runs.on_start(start(number), resumed=False)
    (record,) = caplog.records
    assert record.getMessage().startswith("W&B failed and receives nothing more: no server; upload what is here with")


def test_what_hangs_in_wandb_does_not_keep_the_search(tmp_path, caplog, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "init", lambda **_: time.sleep(3))
    monkeypatch.setattr(listener, "FINISH_SECONDS", 0.1)
    began = time.monotonic()
    with listen(tmp_path) as runs:
        runs.on_start(start(0), resumed=False)
        assert time.monotonic() - began < 2, "events are not waited for"
    assert "has not received everything" in caplog.text


def test_what_cannot_be_used_is_said_before_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(listener, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        listen(tmp_path)


@pytest.mark.parametrize("project", ["", "a/b/c", "/pumps", "https://key@wandb.example/pumps", "a b"])
def test_a_project_is_a_name_and_anything_else_is_not_repeated(project):
    with pytest.raises(ConfigError, match="--wandb must be PROJECT or ENTITY/PROJECT; ") as refused:
        SearchOptions(space="pumps", wandb=project)
    assert "key@" not in str(refused.value)


def test_without_credentials_nothing_begins(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "setup", lambda: type("", (), {"settings": wandb.Settings(mode="online")}))
    monkeypatch.setattr(wandb, "login", lambda *, prompt: False)
    with pytest.raises(ConfigError, match="run wandb login, or set WANDB_API_KEY, or WANDB_MODE=offline"):
        listen(tmp_path)


def test_a_search_in_this_process_is_told_to_wandb_and_gives_nothing_away(tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    recordings = write_recordings(tmp_path / "machines", machine_type="press")
    folder = RunFolder(tmp_path / "press")
    words = ["--wandb", "presses", "--local", "--quiet", "--output", str(folder.path)]
    data = ["--data-root", str(recordings), "--machine-type", "press"]
    assert main(["--space", str(tmp_path / "space.yaml"), *data, *words]) == 0
    runs = told(folder.path)
    trials = folder.read_trials()
    assert set(runs) == {trial.number for trial in trials} == {0, 1, 2}
    for trial in trials:
        (run,) = runs[trial.number]
        assert trial.outcome is not None
        assert run.summary["end"] == trial.outcome.end.value
        assert {name: run.config[name] for name in trial.start.used} == trial.start.used
        assert run.config["plan"] == trial.start.to_dict()["plan"]
        assert [row["validation_auc"] for row in run.history] == [each.validation_auc for each in trial.epochs]
    for path in folder.path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    for path in folder.path.glob("wandb/**/*"):
        assert not path.is_file() or b"--quiet" not in path.read_bytes(), "the command line stays here"
