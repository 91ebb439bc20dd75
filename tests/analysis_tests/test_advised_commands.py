"""Every command that advice names is run, and means the recordings and the budget of the run it is of."""

import shlex
from pathlib import Path

import pytest

from analysis import advice
from analysis.advice import next_steps
from analysis.results import load_run
from tests.reader import own_folder, reader, run_module  # noqa: F401 (fixtures)
from trainable.record import RunFolder

SEARCH = "--space my_space.yaml --data-root recordings --machine-type fan --gpu-memory-budget 2GiB --local --quiet"
CHEAP = {"search.run": "--local --quiet --num-samples 2", "analysis.best": "--seeds 1"}
"""What is appended to each; nothing that says what is searched."""


def test_every_advised_command_runs(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    run_module(["search.run", *SEARCH.split(), "--max-epochs", "4", "--output", "runs/advised"])
    monkeypatch.setattr(advice, "RISING_AUC", -1.0)
    steps = [step for step in next_steps(load_run("runs/advised")) if step.command]
    assert [step.title for step in steps] == [
        "Train longer",
        "Search more",
        "Train the detector on all normal clips",
        "Begin another search where this one ended",
    ]
    asked = RunFolder("runs/advised").read_manifest()
    for step in steps:
        before = set(Path("runs").iterdir())
        words = shlex.split(step.command)
        run_module([*words[2:], *CHEAP[words[2]].split()])
        for path in set(Path("runs").iterdir()) - before:
            made = RunFolder(path).read_manifest()
            assert (made.data_digest, made.space_digest) == (asked.data_digest, asked.space_digest)
            assert made.gpu_memory_budget_bytes == asked.gpu_memory_budget_bytes
            assert made.max_epochs == asked.max_epochs * (2 if step.title == "Train longer" else 1)
    assert len(RunFolder("runs/advised").read_manifest().history) == 1
    assert (Path("detector") / "detector.json").exists()


def test_an_interrupted_search_goes_on_by_the_advised_command(own_folder: Path) -> None:  # noqa: F811
    folder = RunFolder("runs/first")
    folder.summary_path.unlink()
    step = next_steps(load_run(folder.path))[0]
    assert step.title == "Let the search end"
    run_module([*shlex.split(step.command)[2:], "--local", "--quiet"])
    assert folder.summary_path.exists()
