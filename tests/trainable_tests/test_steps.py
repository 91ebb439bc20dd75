"""Steps of a command: lines where nobody watches, a bar where somebody does, nothing where it is not asked for."""

import io
import time

import pytest
from rich.console import Console

from trainable.steps import told_steps


def test_a_long_step_is_told_again_and_again_and_a_short_one_not(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    with told_steps(Console(file=out)) as steps:
        steps.expect(1)
        steps.begin("reading")
    assert out.getvalue() == ""
    monkeypatch.setattr("trainable.steps.LINE_SECONDS", 0.1)
    with told_steps(Console(file=out)) as steps:
        steps.expect(4)
        steps.begin("reading")
        steps.begin("scoring [held-out] clips")
        end = time.monotonic() + 120
        while out.getvalue().count("\n") < 2 and time.monotonic() < end:
            time.sleep(0.05)
    first, second, *_ = out.getvalue().splitlines()
    assert first.startswith("[#####---------------] 1 of 4 steps done; now: scoring [held-out] clips, ")
    assert second.startswith("[#####")


def test_a_terminal_has_a_bar_that_goes_and_quiet_shows_nothing() -> None:
    out = io.StringIO()
    with told_steps(Console(file=out, force_terminal=True, width=80)) as steps:
        steps.begin("reading")
        time.sleep(0.3)
    assert "reading" in out.getvalue()
    quiet = io.StringIO()
    with told_steps(Console(file=quiet, force_terminal=True), quiet=True) as steps:
        steps.begin("reading")
    assert quiet.getvalue() == ""
