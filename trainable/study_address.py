"""Addresses of Optuna storages: the SQLite file of a run, and what a user names. Standard library only."""

import os
from pathlib import Path
from urllib.parse import quote, urlencode


def sqlite_address(path: Path, **options: str) -> str:
    """The SQLAlchemy URL of an SQLite file, whatever its path holds (``%20``, ``?``, ``#``, bytes that are no UTF-8).

    `options` are those of SQLite's own URI, such as ``mode="ro"``. The path is quoted twice: SQLAlchemy decodes it
    once, and cannot decode what is no UTF-8; SQLite decodes the rest, byte by byte.
    """
    uri = "file://" + quote(os.fsencode(path.absolute()))
    return f"sqlite:///{quote(uri, safe='/:')}?{urlencode({**options, 'uri': 'true'})}"


def optuna_address(url: str) -> str:
    """A URL as Optuna takes it: it formats every URL, and braces in a password or a path are no fields."""
    return url.replace("{", "{{").replace("}", "}}")
