"""Bytes, durations, counts and tables for readers. Binary units only: nobody divides by 1e9 and calls it GiB."""

import re
from collections.abc import Collection, Sequence
from decimal import Decimal

from trainable.errors import ConfigError

KIB = 1024
MIB = 1024**2
GIB = 1024**3
TIB = 1024**4

_UNITS = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_LOOSE_UNITS = {spelling: f"{letter}iB" for letter in "KMGT" for spelling in (letter, f"{letter}B", f"{letter}IB")}
"""What people write in capitals or not, and the unit that they are offered."""
LARGEST = 2**60
MOST_DIGITS = 40
LEAST_BARE_BYTES = MIB
"""A smaller number without a unit was not meant in bytes."""

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = re.compile(
    rf"\s*(?:(?P<d>{_NUMBER})\s*d)?\s*(?:(?P<h>{_NUMBER})\s*h)?"
    rf"\s*(?:(?P<m>{_NUMBER})\s*m(?:in)?)?\s*(?:(?P<s>{_NUMBER})\s*s)?\s*"
)


def parse_bytes(text: str, what: str = "size") -> int:
    """Bytes of a size such as ``24GiB``, ``512 MiB`` or ``1073741824``; messages call it `what`, a flag for example.

    Raises
    ------
    ConfigError
        If the text is not a positive size, its unit is decimal (``GB``) or unknown, or it is a number below 1 MiB
        without a unit, which nobody means in bytes. Where it can be told, the message offers what was meant.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{what} {text!r} is not a positive number with a unit; write for example 24GiB or 512MiB")
    number, unit = match.groups()
    if unit and unit not in _UNITS:
        meant = _LOOSE_UNITS.get(unit.upper())
        offer = f"; did you mean {number[:MOST_DIGITS]}{meant}?" if meant else ""
        raise ConfigError(
            f"{what} {text!r} has the unit {unit!r}; use one of {', '.join(_UNITS)} (binary units){offer}"
        )
    size_bytes = int(Decimal(number) * _UNITS[unit or "B"]) if len(number) <= MOST_DIGITS else LARGEST + 1
    if size_bytes > LARGEST:
        raise ConfigError(f"{what} {text[:40]!r} is larger than any memory; write for example 24GiB or 512MiB")
    if not unit and 0 < Decimal(number) < LEAST_BARE_BYTES:
        meant = "GiB" if size_bytes < KIB else "MiB"
        raise ConfigError(f"{what} {text!r} has no unit; did you mean {number}{meant}?")
    if size_bytes <= 0:
        raise ConfigError(f"{what} {text!r} must be greater than zero")
    return size_bytes


def parse_duration(text: str, what: str = "duration") -> float:
    """Seconds of ``90s``, ``30m``, ``1h30m``, ``2d4h`` or a plain number of seconds; `what` is its name in messages.

    Raises
    ------
    ConfigError
        If the text is none of these. Units stand in this order, each at most once: d, h, m (or min), s.
    """
    if re.fullmatch(rf"\s*{_NUMBER}\s*", text):
        return float(text)
    match = _DURATION.fullmatch(text)
    parts = {} if match is None else {unit: number for unit, number in match.groupdict().items() if number is not None}
    if not parts:
        raise ConfigError(
            f"{what} is {text!r}; write a positive number of seconds, or for example 90s, 30m, 1h30m, 2d4h"
        )
    return sum(float(number) * _SECONDS[unit] for unit, number in parts.items())


def format_bytes(size_bytes: float) -> str:
    """A size for readers: three significant digits and a binary unit (``7.45 GiB``)."""
    size = float(size_bytes)
    for unit, factor in reversed(_UNITS.items()):
        if abs(size) >= factor:
            value = size / factor
            digits = 0 if unit == "B" or value >= 100 else 1 if value >= 10 else 2
            return f"{value:.{digits}f} {unit}"
    return "0 B"


def exact_bytes(size_bytes: int) -> str:
    """A size that `parse_bytes` reads back exactly, in the largest unit that divides it (``24GiB``)."""
    unit = next(unit for unit, factor in reversed(_UNITS.items()) if size_bytes % factor == 0)
    return f"{size_bytes // _UNITS[unit]}{unit}"


def duration_text(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def seconds_text(seconds: float) -> str:
    """``0.84 s``, ``3.1 s``, ``45 s``, ``12 min``."""
    return f"{seconds:.2g} s" if seconds < 9.95 else duration_text(seconds)


def counted(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``, ``1,000 trials``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int]) -> list[str]:
    """Lines of a table whose columns are as wide as their cells; those in `left` are left-aligned, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
