"""Runs modules in the fake card's Python, each test with a card of its own."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest

from tests.reader import ROOT

Start = Callable[..., "subprocess.Popen[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "FAKE_CARD" in os.environ:
        return
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.skip(reason="FAKE_CARD does not name the Python of a fake card"))


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
