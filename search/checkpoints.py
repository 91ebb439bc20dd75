"""Where trials' checkpoints lie, and which of them stay: those that run, and the best completed one."""

import shutil
from pathlib import Path

from search.options import SearchOptions
from trainable.errors import ConfigError
from trainable.record import RunFolder


def checkpoint_folder(options: SearchOptions, folder: RunFolder, number: int) -> Path:
    """Folder of a trial's checkpoints: in the run's folder, or under ``--storage-path``.

    Raises
    ------
    ConfigError
        If the storage path is a URL: object storage is read through Ray only.
    """
    if options.storage_path is None:
        return folder.checkpoint_path(number)
    if "://" in options.storage_path:
        raise ConfigError(f"--storage-path {options.storage_path} is no folder; --local needs one")
    return Path(options.storage_path) / folder.path.name / f"{number:05d}"


class CheckpointKeeper:
    """Removes checkpoints that nobody will load again: losers' when they end, the old winner's when it is beaten."""

    def __init__(self, options: SearchOptions, folder: RunFolder):
        self._options, self._folder = options, folder
        self._kept: int | None = None

    def ended(self, number: int, best: int | None) -> None:
        """Trial `number` ended; `best` is the best completed trial now."""
        if self._kept is not None and self._kept != best:
            self._remove(self._kept)
        if number != best:
            self._remove(number)
        self._kept = best

    def _remove(self, number: int) -> None:
        shutil.rmtree(checkpoint_folder(self._options, self._folder, number), ignore_errors=True)
