"""Plain JSON values → a frozen dataclass, each field checked against its annotation. Standard library only.

What is read back from disk enters here: an annotation says the type, and beside it, as in
``Annotated[float, Within(low=0.0)]``, the range of a number or the length of a list.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Limit(Protocol):
    """What stands beside a type in ``Annotated``."""

    def holds(self, value: Any) -> bool:
        """Whether a value of that type is accepted."""
        ...


@dataclass(frozen=True, kw_only=True)
class Within:
    """Range of a number, both bounds included; never NaN or infinite."""

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    """A lower bound that is not included."""

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high and (value > self.above) and abs(value) != math.inf

    def __str__(self) -> str:
        bounds = [("at least", self.low), ("above", self.above), ("at most", self.high)]
        return " and ".join(f"{word} {bound:.6g}" for word, bound in bounds if math.isfinite(bound)) or "finite"


@dataclass(frozen=True)
class Length:
    """Number of a list's values."""

    count: int

    def holds(self, value: tuple[Any, ...]) -> bool:
        return len(value) == self.count

    def __str__(self) -> str:
        return f"a list of {self.count} values"


Finite = Annotated[float, Within()]
Positive = Annotated[float, Within(above=0.0)]
Share = Annotated[float, Within(low=0.0, high=1.0)]
Count = Annotated[int, Within(low=0, high=2**53)]
"""Up to 2⁵³ every integer is a float, too."""
CountFromOne = Annotated[int, Within(low=1, high=2**53)]


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """An instance of a dataclass from JSON values; lists become tuples and mappings dataclasses where fields are such.

    Raises
    ------
    ValueError
        For values that are no mapping, a missing or unknown field, or a value of another type than the field's or
        beyond its limits: one sentence that names it.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{_shown(values)} is not a JSON object")
    hints, required = _known(cls)  # type: ignore[arg-type]  # classes are hashable
    unknown = sorted(set(values) - set(hints), key=str)
    if unknown:
        raise ValueError(f"unknown field {_shown(unknown[0])}")
    missing = sorted(required - set(values))
    if missing:
        raise ValueError(f"the field {missing[0]!r} is missing")
    return cls(**{name: _fitted(hints[name], value, name) for name, value in values.items()})


@lru_cache(maxsize=64)
def _known(cls: type[Any]) -> tuple[dict[str, Any], frozenset[str]]:
    hints = get_type_hints(cls, include_extras=True)
    required = (each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING)
    return {each.name: hints[each.name] for each in fields(cls)}, frozenset(required)


def _fitted(hint: Any, value: Any, where: str) -> Any:
    """The value converted to the annotation's type; raises ValueError if it is of another type or beyond its limits."""
    if hint is Any or type(value) is hint:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _limited(_fitted(arguments[0], value, where), arguments[1:], where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _as_float(value, where)
    if origin in (Union, types.UnionType):
        return _of_several(arguments, value, where)
    if origin is Literal:
        if any(value == each and type(value) is type(each) for each in arguments):
            return value
    elif origin is dict:
        if isinstance(value, dict) and all(type(key) is arguments[0] for key in value):
            return {key: _fitted(arguments[1], each, f"{where}[{_shown(key)}]") for key, each in value.items()}
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_fitted(arguments[0], each, f"{where}[{index}]") for index, each in enumerate(value))
    elif is_dataclass(hint) and isinstance(value, Mapping):
        return _part(hint, value, where)  # type: ignore[arg-type]
    elif issubclass(hint, Enum):
        if isinstance(value, str) and value in [each.value for each in hint]:
            return hint(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ValueError(f"{where} is {_shown(value)}, which is not of type {_name(hint)}")


def _limited(value: Any, limits: tuple[Limit, ...], where: str) -> Any:
    for limit in limits:
        if not limit.holds(value):
            raise ValueError(f"{where} is {_shown(value)}; it must be {limit}")
    return value


def _of_several(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """The value as the first type of a union that takes it; if none does, what the first says of it."""
    if value is None and type(None) in hints:
        return None
    first: ValueError | None = None
    for hint in hints:
        if hint is type(None):
            continue
        try:
            return _fitted(hint, value, where)
        except ValueError as error:
            first = first or error
    assert first is not None
    raise first


def _part(cls: type[Any], values: Mapping[str, Any], where: str) -> Any:
    try:
        return build(cls, values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


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
