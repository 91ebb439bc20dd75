"""Keywords of `search.run` in Python as the words of the command of that name, whose parser then checks them."""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from trainable.argument_parser import Parser
from trainable.errors import ConfigError

OF_THE_COMMAND = {
    "help": "use help(search.run)",
    "version": "use importlib.metadata.version('vqvae-ad-search')",
    "resume": "use search.resume(run)",
    "dry_run": "use python -m search.run --dry-run",
}
"""Flags that are no keywords, and what to do instead."""


def words_of(parser: Parser, keywords: Mapping[str, Any]) -> list[str]:
    """The words that give these values to a parser's flags; a flag whose value is None is left out.

    Parameters
    ----------
    keywords
        By the flags' names with underscores. A switch takes True or False; a flag that takes several values, or may be
        repeated, takes one or a sequence of them; every other flag a text, a number or a path.

    Raises
    ------
    ConfigError
        For a name that is no flag, with the nearest one, and for a value that its flag cannot take.
    """
    words: list[str] = []
    for name, value in keywords.items():
        if name in OF_THE_COMMAND:
            raise ConfigError(f"{name} is a flag of the command only; {OF_THE_COMMAND[name]}")
        flag = "--" + name.replace("_", "-")
        if flag not in parser.flags:
            raise ConfigError(f"unknown keyword {name}{_as_keyword(parser.instead_of(flag))}")
        if value is not None:
            words += _words(flag, parser.flags[flag], name, value)
    return words


def _as_keyword(text: str) -> str:
    """A text with its flags written as keywords."""
    return re.sub(r"--([a-z][a-z-]*)", lambda flag: flag[1].replace("-", "_"), text)


def _words(flag: str, action: argparse.Action, name: str, value: Any) -> list[str]:
    if action.nargs == 0:
        return _switch(flag, action, name, value)
    if action.nargs == "+":
        return [flag, *_texts(name, value)]
    return [f"{flag}={_text(name, value)}"]


def _switch(flag: str, action: argparse.Action, name: str, value: Any) -> list[str]:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it must be True or False")
    opposite = f"--no-{flag.removeprefix('--')}"
    return [flag] if value else [opposite] if opposite in action.option_strings else []


def _texts(name: str, value: Any) -> list[str]:
    several = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    return [_text(name, each) for each in several]


def _text(name: str, value: Any) -> str:
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, bool) or not isinstance(value, str | Real):
        raise ConfigError(f"{name} is {value!r}; it must be a text, a number or a path")
    return str(value)
