"""Where a trial's checkpoints lie: a folder, or an address of an object store that pyarrow can reach (s3://, gs://)."""

import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qsl, urlsplit

from trainable.errors import CheckpointError, ConfigError, OtherConfigError
from trainable.redaction import one_line

logger = logging.getLogger(__name__)
CHECKPOINT_NAME = re.compile(r"epoch-([0-9]{6,})\.ckpt")
"""Name of a checkpoint's file, with its epoch."""


class CheckpointPlace:
    """Checkpoints of one trial. A folder is used directly; for an object store, a local folder holds a copy.

    Parameters
    ----------
    address
        Path of a folder (shared by the machines of a cluster, if there are several), or a URL.
    """

    def __init__(self, address: str):
        self.address = address
        self._is_url = is_url(address)
        self._copy: Path | None = None
        self._stored: dict[str, tuple[int, int]] = {}
        """Files of the copy that the store holds already: name → size (bytes) and time of change (ns)."""

    @property
    def folder(self) -> Path:
        """Local folder to save to and load from."""
        if not self._is_url:
            return Path(self.address)
        if self._copy is None:
            self._copy = Path(tempfile.mkdtemp(prefix="checkpoints-"))
        return self._copy

    def fetch(self) -> bool:
        """Copies the stored checkpoints to `folder`; returns whether there is anything to load.

        Raises
        ------
        CheckpointError
            If the store cannot be reached.
        """
        if self._is_url:
            from pyarrow import fs

            with self._store("read") as (store, path):
                if store.get_file_info(path).type == fs.FileType.Directory:
                    fs.copy_files(path, str(self.folder), source_filesystem=store)
            self._stored = self._saved()
        return self.folder.is_dir() and any(self.folder.iterdir())

    def push(self) -> None:
        """Stores what was saved to `folder` since the last call, then removes stored files that it no longer holds.

        Raises
        ------
        CheckpointError
            If the store cannot be reached.
        """
        if not self._is_url:
            return
        from pyarrow import fs

        saved = self._saved()
        with self._store("written") as (store, path):
            store.create_dir(path, recursive=True)
            for name, state in saved.items():
                if self._stored.get(name) != state:
                    fs.copy_files(str(self.folder / name), f"{path}/{name}", destination_filesystem=store)
                    self._stored[name] = state
            for info in store.get_file_info(fs.FileSelector(path)):
                if info.base_name not in saved:
                    store.delete_file(info.path)
        self._stored = saved

    def size_bytes(self) -> int:
        """Bytes stored. Raises CheckpointError if the store cannot be reached."""
        if not self._is_url:
            return sum(_size(entry) for entry in self.folder.glob("*")) if self.folder.is_dir() else 0
        from pyarrow import fs

        with self._store("read") as (store, path):
            selector = fs.FileSelector(path, allow_not_found=True)
            return sum(info.size or 0 for info in store.get_file_info(selector))

    def names(self) -> list[str]:
        """Names of the stored files. Raises CheckpointError if the store cannot be reached."""
        if not self._is_url:
            return [entry.name for entry in self.folder.iterdir()] if self.folder.is_dir() else []
        from pyarrow import fs

        with self._store("read") as (store, path):
            return [info.base_name for info in store.get_file_info(fs.FileSelector(path, allow_not_found=True))]

    def remove_older(self, reported: int) -> None:
        """Removes all checkpoints older than the newest one of an epoch up to `reported`; later ones stay too.

        A trial resumes only from a checkpoint of an epoch that it has reported. Raises CheckpointError if the store
        cannot be reached.
        """
        epochs = {int(found[1]): name for name in self.names() if (found := CHECKPOINT_NAME.fullmatch(name))}
        older = [epochs[epoch] for epoch in sorted(epochs) if epoch <= reported][:-1]
        if not self._is_url:
            for name in older:
                (self.folder / name).unlink(missing_ok=True)
        elif older:
            with self._store("removed") as (store, path):
                for name in older:
                    store.delete_file(f"{path}/{name}")

    def remove_temporary(self) -> None:
        """Removes partial files of a process that was killed while writing; an object store takes whole files only."""
        if not self._is_url:
            for entry in self.folder.glob(".*.tmp"):
                entry.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes everything, locally and from the store.

        Raises
        ------
        CheckpointError
            If the store cannot be reached, or a file cannot be removed; all other files are removed.
        """
        self.forget_copy()
        if not self._is_url:
            failures: list[BaseException] = []
            # Collected, so that one file that cannot be removed does not keep the others.
            shutil.rmtree(self.folder, onerror=lambda _function, _path, caught: failures.append(caught[1]))
            for failure in failures:
                if isinstance(failure, OSError) and not isinstance(failure, FileNotFoundError):
                    reason = f"{failure.filename or self.address}: {failure.strerror}"
                    raise CheckpointError(f"checkpoints at {self.address} cannot be removed: {reason}")
            return
        from pyarrow import fs

        with self._store("removed") as (store, path):
            if store.get_file_info(path).type == fs.FileType.Directory:
                store.delete_dir(path)

    def forget_copy(self) -> None:
        """Removes the local copy of a URL's checkpoints."""
        self._stored = {}
        if self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)
            self._copy = None

    def _saved(self) -> dict[str, tuple[int, int]]:
        return {entry.name: ((found := entry.stat()).st_size, found.st_mtime_ns) for entry in self.folder.iterdir()}

    @contextmanager
    def _store(self, verb: str) -> Iterator[tuple[Any, str]]:
        """The store and the path in it; its errors become CheckpointErrors."""
        from pyarrow import ArrowInvalid, fs

        try:
            store, path = fs.FileSystem.from_uri(self.address)
        except (ArrowInvalid, OSError) as error:
            raise CheckpointError(f"{self.address} is not the address of a store: {one_line(error)}") from None
        try:
            yield store, path
        except OSError as error:
            raise CheckpointError(f"checkpoints at {self.address} cannot be {verb}: {one_line(error)}") from None


def is_url(address: str) -> bool:
    """Whether an address is the URL of an object store rather than a folder's path."""
    return "://" in address


def absolute_place(address: str) -> str:
    """The absolute address; a URL is absolute already."""
    return address if is_url(address) else str(Path(address).expanduser().absolute())


def place_under(address: str, *names: str) -> str:
    """Address of a place below another; a URL keeps its query at the end."""
    if not is_url(address):
        return "/".join((address.rstrip("/") or "", *names))
    path, mark, query = address.partition("?")
    return "/".join((path.rstrip("/"), *names)) + mark + query


QUERY_KEYS = frozenset(
    {"scheme", "endpoint_override", "region", "project_id", "retry_limit_seconds", "enable_tls", "tls_ca_file_path"}
    | {"allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open", "force_virtual_addressing"}
    | {"check_directory_existence_before_creation", "blob_storage_authority", "dfs_storage_authority"}
)
"""Query keys that pyarrow accepts and that hold no secret."""


def check_address(address: str) -> None:
    """Refuses a URL that may hold a credential, which would end up in manifests, logs and dashboards.

    Raises
    ------
    ConfigError
        If there is one, or the URL cannot be parsed. The message repeats only the scheme of the address.
    """
    if not is_url(address):
        return
    scheme, _, rest = address.partition("://")
    try:
        parts = urlsplit(address)
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        _ = parts.port
    except ValueError:
        raise ConfigError(
            f"--storage-path is no address of a store ({scheme}://…); write SCHEME://BUCKET/PATH, and no password"
        ) from None
    user = rest.partition("?")[0].rpartition("@")[0]
    if ":" in user or parts.fragment:
        raise ConfigError(
            f"--storage-path ({scheme}://…) holds a password; leave it out and give it by the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or ~/.aws/credentials"
        )
    if not all(key in QUERY_KEYS and "@" not in value for key, value in query):
        raise ConfigError(
            f"--storage-path ({scheme}://…?…) may hold {', '.join(sorted(QUERY_KEYS))} after its question mark and "
            "nothing else; give keys and secrets by the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )


class Resumable(Protocol):
    """What can resume from a checkpoint: `trainable.trial.Trial`, or a synthetic one in tests and benchmarks."""

    def load(self, folder: Path, at_most: int | None = None) -> int: ...

    def release(self) -> None: ...


T = TypeVar("T", bound=Resumable)


def begin_or_resume(make: Callable[[], T], place: CheckpointPlace, reported: int | None = None) -> T:
    """A trial at its newest intact checkpoint, or at its first epoch if there is none.

    Parameters
    ----------
    reported
        Last epoch that the trial has reported. Later checkpoints are ignored, since resuming from one would skip that
        epoch's report. None where nobody reports.

    Raises
    ------
    CheckpointError
        If the store cannot be reached: starting again would overwrite its checkpoints. An OtherConfigError if what is
        stored is another trial's.
    """
    with ExitStack() as undo:  # whatever fails: a trial that cannot begin leaves neither memory nor files behind
        undo.callback(place.forget_copy)
        stored = reported != 0 and place.fetch()
        if reported is not None and reported > 1 and not stored:  # the first epoch's may not have been written yet
            logger.warning(
                "a trial of %d reported epochs starts again from its first: none of its checkpoints is left", reported
            )
        trial = make()
        undo.callback(trial.release)
        try:
            if stored:
                trial.load(place.folder, reported)
        except OtherConfigError:
            raise
        except CheckpointError as error:
            logger.warning("a trial starts again from its first epoch: %s", error)
            trial.release()
            trial = make()
        undo.pop_all()
    return trial


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a worker has just removed it
        return 0
