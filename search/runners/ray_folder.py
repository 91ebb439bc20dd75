"""The folder of a Ray that starts on this machine: short enough for its sockets, and one that can be written."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainable.durable import readable
from trainable.errors import RunError

logger = logging.getLogger(__name__)

VARIABLE = "RAY_TMPDIR"
"""Ray's own: it writes below ``$RAY_TMPDIR/ray``, on Linux below ``$TMPDIR/ray`` without it, else below /tmp/ray."""
SHORT = Path("/tmp")
LONGEST_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""The longest name of a socket that the system accepts (sockaddr_un)."""
LONGEST_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""What Ray appends, with the largest process number of Linux."""


@contextmanager
def ray_folder() -> Iterator[None]:
    """Has a Ray that starts inside the block write to a folder that suits it; says so if it is not the usual one.

    Temporary files of its processes, which they leave when they are killed, are removed after the block.

    Raises
    ------
    RunError
        If the folder that the user named with RAY_TMPDIR, or all of the usual ones, do not suit it.
    """
    before = {name: os.environ.get(name) for name in (VARIABLE, "TMPDIR")}
    named = before[VARIABLE]
    folder = _named(Path(named)) if named else _usual()
    tempfile.gettempdir()  # this process remembers its own, which is not removed
    try:
        with tempfile.TemporaryDirectory(prefix="search-", dir=folder, ignore_cleanup_errors=True) as temporary:
            # Sockets of Python's multiprocessing lie below TMPDIR, so it must be short too.
            os.environ |= {VARIABLE: str(folder), "TMPDIR": temporary}
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _named(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    fault = _fault(folder)
    if fault:
        raise RunError(
            f"{VARIABLE} {folder} {fault}; set {VARIABLE} to a short folder that you may write to, or use --local"
        )
    return folder


def _usual() -> Path:
    """``$TMPDIR`` if it suits Ray, otherwise /tmp."""
    given = os.environ.get("TMPDIR") if sys.platform.startswith("linux") else None
    folder = Path(given).expanduser().absolute() if given else SHORT
    fault = _fault(folder)
    if not fault:
        return folder
    short_fault = _fault(SHORT)
    if short_fault:
        where = f"TMPDIR {folder} {fault}, and {SHORT} {short_fault}" if given else f"{SHORT} {short_fault}"
        raise RunError(f"{where}; set {VARIABLE} to a short folder that you may write to, or use --local")
    shown = readable(str(folder))
    logger.warning("TMPDIR %s %s; Ray writes to %s instead (%s names another folder)", shown, fault, SHORT, VARIABLE)
    return SHORT


def _excess_bytes(folder: Path) -> int:
    return len(os.fsencode(folder / LONGEST_SOCKET)) - LONGEST_SOCKET_BYTES


def _fault(folder: Path) -> str:
    """Why Ray cannot work below a folder; empty if it can."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        return "is no UTF-8, which Ray needs"
    excess = _excess_bytes(folder)
    if excess > 0:
        return f"is {excess} bytes too long for Ray's sockets"
    own = folder / "ray"
    try:
        own.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        return "holds a file named ray"
    except NotADirectoryError:
        return "is a file" if folder.is_file() else "lies below a file"
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    if not os.access(own, os.W_OK | os.X_OK):
        return f"holds a folder {own.name} that cannot be written"
    return ""
