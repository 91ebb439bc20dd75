"""A search from Python: `search.run`, `search.resume`, `search.load` and their result, on tiny recordings."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import wraps
from pathlib import Path

import pytest

import search
from search.flags import build_parser
from search.keywords import words_of
from search.run import main
from search.runners.local import LocalRunner
from spaces import space_from_mapping
from tests.analysis_tests.trained import write_recordings
from tests.reader import ROOT, own_folder, reader
from trainable import Detector
from trainable.errors import BudgetError, ConfigError, DataError, ProjectError, RunError, SpaceError
from trainable.record import RunFolder

__all__ = ["own_folder", "reader"]  # fixtures

SPACE = {
    "parameters": {"num_embeddings": {"choices": [4, 8]}, "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}},
    "fixed": {
        "width": 0.25,
        "latent_dim": 4,
        "batch_size": 4,
        "n_patches": 1,
        "stride": 32,
        "head_hidden": 8,
        "density": "counts",
    },
    "search": {"num_samples": 3, "max_epochs": 2, "grace_period": 1, "reduction_factor": 3},
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("machines"), machine_type="press")


@pytest.fixture(scope="module")
def result(machine: Path, tmp_path_factory: pytest.TempPathFactory) -> search.Result:
    output = tmp_path_factory.mktemp("runs") / "first"
    return search.run(SPACE, data_root=machine, machine_type="press", budget="8GiB", local=True, output=output)


def test_a_result_says_what_the_folder_holds(result):
    best, record = result.best, RunFolder(result.folder).read_trial(result.best.trial)
    assert result.ended
    assert result.stopped is None
    assert (best.config, best.params, best.epochs) == (record.start.config, record.start.used, 2)
    assert best.value == record.outcome.final_auc == result.table()["final_auc"].loc[best.trial]
    assert best.interval[0] <= best.value <= best.interval[1]
    assert result.summary["best"]["detector_held_out_auc"] == result.held_out.auc
    assert (result.held_out.clips.normal, result.held_out.clips.anomalous) == (12, 12)
    assert f"best trial {best.trial}, validation AUC {best.value:.3f}, held-out AUC" in repr(result)
    assert search.load(result.folder) == result == search.load(str(result.folder))


def test_what_the_manifest_records_is_a_command_that_runs(result, tmp_path):
    words = result.manifest.command.split()
    assert words[:3] == ["python", "-m", "search.run"]
    assert f"--space={result.folder}/space.yaml" in words
    assert "--gpu-memory-budget=8GiB" in words
    assert main([*words[3:], f"--output={tmp_path / 'again'}", "--quiet"]) == 0
    again = search.load(tmp_path / "again")
    assert again.best.value == result.best.value
    assert again.manifest.space_digest == result.manifest.space_digest


def test_the_report_and_the_detector(result, machine, tmp_path):
    assert result.report(with_model=False) == result.folder / "report.html"
    assert result.report(tmp_path / "page.html", with_model=False).stat().st_size > 1000
    clip = str(next((machine / "press/test").glob("anomaly_id_02_*")))
    found = Detector.load(str(result.folder / "detector")).score(clip)
    assert found == result.detector().score(Path(clip))
    assert found.machine_id == "02"
    trained = result.retrain(tmp_path / "again", alarm_rate="0.1")
    assert trained.made["run"] == "first"
    assert Detector.load(tmp_path / "again").score(clip).score == pytest.approx(trained.score(clip).score)


def test_quiet_prints_nothing_and_otherwise_what_the_command_prints(machine, tmp_path, capsys):
    flags = {"data_root": machine, "machine_type": "press", "local": True, "num_samples": 1}
    search.run(space_from_mapping(SPACE, "mine"), **flags, output=tmp_path / "quiet")
    assert capsys.readouterr().out == ""
    told = search.run(SPACE, **flags, output=tmp_path / "told", quiet=False)
    assert "1 trial: 1 completed" in capsys.readouterr().out
    assert search.load(tmp_path / "quiet").manifest.space_name == "mine"
    assert told.manifest.space_name == "space"


def test_a_resume_adds_trials_and_an_interrupt_says_how_to_go_on(machine, tmp_path, monkeypatch):
    step = LocalRunner._step

    def interrupted(runner: LocalRunner, slot: object) -> None:
        step(runner, slot)
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalRunner, "_step", interrupted)
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as stopped:
        search.run(SPACE, data_root=machine, machine_type="press", local=True, output=folder)
    assert stopped.value.__notes__ == [f"every reported epoch is saved; go on with search.resume({str(folder)!r})"]
    monkeypatch.undo()
    found = search.load(folder)
    assert not found.ended
    assert found.best is None
    assert found.held_out is None
    assert len(found.table()) == 1
    assert len(search.resume(found, num_samples=2).table()) == 2
    assert len(search.resume(folder, num_samples=3).table()) == 3
    with pytest.raises(RunError, match=r"budget_bytes None → 1\.00 GiB"):
        search.resume(folder, budget="1GiB")


def test_a_result_from_before_a_resume_does_not_count(result, tmp_path):
    shutil.copytree(result.folder, tmp_path / "resumed")
    folder = RunFolder(tmp_path / "resumed")
    folder.write_manifest(replace(folder.read_manifest(), history=({"resumed": "2026-01-01"},)))
    found = search.load(folder.path)
    assert not found.ended
    assert found.held_out is None
    assert found.best.trial == result.best.trial


@pytest.mark.parametrize(
    ("keywords", "error", "says"),
    [
        ({"num_sample": 3}, ConfigError, r"unknown keyword num_sample \(did you mean num_samples\?\)"),
        ({"n_trials": 3}, ConfigError, r"did you mean num_samples\?"),
        ({"width": 0.5}, ConfigError, "takes width from its space"),
        ({"num_samples": "many"}, ConfigError, "--num-samples: invalid int value: 'many'"),
        ({"num_samples": 0}, ConfigError, "--num-samples is 0; it must be an integer in"),
        ({"num_samples": True}, ConfigError, "num_samples is True; it must be a text, a number or a path"),
        ({"use_amp": 1}, ConfigError, "use_amp is 1; it must be True or False"),
        ({"local": "yes"}, ConfigError, "local is 'yes'; it must be True or False"),
        ({"budget": "24GB"}, ConfigError, "did you mean 24GiB"),
        ({"budget": "0GiB"}, ConfigError, "must be greater than zero"),
        ({"budget": "1GiB", "gpu_memory_budget": "1GiB"}, ConfigError, "give only one of them"),
        ({"dry_run": True}, ConfigError, "a flag of the command only"),
        ({"machine_type": "lathe"}, DataError, "lathe"),
    ],
    ids=lambda each: str(each) if isinstance(each, dict) else "",
)
def test_what_the_command_refuses_is_an_exception(machine, tmp_path, keywords, error, says):
    with pytest.raises(error, match=says) as refused:
        search.run(SPACE, data_root=machine, **{"local": True, "output": tmp_path / "run", **keywords})
    assert isinstance(refused.value, ProjectError)
    assert not (tmp_path / "run").exists()


def test_a_space_is_refused_as_a_file_is():
    with pytest.raises(SpaceError, match="did you mean 'num_embeddings'"):
        search.run({"parameters": {"num_embedding": {"choices": [4, 8]}}})
    with pytest.raises(SpaceError, match="holds what no space file can"):
        search.run({"parameters": {"num_embeddings": {"choices": [object()]}}})
    with pytest.raises(SpaceError, match="did you mean 'ad_tuning'"):
        search.run("ad_tunin")
    with pytest.raises(RunError, match="does not exist"):
        search.load("no/such/run")


def test_keywords_are_the_words_of_the_command():
    given = {"num_samples": 4, "use_amp": False, "local": False, "smallest_plan": True, "seed": None}
    listed = {"warm_start": [Path("a"), "b"], "listener": "mine", "validation_share": 0.5}
    assert words_of(build_parser(), {**given, **listed}) == [
        "--num-samples=4",
        "--no-use-amp",
        "--smallest-plan",
        *("--warm-start", "a", "b"),
        *("--listener", "mine"),
        "--validation-share=0.5",
    ]


def test_the_package_is_light_and_offers_the_function_whatever_was_imported():
    code = """
import sys, search, spaces, trainable
heavy = {"torch", "ray", "optuna", "numpy", "pandas", "yaml"} & set(sys.modules)
assert not heavy, heavy
search.load
assert not {"torch", "ray", "optuna", "pandas"} & set(sys.modules)
from search.run import main
import search.run
from search import run
assert run is search.run and run.__module__ == "search.library" and callable(main)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def cheap(function, **small):
    @wraps(function)
    def called(*words, **keywords):
        return function(*words, **{**keywords, **small})

    return called


@pytest.mark.parametrize("document", ["README.md", "docs/library.md"])
def test_documented_python_runs(document, own_folder, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    monkeypatch.setattr(search, "run", cheap(search.run, local=True, num_samples=1, max_epochs=1))
    monkeypatch.setattr(search, "resume", cheap(search.resume, num_samples=2))
    for block in blocks:
        exec(compile(block, document, "exec"), {})
    assert "auc" in capsys.readouterr().out.lower() or document == "README.md"


def test_a_budget_that_nothing_fits_is_said(machine, tmp_path):
    with pytest.raises(BudgetError):
        search.run(SPACE, data_root=machine, machine_type="press", local=True, budget="1MiB", output=tmp_path / "run")
