"""Every command that docs/results.md shows is run, on a real small search."""

import glob
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.analysis_tests.trained import write_recordings

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
pytestmark = pytest.mark.timeout(300)
PARSED_ONLY = ("trainable.train", "search.run", "analysis.notebooks")
"""Their own tests run them; here their flags are checked."""


def shown_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def inline_commands() -> list[str]:
    return re.findall(r"`(python -m [^`]+)`", PAGE.read_text(encoding="utf-8"))


def test_the_page_shows_commands() -> None:
    assert len(shown_commands()) >= 12
    assert len(inline_commands()) >= 6


@pytest.fixture
def project(tmp_path: Path, trained_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the page supposes it: runs/fan, data/, recordings/."""
    shutil.copytree(trained_path, tmp_path / "runs" / "fan")
    write_recordings(tmp_path / "data", train=4, test=4)
    write_recordings(tmp_path / "more", train=1, test=2)
    shutil.move(tmp_path / "more" / "grinder" / "test", tmp_path / "recordings")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_shown_commands_work_in_their_order(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in shown_commands():
        command = line.replace("*.wav", "*.npy")  # the recordings of these tests are precomputed features
        if "dcase_table" in command:
            command += " --epochs 1 --quiet"
        if "|" in command:
            python = f"{shlex.quote(sys.executable)} -m"
            done = subprocess.run(
                command.replace("python -m", python), shell=True, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("\n") == 1 + 8
            continue
        words = shlex.split(command)
        assert words[:2] == ["python", "-m"]
        module = words[2]
        arguments = [name for word in words[3:] for name in (sorted(glob.glob(word)) if "*" in word else [word])]
        if module in PARSED_ONLY:
            assert parser_of(module).parse_args(arguments)
        else:
            assert import_module(module).main(arguments) == 0, line
    out = capsys.readouterr().out
    assert "wrote detector" in out
    for name in (
        "runs/fan/report.html",
        "page.html",
        "best/best.json",
        "detector/detector.json",
    ):
        assert (project / name).is_file()
    assert (project / "dcase-results" / "result.csv").is_file()
    assert (project / "dcase-results" / "seed-2").is_dir()


@pytest.mark.parametrize("command", inline_commands())
def test_commands_within_the_text_have_real_flags(command: str) -> None:
    words = shlex.split(command)
    assert parser_of(words[2]).parse_args(words[3:])


def parser_of(module: str):  # type: ignore[no-untyped-def]
    if module == "analysis.notebooks":
        module = "analysis.notebooks.__main__"
    if module == "search.run":
        module = "search.arguments"
    return import_module(module).build_parser()


def test_the_script_on_the_page_runs(project: Path) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(script, str(PAGE), "exec"), {})
    assert (project / "memory.svg").stat().st_size > 1000
