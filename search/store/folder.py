"""The folder of a run: created, checked, and locked by one driver at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainable.errors import RunError
from trainable.host import file_locks
from trainable.record import RunFolder


def create(path: Path) -> RunFolder:
    """Creates an empty folder for a new run. Raises RunError if it cannot be created or is not empty."""
    file_locks()  # checked before anything is written
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise RunError(f"--output {path} is a file; name a folder") from None
    except OSError as error:
        raise RunError(f"--output {path} cannot be created: {error.strerror}; name a folder you may write to") from None
    _check_empty(path)
    return RunFolder(path)


def check_creatable(path: Path) -> None:
    """Raises RunError, and writes nothing, if a folder for a new run cannot be created here."""
    file_locks()
    existing = next(each for each in (path, *path.absolute().parents) if os.path.exists(each))
    if existing == path and path.is_dir():
        _check_empty(path)
    elif not existing.is_dir():
        raise RunError(f"--output {path}: {existing} is a file; name a folder")
    elif not os.access(existing, os.W_OK | os.X_OK):
        raise RunError(f"--output {path} cannot be created: {existing} is read-only; name a folder you may write to")


def _check_empty(path: Path) -> None:
    if RunFolder(path).manifest_path.exists():
        raise RunError(
            f"--output {path} already contains a run; resume it with --resume {path}, or name another folder"
        )
    if any(not is_leftover(entry) for entry in path.iterdir()):
        raise RunError(f"--output {path} is not empty; name a new folder")
    if not os.access(path, os.W_OK | os.X_OK):
        raise RunError(f"--output {path} is read-only; name a folder you may write to")


def is_leftover(path: Path) -> bool:
    """Whether a file may be left by a search that died before it wrote its manifest."""
    return path.name in (".lock", "space.yaml") or (path.name.startswith(".") and path.name.endswith(".tmp"))


def _check_links(path: Path) -> None:
    """Raises RunError for a symbolic link that leads out of the folder, which may come from somebody else."""
    inside = path.resolve()
    for folder, folders, files in os.walk(path):
        for entry in (Path(folder, name) for name in (*folders, *files)):
            if entry.is_symlink() and not entry.resolve().is_relative_to(inside):
                raise RunError(
                    f"{entry} is a symbolic link out of the run's folder, and a search would write there; "
                    "put what it leads to in its place, or remove it"
                )


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Locks the run for this process; the lock ends with the process, however it ends.

    Raises
    ------
    RunError
        If another search holds the lock, the folder cannot be written, its file system has no locks, or what would be
        written into it would land elsewhere.
    """
    fcntl = file_locks()
    _check_links(path)
    try:
        file = (path / ".lock").open("a+")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; name a folder you may write to") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another search is running in {path}; wait for it, or name another folder") from None
        except OSError as error:
            raise RunError(
                f"{path} cannot be locked against a second search: {error.strerror}; "
                "name a folder on a file system that supports locks"
            ) from None
        yield
