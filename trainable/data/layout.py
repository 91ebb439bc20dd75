"""Layouts: how the files below a machine type's folder become recordings. DCASE 2020 Task 2's is the project's own.

``<root>/<machine_type>/{train,test}/{normal,anomaly}_id_NN_SSSSSSSS.{npy,wav}``
"""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainable.config import nearest
from trainable.errors import DataError
from trainable.registry import LAYOUTS

_log = logging.getLogger(__name__)
MOST_WARNINGS = 5
_NAME = re.compile(r"^(normal|anomaly)_id_([0-9A-Za-z]+)_[0-9A-Za-z]+\.(npy|wav)$")
Part = Literal["train", "test"]


@dataclass(frozen=True)
class ClipFile:
    """A recording and what its path says about it."""

    path: Path
    part: Part
    """Training clips, of which only normal ones are used, or labelled clips."""
    machine_id: str
    label: Literal[0, 1]
    """0 normal, 1 anomaly."""

    @property
    def name(self) -> str:
        """Its name in DCASE's form, which states label and machine id whatever the file is called."""
        said = f"{'anomaly' if self.label else 'normal'}_id_{self.machine_id}_"
        return self.path.name if self.path.name.startswith(said) else said + self.path.name

    @property
    def stamp(self) -> str:
        """Its entry in the digest of the data: everything except its contents that a result depends on."""
        return f"{self.part}/{self.name}"


@dataclass(frozen=True)
class MachineFiles:
    """The recordings of one machine type, in the order of the layout."""

    train: tuple[ClipFile, ...]
    test: tuple[ClipFile, ...]
    skipped: tuple[str, ...]
    """One sentence per file that does not match the layout."""


class Layout(ABC):
    """How the files of a machine type's folder are named and sorted."""

    @abstractmethod
    def recognises(self, folder: Path) -> bool:
        """Whether a folder looks like a machine type in this layout; checks a few names, reads no recording."""

    @abstractmethod
    def clips(self, folder: Path, skipped: list[str]) -> list[ClipFile]:
        """The recordings of a machine type, sorted.

        A file that does not match the layout is skipped, with one sentence in `skipped` that begins with its path.
        Raises DataError where the folder cannot be read.
        """

    def lacking(self, folder: Path, part: Part, word: str) -> str:
        """The message that a folder holds no ``normal`` or ``anomaly`` clips of a part."""
        return f"{folder} holds no {word} {part} clips in the layout of {type(self).__name__}"


class Dcase2020(Layout):
    """``{train,test}/{normal,anomaly}_id_NN_SSSSSSSS.{npy,wav}``."""

    def recognises(self, folder: Path) -> bool:
        return (folder / "train").is_dir()

    def clips(self, folder: Path, skipped: list[str]) -> list[ClipFile]:
        # Without a folder of test clips there are no labels; not every search needs them.
        parts: list[Part] = ["train", "test"] if (folder / "test").exists() else ["train"]
        return [clip for part in parts for clip in _list_clips(folder / part, part, skipped)]

    def lacking(self, folder: Path, part: Part, word: str) -> str:
        return f"{folder / part} holds no {word}_id_NN_*.npy or .wav"


DCASE2020 = Dcase2020()


def register_layout(name: str, layout: Layout) -> None:
    """Registers a layout; it is tried before those registered earlier. Raises ConfigError if the name is taken."""
    LAYOUTS.register(name, layout)


def layout_of(folder: Path) -> Layout | None:
    """The layout registered last that recognises a folder; DCASE's is tried last. None if no layout does."""
    for name in reversed(LAYOUTS.names()):
        layout: Layout = LAYOUTS.get(name)
        if layout.recognises(folder):
            return layout
    return None


def find_files(root: Path, machine_type: str, *, labelled: bool) -> MachineFiles:
    """The recordings of a machine type.

    Parameters
    ----------
    labelled
        Whether there must be normal and anomalous test clips.

    Raises
    ------
    DataError
        If the folder, the machine type, its training clips, or test clips that there must be are missing.
    """
    folder = _machine_folder(root, machine_type)
    layout = layout_of(folder)
    assert layout is not None  # it is among `machine_types`
    skipped: list[str] = []
    clips = layout.clips(folder, skipped)
    train, test = ([clip for clip in clips if clip.part == part] for part in ("train", "test"))
    anomalous_training = [clip for clip in train if clip.label == 1]
    skipped += [f"{clip.path}: an anomaly among the training clips is never trained on" for clip in anomalous_training]
    train = [clip for clip in train if clip.label == 0]
    log_skipped(skipped)
    if not train:
        raise DataError(f"{layout.lacking(folder, 'train', 'normal')}; training needs normal clips there")
    for label, word in ((0, "normal"), (1, "anomaly")):
        if labelled and not any(clip.label == label for clip in test):
            raise DataError(
                f"{layout.lacking(folder, 'test', word)}; an AUC needs normal and anomalous test clips; "
                "without anomalies, search with --objective normal-only"
            )
    return MachineFiles(tuple(train), tuple(test), tuple(skipped))


def log_skipped(sentences: Sequence[str]) -> None:
    """Warns of files that are not used: names the first few and counts the others."""
    for sentence in sentences[:MOST_WARNINGS]:
        _log.warning("skipped %s", sentence)
    if len(sentences) > MOST_WARNINGS:
        _log.warning("skipped %d more files", len(sentences) - MOST_WARNINGS)


def machine_types(root: Path) -> list[str]:
    """Names of the folders below `root` that some layout takes for a machine type."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and layout_of(entry) is not None)


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


def _list_clips(folder: Path, part: Part, skipped: list[str]) -> list[ClipFile]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it should hold the recordings of a machine type")
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
            skipped.append(f"{path}: is not a file")
            continue
        label: Literal[0, 1] = 1 if match[1] == "anomaly" else 0
        clips.append(ClipFile(path, part, match[2], label))
    return clips
