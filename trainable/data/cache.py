"""Features computed once: one file per set of recordings, keyed by their content and the front end's parameters."""

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from trainable.durable import replacing

_log = logging.getLogger(__name__)
Arrays = Mapping[str, np.ndarray]


def default_cache_dir() -> Path:
    """``$AD_CACHE_DIR``, or ``~/.cache/vqvae-ad-search``."""
    named = os.environ.get("AD_CACHE_DIR")
    return Path(named) if named else Path.home() / ".cache" / "vqvae-ad-search"


def content_key(*parts: str) -> str:
    """A cache key for what is computed from `parts`, 32 hexadecimal digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


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
