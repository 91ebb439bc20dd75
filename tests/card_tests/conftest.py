"""Runs the card's benchmarks with an interpreter whose torch sees a CUDA card; skips where none is named."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.reader import ROOT

HERE = Path(__file__).parent
NO_CARD = (
    "FAKE_CARD is not set: it names a Python whose torch sees a CUDA card, which may be one that computes nothing "
    "(CONTRIBUTING.md); on a machine with a GPU run FAKE_CARD=python3 make test-card"
)
Session = Callable[..., Path]
Start = Callable[..., "subprocess.Popen[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if item.path.is_relative_to(HERE)]
    for item in mine:
        item.add_marker(pytest.mark.card)
        item.add_marker(pytest.mark.xdist_group("card"))  # what one case holds is missing for another
        if not os.environ.get("FAKE_CARD"):
            item.add_marker(pytest.mark.skip(reason=NO_CARD))


@dataclass(frozen=True)
class Card:
    """What FAKE_CARD names."""

    python: str
    """Path of the interpreter."""
    gpu: str
    """The card's name, as torch has it."""

    @property
    def is_real(self) -> bool:
        """Whether its kernels compute, and its cuDNN has workspaces."""
        return "fake" not in self.gpu.lower()


@pytest.fixture(scope="session")
def card() -> Card:
    """The interpreter and its card. Fails, with what it said, if its torch sees none."""
    named = os.environ["FAKE_CARD"]
    found = shutil.which(named)
    assert found is not None, f"FAKE_CARD is {named!r}, which is no program"
    command = [found, "-c", "import torch; print(torch.cuda.get_device_name())"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"FAKE_CARD={named}: {(done.stderr.strip() or 'no message').splitlines()[-1]}"
    return Card(found, done.stdout.strip())


@pytest.fixture
def session(card: Card, tmp_path: Path) -> Session:
    """Runs ``benchmarks.gpu_session`` with some words; returns the folder of its results."""

    def run(*words: str) -> Path:
        out = tmp_path / "results"
        command = [card.python, "-m", "benchmarks.gpu_session", "--output", str(out), "--seconds", "3000", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "ended by the error above" not in done.stdout, done.stderr
        return out

    return run


def small(out: Path) -> dict[str, Any]:
    """The sections of a session that have few rows, and the versions."""
    values: dict[str, Any] = json.loads((out / "session.json").read_text("utf-8"))
    return values


def rows(out: Path, section: str) -> list[dict[str, str]]:
    """The rows of a large section."""
    with (out / f"{section}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts ``python -m`` on the test's card; ``context_mib``, ``total_mib`` and ``no_vmm`` are the card's."""
    packages = tmp_path / "packages"
    packages.mkdir()
    shutil.copy(pynvml.__file__, packages)  # a module of one file, which the fake card's Python need not have
    books = tmp_path / "books"
    started = []

    def begin(
        *command: str, context_mib: int = 520, total_mib: int = 81_088, no_vmm: bool = False
    ) -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("FAKE_", "PYTORCH_"))}
        environment |= {
            "FAKE_SHM": str(books),
            "FAKE_CONTEXT_MIB": str(context_mib),
            "FAKE_TOTAL_MIB": str(total_mib),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(packages)]),
            **({"FAKE_NO_VMM": "1"} if no_vmm else {}),
        }
        process = subprocess.Popen(
            [os.environ["FAKE_CARD"], "-m", *command],
            env=environment,
            cwd=tmp_path,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:  # the test failed before it ended
            process.kill()
        process.communicate()
