"""Features computed once: one file per set of recordings, keyed by their content and the front end's parameters.

An entry is a zip archive of arrays, as `numpy.savez` writes it. Frames that may exceed the memory are its first member,
without a header, written as they come and memory-mapped where they lie.
"""

import hashlib
import logging
import mmap
import os
import struct
import time
import zipfile
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from trainable.durable import replacing

_log = logging.getLogger(__name__)
Arrays = Mapping[str, np.ndarray]
Write = Callable[[np.ndarray], object]
"""Takes float32 rows, which lie behind those before."""
_FRAMES = "frames.float32"
"""A name of 14 letters, so that the numbers begin at byte 64 of the archive, aligned."""
_BLOCK_BYTES = 1 << 20
_ABANDONED_S = 3600.0
"""A temporary file that nothing was written to for so long is what a killed process left."""


def default_cache_dir() -> Path:
    """``$AD_CACHE_DIR``, or ``~/.cache/vqvae-ad-search``."""
    named = os.environ.get("AD_CACHE_DIR")
    return Path(named) if named else Path.home() / ".cache" / "vqvae-ad-search"


def content_key(*parts: str) -> str:
    """A cache key for what is computed from `parts`, 32 hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]


def cached(cache_dir: Path, key: str, make: Callable[[], Arrays], *, needs: Collection[str]) -> Arrays:
    """The arrays named `needs` stored under `key`, computed and stored first if they are missing or damaged.

    Written atomically, so several processes may ask at once. A cache that cannot be written costs time, not the run.
    """
    path = cache_dir / f"{key}.npz"
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _load(archive, name) for name in needs}
    except FileNotFoundError:
        pass
    except Exception as error:  # zipfile and numpy's header parser raise many kinds, and any of them means damage
        _log.warning("cached features %s are damaged (%s); computing them again", path, error)
    arrays = make()
    try:
        _store(path, arrays)
    except OSError as error:
        _log.warning("features cannot be cached in %s (%s); they are computed again next time", cache_dir, error)
    return arrays


def cached_frames(
    cache_dir: Path, key: str, make: Callable[[Write], Arrays], *, needs: Collection[str]
) -> tuple[np.ndarray, Arrays]:
    """What `make` writes, float32 in one dimension and read-only; and the arrays named `needs` of those it returns.

    Stored and guarded like `cached`. What is written goes to the file at once and is memory-mapped there; only where
    the cache cannot be written is it in memory, and then `make` is called again.
    """
    path = cache_dir / f"{key}.npz"
    try:
        return _load_frames(path, needs)
    except FileNotFoundError:
        pass
    except Exception as error:  # as above
        _log.warning("cached features %s are damaged (%s); computing them again", path, error)
    try:
        _remove_abandoned(cache_dir)
        with replacing(path) as file:
            _store_frames(file, make)
        return _load_frames(path, needs)
    except OSError as error:
        _log.warning("features cannot be cached in %s (%s); they are computed again next time", cache_dir, error)
    written = bytearray()
    arrays = make(lambda rows: written.extend(_bytes_of(rows)))
    frames = np.frombuffer(written, dtype=np.float32)
    frames.flags.writeable = False
    return frames, arrays


def release(frames: np.ndarray) -> None:
    """Takes memory-mapped frames out of this process's memory; they are read again from the file where they are used.

    Other arrays stay as they are.
    """
    owner: object = frames
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if isinstance(owner, mmap.mmap):
        owner.madvise(mmap.MADV_DONTNEED)


def _load_frames(path: Path, needs: Collection[str]) -> tuple[np.ndarray, Arrays]:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        arrays = {name: _load(archive, name) for name in needs}
        info = archive.getinfo(_FRAMES)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"the entry {_FRAMES} is compressed")
        with archive.open(info) as member:
            # To the end: see `_load`. Its checksum says nothing of the size that the archive states.
            size_bytes = sum(map(len, iter(lambda: member.read(_BLOCK_BYTES), b"")))
        # Where its numbers begin: behind its own header, 30 bytes of which the last four say how long the rest is.
        file.seek(info.header_offset + 26)
        begin = info.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, dtype=np.float32, count=size_bytes // 4, offset=begin), arrays


def _store_frames(file: IO[bytes], make: Callable[[Write], Arrays]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        with archive.open(_FRAMES, "w", force_zip64=True) as frames:
            arrays = make(lambda rows: frames.write(_bytes_of(rows)))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _bytes_of(rows: np.ndarray) -> memoryview:
    return np.ascontiguousarray(rows, dtype=np.float32).ravel().view(np.uint8).data


def _remove_abandoned(cache_dir: Path) -> None:
    for path in cache_dir.glob(".*.npz.*.tmp"):
        with suppress(FileNotFoundError):  # another process has just finished it, or removed it
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


def _load(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        # Read to the end, even if the header asks for less: only there does the zip archive compare its checksum.
        if file.read():
            raise ValueError(f"the entry {name} is longer than its header says")
    return array


def _store(path: Path, arrays: Arrays) -> None:
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)
