"""Layouts: how the files below a machine type's folder become recordings, and which of a root's folders they know."""

import logging
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar, Literal

from trainable.config import nearest
from trainable.data.features import ClipInfo
from trainable.data.readers import SUFFIXES
from trainable.errors import DataError
from trainable.printable import printable
from trainable.registry import LAYOUTS

_log = logging.getLogger(__name__)
MOST_WARNINGS = 5
NOT_READ = (".aac", ".au", ".caf", ".h5", ".m4a", ".mat", ".mp4", ".npz", ".pt", ".raw", ".tdms", ".w64", ".wma")
"""Suffixes of files that hold recordings, but none that can be read. A file with any other suffix is no recording."""
NOT_FOLDERS = ("__MACOSX",)
"""Folders that unpacking leaves behind, without recordings."""
_NAMES_LOOKED_AT = 200
"""Of a folder's entries, to recognise it."""
_DEEPEST_LOOK = 3
"""Levels below a data root in which folders of a known layout are looked for, to say where they are."""
Part = Literal["train", "test"]


@dataclass(frozen=True)
class ClipFile:
    """A recording and what its path, or a table, says about it."""

    path: Path
    part: Part
    """Training clips, of which only normal ones are used, or labelled clips."""
    machine_id: str
    label: Literal[0, 1] | None
    """0 normal, 1 anomaly; None for a test clip of which neither is known."""
    title: str = ""
    """A name in place of the file's own, where that alone is not unique."""
    group: str = ""
    """What this clip and others were cut from, so that they stay on one side of every split."""
    domain: str = ""
    """Such as ``source`` or ``target``: reported apart."""

    @property
    def name(self) -> str:
        """Its name in DCASE's form, which states label and machine id whatever the file is called."""
        said = f"{'anomaly' if self.label else 'normal'}_id_{self.machine_id}_"
        title = self.title or self.path.name
        return title if title.startswith(said) else said + title

    @property
    def info(self) -> ClipInfo:
        """What is known about it, without its path."""
        assert self.label is not None
        return ClipInfo(self.machine_id, self.name, self.label, self.group, self.domain)

    @property
    def stamp(self) -> str:
        """Its entry in the digest of the data: everything except its contents that a result depends on."""
        extras = (("group", self.group), ("domain", self.domain))
        return "|".join([f"{self.part}/{self.name}", *(f"{key}={value}" for key, value in extras if value)])


@dataclass(frozen=True)
class MachineFiles:
    """The recordings of one machine type, in the order of the layout."""

    train: tuple[ClipFile, ...]
    test: tuple[ClipFile, ...]
    skipped: tuple[str, ...]
    """One sentence per recording that does not match the layout."""
    unused: tuple[str, ...] = ()
    """One sentence per recording, or kind of recordings, that is known but serves nothing."""


class Layout(ABC):
    """How the files of a machine type's folder are named and sorted."""

    title: ClassVar[str] = ""
    """What messages call it."""

    @abstractmethod
    def recognises(self, folder: Path) -> bool:
        """Whether a folder looks like a machine type in this layout; checks a few names, reads no recording."""

    @abstractmethod
    def clips(self, folder: Path, skipped: list[str]) -> list[ClipFile]:
        """The recordings of a machine type, sorted.

        A recording that does not match the layout is skipped, with one sentence in `skipped` that begins with its path.
        Raises DataError where the folder cannot be read.
        """

    def lacking(self, folder: Path, part: Part, word: str) -> str:
        """The message that a folder holds no ``normal`` or ``anomaly`` clips of a part."""
        return f"{folder} holds no {word} {part} clips in the layout of {self.title or type(self).__name__}"


def sound_files(folder: Path, skipped: list[str], seen: set[Path] | None = None) -> Iterator[Path]:
    """The recordings in a folder and its sub-folders, sorted; hidden files and files of other kinds are passed over.

    A folder that links lead to again (those in `seen`) is read once. What has a recording's name but cannot be read is
    skipped, with one sentence. Raises DataError where a folder cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; it should hold the recordings of a machine type")
    seen = set() if seen is None else seen
    seen.add(folder.resolve())
    for path in entries(folder):
        suffix = path.suffix.lower()
        if path.name.startswith("."):
            continue
        if suffix in NOT_READ:
            skipped.append(f"{path}: cannot be read as {suffix}; convert it to .wav or .flac")
        elif path.is_dir() and suffix not in SUFFIXES:
            if path.name not in NOT_FOLDERS and path.resolve() not in seen:
                yield from sound_files(path, skipped, seen)
        elif suffix in SUFFIXES:
            if path.is_file():
                yield path
            else:  # a folder, a dangling link, or a pipe that would be waited for
                skipped.append(f"{path}: is not a file")


def entries(folder: Path) -> list[Path]:
    """A folder's entries, sorted. Raises DataError where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({_reason(error)}); change its permissions") from None


def some_names(folder: Path) -> list[str]:
    """Names of the first entries of a folder in no order; none if it is no folder that can be read."""
    try:
        return [path.name for path in islice(folder.iterdir(), _NAMES_LOOKED_AT)]
    except OSError:
        return []


def title_below(folder: Path, path: Path) -> str:
    """A name for a file that tells it from those in neighbouring folders."""
    return "_".join(path.relative_to(folder).parts)


def normal_test_clips(normal: int, anomalous: int) -> int:
    """How many of an id's normal clips are test clips where a data set has no parts.

    As many as there are anomalies, as in MIMII's baseline (Purohit et al. 2019), but half of them at most.
    """
    return min(anomalous, normal // 2)


def register_layout(name: str, layout: Layout) -> None:
    """Registers a layout; it is tried before those registered earlier. Raises ConfigError if the name is taken."""
    LAYOUTS.register(name, layout)


def layout_of(folder: Path) -> Layout | None:
    """The layout registered last that recognises a folder; DCASE 2020's is tried last. None if no layout does."""
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
    command = f"python -m trainable.recordings {shlex.quote(str(folder))} --output {shlex.quote(f'{machine_type}.csv')}"
    hint = f"{command} drafts a table of what is there"

    def lacking(part: Part, word: str) -> str:
        return f"{layout.lacking(folder, part, word)} ({hint})"

    return sorted_files(clips, skipped, lacking, labelled=labelled, unused=_not_read(folder, clips))


def _not_read(folder: Path, clips: Sequence[ClipFile]) -> list[str]:
    """A sentence for each folder of a machine type that holds recordings which its layout does not read."""
    read = {clip.path.relative_to(folder).parts[0] for clip in clips}
    others = [path for path in entries(folder) if path.is_dir() and path.name not in (*read, *NOT_FOLDERS)]
    return [
        f"{path}: its recordings have no place in this layout and are not read"
        for path in others
        if not path.name.startswith(".") and next(sound_files(path, []), None) is not None
    ]


def sorted_files(
    clips: Sequence[ClipFile],
    skipped: Sequence[str],
    lacking: Callable[[Part, str], str],
    *,
    labelled: bool,
    unused: Sequence[str] = (),
) -> MachineFiles:
    """Training and test clips, without those that serve nothing.

    Parameters
    ----------
    lacking
        Gives the message that there are no ``normal`` or ``anomaly`` clips of a part.
    labelled
        Whether there must be normal and anomalous test clips.
    unused
        Sentences about what else serves nothing.

    Raises
    ------
    DataError
        If training clips, or test clips that there must be, are missing, or if a machine id or a domain holds control
        characters.
    """
    for clip in clips:
        _refuse_unprintable(clip)
    train = [clip for clip in clips if clip.part == "train"]
    unused = list(unused) + [
        f"{clip.path}: an anomaly among the training clips is never trained on" for clip in train if clip.label == 1
    ]
    train = [clip for clip in train if clip.label != 1]
    test = [clip for clip in clips if clip.part == "test" and clip.label is not None]
    unknown = [clip for clip in clips if clip.part == "test" and clip.label is None]
    if unknown:
        unused.append(f"{unknown[0].path}: without a label it judges nothing ({len(unknown)} test clips have none)")
    log_skipped([*skipped, *unused])
    if not train:
        raise DataError(f"{lacking('train', 'normal')}; training needs normal clips there")
    for label, word in ((0, "normal"), (1, "anomaly")):
        if labelled and not any(clip.label == label for clip in test):
            raise DataError(
                f"{lacking('test', word)}; an AUC needs normal and anomalous test clips; "
                "without anomalies, search with --objective normal-only"
            )
    return MachineFiles(tuple(train), tuple(test), tuple(skipped), tuple(unused))


def _refuse_unprintable(clip: ClipFile) -> None:
    for what, word in (("machine id", clip.machine_id), ("domain", clip.domain)):
        if printable(word) != word:
            raise DataError(f"{clip.path}: the {what} {word!r} holds control characters; rename it")


def log_skipped(sentences: Sequence[str]) -> None:
    """Warns of files that are not used: names the first few and counts the others."""
    for sentence in sentences[:MOST_WARNINGS]:
        _log.warning("skipped %s", sentence)
    if len(sentences) > MOST_WARNINGS:
        _log.warning("skipped %d more files", len(sentences) - MOST_WARNINGS)


def machine_types(root: Path) -> list[str]:
    """Names of the folders below `root` that some layout takes for a machine type."""
    return sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name not in NOT_FOLDERS and entry.is_dir() and layout_of(entry) is not None
    )


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
        raise DataError(
            f"data root {root} holds no <machine_type>/train folder and no other layout of docs/data.md; "
            f"{_what_would_work(root)}"
        )
    if machine_type not in there:
        raise DataError(
            f"{root} holds no machine type {machine_type!r}{nearest(machine_type, there)}; there are {', '.join(there)}"
        )
    return root / machine_type


def known_below(root: Path, *, levels: int = _DEEPEST_LOOK) -> list[tuple[Path, Layout]]:
    """Folders of machine types in known layouts: `root` itself, or some way below it."""
    layout = layout_of(root)
    if layout is not None:
        return [(root, layout)]
    if levels == 0:
        return []
    folders = [root / name for name in sorted(some_names(root)) if not name.startswith(".") and name not in NOT_FOLDERS]
    return [found for folder in folders if folder.is_dir() for found in known_below(folder, levels=levels - 1)]


def _what_would_work(root: Path) -> str:
    """The command that reads what is there."""
    known = known_below(root)
    if not known:
        command = f"python -m trainable.recordings {shlex.quote(str(root))}"
        return f"{command} says what is there and drafts a table of it (--recordings)"
    folder, layout = known[0]
    others = f" (and {len(known) - 1} more machine types)" if len(known) > 1 else ""
    return f"{folder.absolute()} has the layout of {layout.title}: {flags_of(folder)}{others}"


def flags_of(folder: Path) -> str:
    """The flags that read a machine type's folder, to be pasted into a shell."""
    folder = folder.absolute()
    return f"--data-root {shlex.quote(str(folder.parent))} --machine-type {shlex.quote(folder.name)}"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
