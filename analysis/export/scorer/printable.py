"""Text from outside as terminals and spreadsheets may show it. Standard library only."""

import re
from typing import Any

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, other line breaks, and characters that reverse the direction of writing."""
_FORMULA = ("=", "+", "-", "@")


def printable(text: str) -> str:
    """One line without control characters: each is shown as its escape, such as ``\\x1b``."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before text that begins like one.

    OWASP, "CSV Injection". Numbers stay as they are.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
