"""Where a trial's checkpoints lie: a folder, or an address of an object store that pyarrow can reach (s3://, gs://)."""

import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from trainable.errors import CheckpointError

logger = logging.getLogger(__name__)


class CheckpointPlace:
    """Checkpoints of one trial. A folder is used as it is; of an object store a copy is kept in a local folder.

    Parameters
    ----------
    address
        Path of a folder (shared by the machines of a cluster, if there are several), or a URL.
    """

    def __init__(self, address: str):
        self.address = address
        self._is_url = "://" in address
        self._copy: Path | None = None

    @property
    def folder(self) -> Path:
        """Local folder to save to and load from."""
        if not self._is_url:
            return Path(self.address)
        if self._copy is None:
            self._copy = Path(tempfile.mkdtemp(prefix="checkpoints-"))
        return self._copy

    def fetch(self) -> bool:
        """Brings what is stored to `folder`; whether there is anything to load.

        Raises
        ------
        CheckpointError
            If the store cannot be reached.
        """
        if self._is_url:
            from pyarrow import fs

            store, path = self._store()
            try:
                if store.get_file_info(path).type == fs.FileType.Directory:
                    fs.copy_files(path, str(self.folder), source_filesystem=store)
            except OSError as error:
                raise CheckpointError(f"checkpoints at {self.address} cannot be read: {_first_line(error)}") from None
        return self.folder.is_dir() and any(self.folder.iterdir())

    def push(self) -> None:
        """Stores what was saved to `folder`, and only then removes what is not there any more.

        Raises
        ------
        CheckpointError
            If the store cannot be reached.
        """
        if not self._is_url:
            return
        from pyarrow import fs

        store, path = self._store()
        try:
            store.create_dir(path, recursive=True)
            fs.copy_files(str(self.folder), path, destination_filesystem=store)
            kept = {entry.name for entry in self.folder.iterdir()}
            for info in store.get_file_info(fs.FileSelector(path)):
                if info.base_name not in kept:
                    store.delete_file(info.path)
        except OSError as error:
            raise CheckpointError(f"checkpoints at {self.address} cannot be written: {_first_line(error)}") from None

    def size_bytes(self) -> int:
        """Bytes stored."""
        if not self._is_url:
            return sum(entry.stat().st_size for entry in self.folder.glob("*")) if self.folder.is_dir() else 0
        from pyarrow import fs

        store, path = self._store()
        selector = fs.FileSelector(path, allow_not_found=True)
        return sum(info.size or 0 for info in store.get_file_info(selector))

    def remove(self) -> None:
        """Removes everything, here and there."""
        self.forget_copy()
        if not self._is_url:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        from pyarrow import fs

        store, path = self._store()
        if store.get_file_info(path).type == fs.FileType.Directory:
            store.delete_dir(path)

    def forget_copy(self) -> None:
        """Removes the local copy of a URL's checkpoints."""
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)
            self._copy = None

    def _store(self) -> tuple[Any, str]:
        from pyarrow import ArrowInvalid, fs

        try:
            store, path = fs.FileSystem.from_uri(self.address)
        except (ArrowInvalid, OSError) as error:
            raise CheckpointError(f"{self.address} is no address of a store: {_first_line(error)}") from None
        return store, path


class Resumable(Protocol):
    """What can go on from a checkpoint: `trainable.trial.Trial`, or a synthetic one in tests and benchmarks."""

    def load(self, folder: Path) -> int: ...

    def release(self) -> None: ...


T = TypeVar("T", bound=Resumable)


def begin_or_resume(make: Callable[[], T], place: CheckpointPlace) -> T:
    """A trial at its newest intact checkpoint; at its first epoch where there is none, or all are damaged."""
    trial = make()
    try:
        if place.fetch():
            trial.load(place.folder)
    except CheckpointError as error:
        logger.warning("a trial starts again from its first epoch: %s", error)
        trial.release()
        trial = make()
    return trial


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
