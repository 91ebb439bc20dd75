"""The commands of the project by name, and how a command was called: ``vqad search`` or ``python -m search.run``."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAM = "vqad"


@dataclass(frozen=True)
class Command:
    """A command of the project."""

    module: str
    """What ``python -m`` runs."""
    help: str
    """What it does, in a line."""
    main: str = ""
    """The module that holds its `main` and `build_parser`; empty = `module`."""


COMMANDS: Mapping[str, Command] = {
    "search": Command("search.run", "search hyperparameters under a GPU memory budget, or resume a search"),
    "plan": Command("search.plan", "show what a memory budget allows, without training"),
    "recordings": Command("trainable.recordings", "say what recordings a folder holds; draft a table of them"),
    "train": Command("trainable.train", "train a single configuration"),
    "score": Command("trainable.score", "score recordings with a saved detector"),
    "best": Command("analysis.best", "show the best configurations of a run; train a detector of them"),
    "report": Command("analysis.report", "write one page about a run"),
    "runs": Command("analysis.runs", "list runs side by side, or compare two"),
    "notebooks": Command(
        "analysis.notebooks", "execute the analysis notebooks on a run", main="analysis.notebooks.__main__"
    ),
    "dcase-table": Command("analysis.dcase_table", "compare a configuration with the baseline of DCASE 2020 Task 2"),
}
_NAMES = {command.module: name for name, command in COMMANDS.items()}
_MODULE_CALL = re.compile(rf"python -m ({'|'.join(map(re.escape, _NAMES))})(?!\.?\w)")


def as_called(text: str) -> str:
    """A text in which the project's commands are written as the running one was called.

    Texts are written with ``python -m search.run``; in a process that `vqad` began this becomes ``vqad search``.
    """
    if Path(sys.argv[0]).stem != PROGRAM:
        return text
    return _MODULE_CALL.sub(lambda call: f"{PROGRAM} {_NAMES[call[1]]}", text)
