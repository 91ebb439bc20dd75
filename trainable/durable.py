"""Files that exist complete or not at all, even if the process or the machine dies. Standard library only."""

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from trainable.errors import RunError

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(text: str) -> str:
    """Text that UTF-8 can hold.

    Python keeps a byte of a file name that is no UTF-8 as a lone surrogate; U+FFFD, which any format may hold, takes
    its place.
    """
    return _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a file system's errors (full, read-only, gone) into a RunError that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise RunError(
            f"{error.filename or path} cannot be written: its folder was removed meanwhile; start again in a new one"
        ) from None
    except OSError as error:
        raise RunError(
            f"{error.filename or path} cannot be written: {error.strerror or error}; "
            "make room or name another folder, and go on with --resume"
        ) from None


def write_json(path: Path, values: Any) -> None:
    """Writes JSON atomically: readers see the old file or the new one, never half of one."""
    write_text(path, json.dumps(values, indent=1))


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically and durably, as `readable` UTF-8."""
    write_bytes(path, readable(text).encode())


def write_bytes(path: Path, *parts: bytes | memoryview) -> None:
    """Writes a file atomically and durably: fsync, rename, and an fsync of its folder."""
    with replacing(path) as file:
        file.writelines(parts)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` if the block succeeds; otherwise the old one stays.

    Written beside it, so that the rename cannot cross file systems, under a name unique to this process and thread.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Creates a folder and its parents, and syncs each new name to disk."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Syncs a folder's names to disk: without it a file just created or renamed may be lost in a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, *, what: str) -> dict[str, Any]:
    """A JSON object. Raises RunError if the file is missing or is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} does not exist; expected {what} there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read as {what}: {error}") from None
    if not isinstance(values, dict):
        raise RunError(f"{path} cannot be read as {what}: it does not hold a JSON object")
    return values
