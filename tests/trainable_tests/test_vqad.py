"""``vqad``: every command under one name, which its texts then use; completion for shells."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from trainable import vqad
from trainable.commands import COMMANDS, as_called

ROOT = Path(__file__).parents[2]


@pytest.fixture
def called_as_vqad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/vqad"])


def test_the_console_script_is_this_one() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"vqad": f"{vqad.__name__}:{vqad.main.__name__}"}


def test_every_command_has_a_line_of_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        vqad.main([])
    assert ended.value.code in (0, None)
    shown = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.help)}$", shown, re.MULTILINE)


@pytest.mark.usefixtures("called_as_vqad")
@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_errors_show_the_command_as_it_was_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        vqad.main([name, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: vqad {name} [-h] [--version]")
    assert "python -m" not in shown
    assert "`" not in shown
    assert vqad.main([name, "--nothing-such"]) == 2
    assert capsys.readouterr().err.endswith(f"; see vqad {name} --help\n")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_module_prints_itself(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    module = import_module(command.main or command.module)  # type: ignore[attr-defined]
    with pytest.raises(SystemExit):
        module.main(["--help"])
    assert " ".join(capsys.readouterr().out.split()).startswith(f"usage: python -m {command.module} [-h]")  # type: ignore[attr-defined]


def test_texts_name_commands_as_they_were_called(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "resume with python -m search.run --resume x; see python -m search.runs and python -m trainable.score."
    assert as_called(text) == text
    monkeypatch.setattr(sys, "argv", ["vqad", "search"])
    assert as_called(text) == "resume with vqad search --resume x; see python -m search.runs and vqad score."


def test_an_unknown_command_is_answered_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert vqad.main(["serch", "--help"]) == 2
    assert capsys.readouterr().err.startswith("error: vqad has no command 'serch'; did you mean 'search'?; there are")


@pytest.mark.parametrize("shell", vqad.SHELLS)
def test_a_shell_completes_commands_and_flags(shell: str, tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    script = vqad.completion(shell)
    assert all(name in script for name in COMMANDS)
    assert "gpu-memory-budget" in script
    if shell == "bash":
        (tmp_path / "script").write_text(script)
        bash = shutil.which("bash")
        assert bash is not None
        subprocess.run([bash, "-n", str(tmp_path / "script")], check=True)
