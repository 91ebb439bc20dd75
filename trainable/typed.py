"""Plain JSON values → a frozen dataclass, each field checked against its annotation. Standard library only."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """An instance of a dataclass from JSON values; lists become tuples where the field is a tuple.

    Raises
    ------
    ValueError
        For a missing or unknown field, or a value of another type than the field's: one sentence that names it.
    """
    hints, required = _known(cls)  # type: ignore[arg-type]  # classes are hashable
    unknown = sorted(set(values) - set(hints), key=str)
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}")
    missing = sorted(required - set(values))
    if missing:
        raise ValueError(f"the field {missing[0]!r} is missing")
    return cls(**{name: _fitted(hints[name], value, name) for name, value in values.items()})


@lru_cache(maxsize=64)
def _known(cls: type[Any]) -> tuple[dict[str, Any], frozenset[str]]:
    hints = get_type_hints(cls)
    required = (each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING)
    return {each.name: hints[each.name] for each in fields(cls)}, frozenset(required)


def _fitted(hint: Any, value: Any, where: str) -> Any:
    """The value converted to the annotation's type; raises ValueError if it is of another type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (each for each in arguments if each is not type(None))
        return _fitted(inner, value, where)
    if origin is Literal:
        if value in arguments:
            return value
    elif origin is dict:
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {key: _fitted(arguments[1], each, f"{where}[{key!r}]") for key, each in value.items()}
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_fitted(arguments[0], each, f"{where}[{index}]") for index, each in enumerate(value))
    elif issubclass(hint, Enum):
        if isinstance(value, str) and value in [each.value for each in hint]:
            return hint(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"{where} is {_shown(value)}, which is not of type {_name(hint)}")


def _as_float(value: int, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{where} is larger than any float") from None


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists in lists without end
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:80] + " …"


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint).replace("typing.", "")
