"""Names from outside on a terminal and in a table."""

import csv
import io
import logging
from pathlib import Path

import pytest

import analysis.export.scorer.printable as of_scorer
from trainable import printable as own
from trainable.commandline import say, set_up_logging
from trainable.errors import DataError
from trainable.printable import csv_cell, printable

ESCAPES = "fan\x1b[2J\x07\r\n\x9b\u202egpj.wav"


def test_what_a_terminal_would_obey_is_shown_as_its_escape() -> None:
    assert printable(ESCAPES) == r"fan\x1b[2J\x07\r\n\x9b\u202egpj.wav"
    assert printable("Lüfter 1 – 扇.wav") == "Lüfter 1 – 扇.wav"
    assert "\x1b" not in str(DataError(f"{ESCAPES} is empty"))


def test_a_log_line_shows_a_name_as_its_escape(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    set_up_logging()
    logging.getLogger("trainable.test").warning("%s is short", ESCAPES)
    assert capsys.readouterr().err == f"WARNING trainable.test: {printable(ESCAPES)} is short\n"


def test_what_a_command_says_keeps_its_lines_and_shows_a_name_as_its_escape(capsys: pytest.CaptureFixture[str]) -> None:
    say("wrote\nfan\x1b[2J")
    assert capsys.readouterr().out == "wrote\nfan\\x1b[2J\n"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_cell_begins_a_formula(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow(map(csv_cell, (text, -0.5, None)))
    assert out.getvalue() == f"'{text},-0.5,\r\n"


def test_an_exported_scorer_has_the_same_rules() -> None:
    """It runs without this package, so it has a copy."""
    assert Path(str(of_scorer.__file__)).read_bytes() == Path(str(own.__file__)).read_bytes()
