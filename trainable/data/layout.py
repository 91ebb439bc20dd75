"""DCASE 2020 Task 2's tree: ``<root>/<machine_type>/{train,test}/{normal,anomaly}_id_NN_SSSSSSSS.{npy,wav}``."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainable.config import nearest
from trainable.errors import DataError

_log = logging.getLogger(__name__)
MOST_WARNINGS = 5
_NAME = re.compile(r"^(normal|anomaly)_id_([0-9A-Za-z]+)_[0-9A-Za-z]+\.(npy|wav)$")


@dataclass(frozen=True)
class ClipFile:
    """A recording and what its name says of it."""

    path: Path
    machine_id: str
    label: Literal[0, 1]
    """0 normal, 1 anomaly."""


@dataclass(frozen=True)
class MachineFiles:
    """The recordings of one machine type, sorted by name."""

    train: tuple[ClipFile, ...]
    test: tuple[ClipFile, ...]
    skipped: tuple[str, ...]
    """One sentence a file that the layout does not know."""


def find_files(root: Path, machine_type: str) -> MachineFiles:
    """The recordings of a machine type.

    Raises
    ------
    DataError
        If the folder, the machine type, its training clips, or normal or anomalous test clips are missing.
    """
    folder = _machine_folder(root, machine_type)
    skipped: list[str] = []
    train, test = (_list_clips(folder / part, skipped) for part in ("train", "test"))
    anomalous_training = [clip for clip in train if clip.label == 1]
    skipped += [f"{clip.path}: an anomaly among the training clips is never trained on" for clip in anomalous_training]
    train = [clip for clip in train if clip.label == 0]
    log_skipped(skipped)
    if not train:
        raise DataError(f"{folder / 'train'} holds no normal_id_NN_*.npy or .wav; training needs normal clips there")
    for label, word in ((0, "normal"), (1, "anomaly")):
        if not any(clip.label == label for clip in test):
            raise DataError(
                f"{folder / 'test'} holds no {word}_id_NN_*.npy or .wav; an AUC needs normal and anomalous test clips"
            )
    return MachineFiles(tuple(train), tuple(test), tuple(skipped))


def log_skipped(sentences: Sequence[str]) -> None:
    """Warns of files that are not used: the first few by name, the others by their number."""
    for sentence in sentences[:MOST_WARNINGS]:
        _log.warning("skipped %s", sentence)
    if len(sentences) > MOST_WARNINGS:
        _log.warning("skipped %d more files", len(sentences) - MOST_WARNINGS)


def machine_types(root: Path) -> list[str]:
    """Names of the folders below `root` that look like a machine type."""
    return sorted(entry.name for entry in root.iterdir() if (entry / "train").is_dir())


def _machine_folder(root: Path, machine_type: str) -> Path:
    try:
        there = machine_types(root)
    except FileNotFoundError:
        raise DataError(f"data root {root} does not exist; check --data-root") from None
    except NotADirectoryError:
        raise DataError(
            f"data root {root} is a file; --data-root names the folder that holds the machine types"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"data root {str(root)!r} cannot be read ({_reason(error)}); check --data-root") from None
    if not there:
        raise DataError(f"data root {root} holds no <machine_type>/train folder; see the layout in docs/data.md")
    if machine_type not in there:
        raise DataError(
            f"{root} holds no machine type {machine_type!r}{nearest(machine_type, there)}; there are {', '.join(there)}"
        )
    return root / machine_type


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _list_clips(folder: Path, skipped: list[str]) -> list[ClipFile]:
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist; a machine type needs the folders train and test")
    clips = []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({_reason(error)}); change its permissions") from None
    for path in entries:
        if path.name.startswith("."):
            continue
        match = _NAME.match(path.name)
        if match is None:
            skipped.append(f"{path}: its name is not {{normal,anomaly}}_id_NN_SSSSSSSS.{{npy,wav}}")
            continue
        if not path.is_file():  # a folder, a dangling link, or a pipe that would be waited for
            skipped.append(f"{path}: is no file")
            continue
        clips.append(ClipFile(path, match[2], 1 if match[1] == "anomaly" else 0))
    return clips
