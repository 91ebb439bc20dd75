"""Cores and locks where the operating system does not offer what Linux does."""

import os
import sys
from pathlib import Path

import pytest

from search.run import main
from trainable.commandline import run
from trainable.host import available_cores


def test_cores_are_those_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 5}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert available_cores() == 12, "macOS before Python 3.13"
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1
    monkeypatch.setattr(os, "process_cpu_count", lambda: 7, raising=False)
    assert available_cores() == 7


def test_without_locks_a_search_ends_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # importing it raises ImportError, as on Windows
    assert run(main, ["--space", "ad_smoke", "--output", str(tmp_path / "run"), "--local"]) == 2
    error = capsys.readouterr().err
    assert "this system has no fcntl" in error
    assert "WSL" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
