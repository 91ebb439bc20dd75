"""``--resume`` on the command line: what was begun can be gone on with, what differs is shown."""

import errno
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import search.session
from search.run import main
from spaces.loader import load_space
from tests.analysis_tests.trained import write_recordings
from tests.search_tests.test_run import SPACE
from trainable.commandline import run
from trainable.errors import RunError
from trainable.record import RunFolder

SMALL = SPACE.replace("width: 0.25", "width: 0.125")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    return write_recordings(tmp_path / "machines", machine_type="press", train=6, test=4)


@pytest.fixture
def arguments(machine: Path, tmp_path: Path) -> list[str]:
    space = tmp_path / "space.yaml"
    space.write_text(SMALL)
    words = ["--space", str(space), "--data-root", str(machine), "--machine-type", "press", "--local", "--quiet"]
    return [*words, "--output", str(tmp_path / "run")]


def test_an_interrupt_before_the_first_trial_leaves_nothing_in_the_way(arguments, tmp_path, monkeypatch, capsys):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("load_dataset", "Conductor"):
        with monkeypatch.context() as patch:
            patch.setattr(search.session, name, interrupt)
            assert run(main, arguments) == 130
        assert "nothing was saved" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
    assert main([*arguments, "--num-samples", "1"]) == 0


def test_a_flags_mistake_is_not_the_manifests(arguments, tmp_path, capsys):
    assert main([*arguments, "--num-samples", "1"]) == 0
    assert run(main, ["--resume", str(tmp_path / "run"), "--time-limit", "banana"]) == 2
    said = capsys.readouterr().err
    assert "--time-limit is 'banana'" in said
    assert "manifest.json" not in said


def test_a_search_killed_before_its_manifest_may_be_begun_again(arguments, tmp_path, capsys):
    """``kill -9`` cleans nothing up."""
    (tmp_path / "run").mkdir()
    for name in (".lock", "space.yaml", ".manifest.json.4711.tmp", ".space.yaml.4711.tmp"):
        (tmp_path / "run" / name).write_text("")
    assert main([*arguments, "--num-samples", "1"]) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("")
    assert run(main, [*arguments[:-1], str(tmp_path / "other")]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "other/mine.txt").exists()


def test_a_search_killed_before_its_study_is_resumed(arguments, tmp_path, monkeypatch):
    class Killed(BaseException):
        """As ``kill -9``: nothing is cleaned up."""

    def kill(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(search.session, "_study", kill)
    monkeypatch.setattr(sys.modules["search.run"], "_remove_if_empty", lambda request: None)
    with pytest.raises(Killed):
        main([*arguments, "--num-samples", "1"])
    monkeypatch.undo()
    assert main(["--resume", str(tmp_path / "run"), "--quiet"]) == 0
    assert len(RunFolder(tmp_path / "run").read_trials()) == 1


@pytest.mark.parametrize(("before", "learned"), [("cpu", [[0]]), ("cuda:0", [])])
def test_only_epochs_on_this_kind_of_device_say_how_long_one_takes(arguments, tmp_path, monkeypatch, before, learned):
    assert main([*arguments, "--device", "cpu", "--num-samples", "1"]) == 0
    folder = RunFolder(tmp_path / "run")
    folder.write_manifest(replace(folder.read_manifest(), device=before))
    asked: list[list[int]] = []
    monkeypatch.setattr(
        search.session.Pace, "learn_from", lambda pace, records: asked.append([record.number for record in records])
    )
    assert main(["--resume", str(folder.path), "--quiet", "--device", "cpu"]) == 0
    assert asked == learned


def test_another_space_is_refused_parameter_by_parameter_or_taken_into_the_folder(arguments, tmp_path, capsys):
    path = str(tmp_path / "run")
    main([*arguments, "--num-samples", "2"])
    other = tmp_path / "other.yaml"
    changed = SMALL.replace("[4, 8]", "[4, 16]").replace("high: 1.0e-2", "high: 1.0e-1").replace("  stride: 32\n", "")
    other.write_text(changed.replace("fixed:", "  stride: {choices: [16, 32]}\nfixed:"))
    capsys.readouterr()
    assert run(main, ["--resume", path, "--space", str(other)]) == 2
    differences = [
        "learning_rate 0.001 … 0.01 log → 0.001 … 0.1 log",
        "num_embeddings [4, 8] → [4, 16]",
        "stride not searched → [16, 32]",
        "fixed stride 32 → none",
    ]
    refused = capsys.readouterr().err
    assert f"space space: {', '.join(differences)}; resume it with the same ones" in refused
    more = ["--resume", path, "--quiet", "--num-samples", "4"]
    assert main([*more, "--space", str(other), "--allow-changes"]) == 0
    folder = RunFolder(path)
    assert load_space(str(folder.space_path)).digest == load_space(str(other)).digest
    assert folder.read_manifest().history[-1]["changes"] == [f"space space: {', '.join(differences)}"]
    assert main(more) == 0, "from now on it is the run's space"
    assert len(folder.read_trials()) == 4


@pytest.mark.parametrize("started", [True, False])
def test_a_run_from_before_the_smallest_plan_had_a_flag_goes_on_with_what_it_meant(arguments, tmp_path, started):
    """Its ``--memory-saver`` meant the smallest plan, in float32; both runs of the test plan alike."""
    folder = RunFolder(tmp_path / "run")
    assert main([*arguments, "--num-samples", "1", *(["--smallest-plan"] if started else [])]) == 0
    manifest = folder.read_manifest()
    earlier = {name: value for name, value in manifest.options.items() if name != "smallest_plan"}
    folder.write_manifest(replace(manifest, options={**earlier, "memory_saver": started}))
    assert main(["--resume", str(folder.path), "--quiet", "--num-samples", "2"]) == 0
    first, second = folder.read_trials()
    for record in (first, second):
        plan = record.start.plan
        assert plan is not None
        smallest = plan.micro_batch_clips == 1 and plan.recompute_encoder and plan.recompute_decoder
        assert (smallest, plan.precision) == (started, "float32")
    resumed = folder.read_manifest()
    assert (resumed.options["smallest_plan"], resumed.options["memory_saver"]) == (started, False)
    assert resumed.history[-1]["changes"] == []


def test_a_resume_with_the_memory_saver_of_today_is_a_change(arguments, tmp_path, capsys):
    assert main([*arguments, "--num-samples", "1"]) == 0
    assert run(main, ["--resume", str(tmp_path / "run"), "--quiet", "--memory-saver"]) == 2
    assert "memory_saver False → True" in capsys.readouterr().err
    assert run(main, ["--resume", str(tmp_path / "run"), "--memory-saver", "--no-use-amp"]) == 2
    assert "--memory-saver switches mixed precision on and --no-use-amp switches it off" in capsys.readouterr().err


def test_recordings_that_changed_between_search_and_resume_are_one_line_and_nothing_is_lost(
    arguments, machine, tmp_path, capsys
):
    main([*arguments, "--num-samples", "1"])
    folder = RunFolder(tmp_path / "run")
    clips = folder.read_manifest().clips
    assert clips["train"] >= 6
    assert set(clips) == {"train", "validation", "held_out"}
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.suffix in (".json", ".jsonl", ".yaml")}
    first, second = sorted((machine / "press/train").iterdir())[:2]
    whole = first.read_bytes()
    fewer = f"the recordings of {machine} have changed (clips train {clips['train']} → {clips['train'] - 1})"
    changes = [
        (first.unlink, fewer),
        (lambda: first.write_bytes(whole[:-100]), fewer),
        (lambda: first.write_bytes(second.read_bytes()), fewer),  # a copy counts once
        (lambda: np.save(first, np.load(first)[:, ::-1]), "the same number of clips, but different ones"),
        (lambda: machine.rename(tmp_path / "elsewhere"), f"data root {machine} does not exist; check --data-root"),
    ]
    for change, said in changes:
        change()
        capsys.readouterr()
        assert run(main, ["--resume", str(folder.path), "--quiet", "--num-samples", "2"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert {path: path.read_bytes() for path in before} == before
        if first.parent.exists():
            first.write_bytes(whole)
    (tmp_path / "elsewhere").rename(machine)
    assert main(["--resume", str(folder.path), "--quiet", "--num-samples", "2"]) == 0
    assert folder.read_manifest().history[-1]["changes"] == []


def test_recordings_that_are_lost_in_mid_search_change_nothing(arguments, machine, tmp_path, monkeypatch):
    """They are in memory, and so is what the cache held of them."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("AD_CACHE_DIR", str(cache))
    whole = RunFolder(tmp_path / "whole")
    assert main([*arguments[:-1], str(whole.path), "--num-samples", "2"]) == 0
    append = RunFolder.append_epoch

    def lost_before(folder: RunFolder, *given: Any) -> None:
        shutil.rmtree(machine, ignore_errors=True)
        for path in cache.iterdir():
            os.truncate(path, 100)
        append(folder, *given)

    monkeypatch.setattr(RunFolder, "append_epoch", lost_before)
    assert main([*arguments, "--num-samples", "2"]) == 0
    assert not machine.exists()
    for name in ("best_path", "summary_path"):
        one, other = (getattr(RunFolder(path), name).read_text() for path in (whole.path, tmp_path / "run"))
        assert re.sub(r'"seconds": .*', "", one) == re.sub(r'"seconds": .*', "", other)


def test_a_run_moves_into_a_database_and_loses_nothing(arguments, tmp_path):
    main([*arguments, "--num-samples", "2"])
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    more = ["--resume", str(tmp_path / "run"), "--quiet", "--num-samples", "3", "--study-storage", url]
    assert main(more) == 0
    folder = RunFolder(tmp_path / "run")
    assert [len(record.epochs) > 0 for record in folder.read_trials()] == [True] * 3
    manifest = folder.read_manifest()
    assert manifest.study_name == manifest.identity
    import optuna

    trials = optuna.load_study(study_name=manifest.study_name, storage=url).trials
    assert [trial.params for trial in trials] == [record.start.params for record in folder.read_trials()]


def test_files_are_forced_to_disk_with_their_names(tmp_path, monkeypatch):
    """Reports must survive a power cut: each new name is followed by an fsync of its folder."""
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")) or fsync(fd))
    from tests.trainable_tests.test_record import MANIFEST, OUTCOME, START, report

    folder = RunFolder(tmp_path / "new/run")
    folder.write_manifest(MANIFEST)
    assert {str(tmp_path), str(tmp_path / "new"), str(folder.path)} <= set(synced)
    trial = folder.trial_path(7)
    for write in (
        lambda: folder.write_start(START),
        lambda: folder.append_epoch(7, report(1)),
        lambda: folder.write_outcome(7, OUTCOME),
    ):
        synced.clear()
        write()
        assert synced[-1] == str(trial)
        assert str(trial) not in synced[:-1]
    for path in (folder.space_path, folder.best_path):
        folder.write_text(path, "text")
        assert synced[-1] == str(folder.path)
    assert [path.name for path in folder.path.iterdir() if path.suffix == ".tmp"] == []


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write_text(folder.space_path, "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"space\.yaml cannot be written: No space left on device; make room"):
        folder.write_text(folder.space_path, "new")
    monkeypatch.undo()
    assert folder.space_path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["space.yaml"]
