"""A space file as YAML nodes: every value keeps its line, and nothing in the file can run, expand or explode."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainable.errors import SpaceError

MOST_BYTES = 64 * 1024
MOST_NODES = 5_000
MOST_DEPTH = 8
LARGEST_INTEGER = 2**53
"""Every integer up to this one is exact as a float."""
MOST_SHOWN = 300
"""Characters of a message; a longer one loses its middle, which is a quoted value."""
_SCALARS = {
    "tag:yaml.org,2002:int",
    "tag:yaml.org,2002:float",
    "tag:yaml.org,2002:bool",
    "tag:yaml.org,2002:str",
    "tag:yaml.org,2002:null",
}


@dataclass(frozen=True)
class Located:
    """A plain value and its line."""

    value: Any
    """A scalar, a list of Located, or a dict of key → Located."""
    line: int
    """Counted from 1."""

    def __repr__(self) -> str:
        """The value as messages quote it."""
        return repr(self.value)


@dataclass(frozen=True)
class Source:
    """The file being read, for messages."""

    name: str

    def error(self, line: int, message: str, *, known: Iterable[str] = ()) -> SpaceError:
        """Returns the error to raise; `known` are the names allowed there, all of which the message lists."""
        if len(message) > MOST_SHOWN:
            message = f"{message[: MOST_SHOWN // 2]} … {message[-MOST_SHOWN // 2 :]}"
        names = ", ".join(known)
        return SpaceError(f"{self.name}, line {line}: {message}{'; known: ' if names else ''}{names}")


def read_source(path: Path, instead: str = "name a YAML file") -> tuple[Source, str, Located]:
    """Returns the text and values of a YAML file; errors end with the advice `instead` if it cannot be read.

    Raises
    ------
    SpaceError
        If the file is missing, too large, not YAML, or uses tags or aliases: no space needs them, and with them a
        small file could run code or fill the memory.
    """
    source = Source(str(path))
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SpaceError(f"space file {path} cannot be read: {error.strerror}; {instead}") from None
    except ValueError as error:
        raise SpaceError(f"space file {str(path)!r} cannot be read: {error}; {instead}") from None
    if len(content) > MOST_BYTES:
        raise SpaceError(f"space file {path} has more than {MOST_BYTES} bytes; no space is that large")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise SpaceError(f"space file {path} is not UTF-8 text") from None
    return source, text, parse(source, text)


def parse(source: Source, text: str) -> Located:
    """Returns the values of YAML text. Raises SpaceError as `read_source` does."""
    try:
        # Check the events first: text refused here never reaches the composer, which recurses, and stops the scanner,
        # which is quadratic in the depth of brackets, early.
        _check_events(source, yaml.parse(text, Loader=yaml.SafeLoader))
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise source.error((mark.line if mark else 0) + 1, f"is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise source.error(1, f"is not YAML: {' '.join(str(error).split())}") from None
    if node is None:
        raise source.error(1, "the file is empty; a space needs at least a mapping 'parameters'")
    return _located(source, node)


def _check_events(source: Source, events: Iterable[yaml.Event]) -> None:
    """Refuses aliases, tags, and more or deeper values than a space can have."""
    depth = nodes = 0
    for event in events:
        line = event.start_mark.line + 1 if event.start_mark is not None else 1
        if isinstance(event, yaml.AliasEvent):
            raise source.error(line, "aliases (*name) are not accepted; write the value out")
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
            if event.tag is not None:  # type: ignore[attr-defined]
                raise source.error(line, f"tags ({event.tag}) are not accepted; write the plain value")  # type: ignore[attr-defined]
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if nodes > MOST_NODES or depth > MOST_DEPTH:
            raise source.error(
                line, f"more than {MOST_NODES} values or deeper than {MOST_DEPTH}; no space is that large"
            )


def _located(source: Source, node: yaml.Node) -> Located:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Located] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise source.error(key_line, "a key must be a plain name")
            if key_node.value in values:
                raise source.error(key_line, f"{key_node.value!r} is given twice")
            values[key_node.value] = _located(source, value_node)
        return Located(values, line)
    if isinstance(node, yaml.SequenceNode):
        return Located([_located(source, item) for item in node.value], line)
    if node.tag not in _SCALARS:
        kind = node.tag.rpartition(":")[2]
        raise source.error(line, f"the value {node.value!r} is a {kind}; write a number, text or true/false")
    try:
        value = yaml.SafeLoader("").construct_object(node, deep=True)
    except (ValueError, yaml.YAMLError):
        raise source.error(line, f"the value {node.value!r} cannot be read") from None
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise source.error(line, f"the value {node.value!r} is too large; at most {LARGEST_INTEGER} is accepted")
    return Located(value, line)
