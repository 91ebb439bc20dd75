"""Flags from a YAML file (``--options FILE``): the names and values that the command line takes, nothing else."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from trainable.errors import ConfigError

if TYPE_CHECKING:
    from trainable.argument_parser import Parser

MOST_BYTES = 64 * 1024
NOT_IN_A_FILE = frozenset({"--help", "--version", "--options"})
_SWITCHED: Mapping[str, bool] = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class FileFlag:
    """A flag that the file gives."""

    flag: str
    """As the command line writes it, ``--num-samples`` for example."""
    words: tuple[str, ...]
    """What the command line would hold; nothing for a switch that is off anyway."""
    place: str
    """File and line, for messages."""


def read_options_file(path: Path, parser: "Parser") -> list[FileFlag]:
    """The flags of a file such as ``{num-samples: 40, use-amp: false}``, in its order.

    Values are taken as they are written, so that ``machine-type: no`` and ``learning-rate: 1e-3`` mean what they would
    on the command line. Relative paths start from the current folder, as there.

    Raises
    ------
    ConfigError
        If the file cannot be read, a name is no flag of the parser (with the nearest one) or occurs twice, or a value
        is not of the flag's kind. The message names file and line.
    """
    flags = {flag: action for flag, action in parser.flags.items() if flag not in NOT_IN_A_FILE}
    found: dict[str, FileFlag] = {}
    for key, value in _entries(path):
        place = f"--options {path}, line {key.start_mark.line + 1}"
        name = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
        flag = "--" + name.replace("_", "-")
        if flag not in flags:
            raise ConfigError(f"{place}: {name[:80]!r} is no flag of {parser.prog}{parser.instead_of(flag)}")
        if flag in found:
            raise ConfigError(f"{place}: {name} is given twice; keep one")
        found[flag] = FileFlag(flag, _words(flag, flags[flag], value, place), place)
    return list(found.values())


def _entries(path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
    """Names and values of the file's mapping. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"--options {path} has more than {MOST_BYTES} bytes; name a YAML file of flags")
        root = yaml.compose(content.decode("utf-8"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(
            f"--options {path} cannot be read: {' '.join(reason.split())[:300]}; name a YAML file of flags"
        ) from None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"--options {path} holds no flags; it needs lines such as num-samples: 40")
    return root.value


def _words(flag: str, action: argparse.Action, value: yaml.Node, place: str) -> tuple[str, ...]:
    name = flag.removeprefix("--")
    texts = [each.value for each in _scalars(value) if isinstance(each, yaml.ScalarNode)]
    if len(texts) != len(_scalars(value)) or not all(texts):
        raise ConfigError(f"{place}: {name} needs a value, as the command line takes it; give one or leave it out")
    if isinstance(value, yaml.SequenceNode) and action.nargs != "+":
        raise ConfigError(f"{place}: {name} is a list; it takes one value")
    if action.nargs == 0:
        return _switch(flag, action, texts[0], place)
    return (flag, *texts) if action.nargs == "+" else (f"{flag}={texts[0]}",)


def _scalars(value: yaml.Node) -> list[yaml.Node]:
    return value.value if isinstance(value, yaml.SequenceNode) else [value]


def _switch(flag: str, action: argparse.Action, text: str, place: str) -> tuple[str, ...]:
    on = _SWITCHED.get(text.lower())
    if on is None:
        raise ConfigError(f"{place}: {flag.removeprefix('--')} is {text[:80]!r}; it must be true or false")
    if flag != action.option_strings[0]:
        ours = action.option_strings[0].removeprefix("--")
        raise ConfigError(f"{place}: {flag.removeprefix('--')} is written {ours}: {'false' if on else 'true'}")
    if on:
        return (flag,)
    opposite = f"--no-{flag.removeprefix('--')}"
    return (opposite,) if opposite in action.option_strings else ()
