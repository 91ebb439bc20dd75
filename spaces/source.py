"""A space file as YAML nodes: every value keeps its line, and nothing in the file can run, expand or explode."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainable.errors import SpaceError

MOST_BYTES = 64 * 1024
MOST_NODES = 5_000
MOST_DEPTH = 8
_SCALARS = {
    "tag:yaml.org,2002:int",
    "tag:yaml.org,2002:float",
    "tag:yaml.org,2002:bool",
    "tag:yaml.org,2002:str",
    "tag:yaml.org,2002:null",
}


@dataclass(frozen=True)
class Located:
    """A plain value and where it stood."""

    value: Any
    """A scalar, a list of Located, or a dict of key → Located."""
    line: int
    """From 1."""


@dataclass(frozen=True)
class Source:
    """The file being read, for messages."""

    name: str

    def error(self, line: int, message: str) -> SpaceError:
        return SpaceError(f"{self.name}, line {line}: {message}")


def read_source(path: Path) -> tuple[Source, str, Located]:
    """Text and values of a YAML file.

    Raises
    ------
    SpaceError
        If the file is missing, too large, not YAML, or uses tags or aliases, which no space needs and with which a
        small file could run code or fill the memory.
    """
    source = Source(str(path))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpaceError(f"space file {path} cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise SpaceError(f"space file {path} has {len(content)} bytes; at most {MOST_BYTES} are accepted")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise SpaceError(f"space file {path} is not UTF-8 text") from None
    return source, text, parse(source, text)


def parse(source: Source, text: str) -> Located:
    """Values of YAML text. Raises SpaceError as `read_source` does."""
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent) and event.start_mark is not None:
                raise source.error(event.start_mark.line + 1, "aliases (*name) are not accepted; write the value out")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise source.error((mark.line if mark else 0) + 1, f"is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise source.error(1, f"is not YAML: {' '.join(str(error).split())}") from None
    if node is None:
        raise source.error(1, "the file is empty; a space needs at least a mapping 'parameters'")
    return _located(source, node, iter(range(MOST_NODES)), 0)


def _located(source: Source, node: yaml.Node, budget: Iterator[int], depth: int) -> Located:
    line = node.start_mark.line + 1
    if next(budget, None) is None or depth > MOST_DEPTH:
        raise source.error(line, f"more than {MOST_NODES} values or deeper than {MOST_DEPTH}; no space is that large")
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Located] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise source.error(key_line, "a key must be a plain name")
            if key_node.value in values:
                raise source.error(key_line, f"{key_node.value!r} is given twice")
            values[key_node.value] = _located(source, value_node, budget, depth + 1)
        return Located(values, line)
    if isinstance(node, yaml.SequenceNode):
        return Located([_located(source, item, budget, depth + 1) for item in node.value], line)
    if node.tag not in _SCALARS:
        raise source.error(
            line, f"the value {node.value!r} has the type {node.tag}; write a number, text or true/false"
        )
    try:
        return Located(yaml.SafeLoader("").construct_object(node, deep=True), line)
    except (ValueError, yaml.YAMLError, OverflowError):
        raise source.error(line, f"the value {node.value!r} cannot be read") from None
