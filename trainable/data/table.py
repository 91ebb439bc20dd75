"""Recordings of any tree, listed in a table: a CSV file with a line for each.

======  ==============================================================================================
column  meaning
======  ==============================================================================================
path    of the file, absolute, or relative to the data root (where none is given, to the table's folder)
label   ``normal`` or ``anomaly``; empty = not known: a training clip is taken for normal
id      of the individual machine; letters and digits (``00`` where the column is missing)
split   ``train`` or ``test``; empty = decided by the label, as in a layout without parts
group   what this clip and others were cut from, such as one run of a machine; they stay on one side
domain  such as ``source`` or ``target``, reported apart
======  ==============================================================================================

Only ``path`` is needed; other columns are ignored.
"""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trainable.config import nearest
from trainable.data.layout import ClipFile, MachineFiles, normal_test_clips, sorted_files
from trainable.data.readers import SUFFIXES
from trainable.data.split import recording_of
from trainable.durable import replacing
from trainable.errors import DataError

COLUMNS = ("path", "label", "id", "split", "group", "domain")
MACHINE_ID = "00"
"""Where a table has no column of machine ids."""
_LABELS: Mapping[str, Literal[0, 1] | None] = {"normal": 0, "0": 0, "anomaly": 1, "1": 1, "": None}
_SPLITS = ("train", "test", "")
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]*")


@dataclass(frozen=True)
class Row:
    """A line of a table. A `split` that is empty is decided when all lines are known."""

    path: str
    label: Literal[0, 1] | None = None
    machine_id: str = MACHINE_ID
    split: str = ""
    group: str = ""
    domain: str = ""

    def cells(self) -> tuple[str, ...]:
        """Its cells in the order of `COLUMNS`."""
        label = "" if self.label is None else ("normal", "anomaly")[self.label]
        return self.path, label, self.machine_id, self.split, self.group, self.domain


def in_place(row: Row, root: Path, folder: Path) -> Row:
    """A row whose path begins in `root` as one that a table in `folder` has: relative if it can be."""
    path = (root / row.path).absolute()
    return replace(
        row, path=str(path.relative_to(folder.absolute()) if path.is_relative_to(folder.absolute()) else path)
    )


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Writes a table that `read_table` reads. Raises OSError where it cannot be written."""
    lines = [COLUMNS, *(row.cells() for row in rows)]
    text = "".join(",".join(map(_cell, line)) + "\n" for line in lines)
    with replacing(path) as file:
        file.write(text.encode(errors="surrogateescape"))


def read_table(path: Path, root: Path | None, *, labelled: bool) -> MachineFiles:
    """The recordings that a table lists.

    Parameters
    ----------
    root
        Folder that relative paths begin in; None = the table's own.
    labelled
        Whether there must be normal and anomalous test clips.

    Raises
    ------
    DataError
        For a table that cannot be read, a line that makes no sense (with its number), or missing kinds of clips.
    """
    rows = list(_rows(path))
    skipped: list[str] = []
    below = root or path.parent
    clips = []
    for row, part in zip(rows, _parts(rows), strict=True):
        file = below / Path(row.path).expanduser()
        if file.suffix.lower() not in SUFFIXES:
            skipped.append(f"{file}: is no recording that can be read ({', '.join(SUFFIXES)})")
        elif not file.is_file():
            what = "is not a file" if file.exists() else "does not exist"
            skipped.append(f"{file}: {what} (paths in {path} begin in {below}; --data-root names another folder)")
        else:
            label = 0 if part == "train" and row.label is None else row.label
            clips.append(ClipFile(file, part, row.machine_id, label, group=row.group, domain=row.domain))
    return sorted_files(
        _with_titles(clips), skipped, lambda part, word: f"{path} lists no {word} {part} clips", labelled=labelled
    )


def _with_titles(clips: list[ClipFile]) -> list[ClipFile]:
    """The same clips, sorted; unless all of a part have names of their own, named by their folders too."""
    clips = sorted(clips, key=lambda clip: (clip.part, clip.machine_id, clip.label or 0, str(clip.path)))
    if len({(clip.part, recording_of(clip.name)) for clip in clips}) == len(clips):
        return clips
    seen = Counter[str]()
    titled = []
    for clip in clips:
        title = "_".join(clip.path.parts[-3:])
        seen[title] += 1
        titled.append(replace(clip, title=title if seen[title] == 1 else f"{seen[title]}_{title}"))
    return titled


def _parts(rows: list[Row]) -> list[Literal["train", "test"]]:
    """The part of each row. Where a row names none: anomalies test, and so do as many normal clips of their id."""
    testing = {row.group for row in rows if row.group and (row.split == "test" or (not row.split and row.label == 1))}
    parts: list[Literal["train", "test"]] = []
    undecided: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    anomalies, taken = Counter[str](), Counter[str]()
    for index, row in enumerate(rows):
        tests = row.split == "test" or (not row.split and (row.label == 1 or row.group in testing))
        parts.append("test" if tests else "train")
        if not row.split and row.label is not None:
            anomalies[row.machine_id] += row.label
            undecided[row.machine_id][row.group or f"\0{index}"] += [index] if row.label == 0 else []
            taken[row.machine_id] += tests and row.label == 0
    for machine_id, groups in undecided.items():
        wanted = normal_test_clips(sum(map(len, groups.values())), anomalies[machine_id])
        for group, members in groups.items():
            if group not in testing and taken[machine_id] + len(members) <= wanted:
                taken[machine_id] += len(members)
                for index in members:
                    parts[index] = "test"
    return parts


def _rows(path: Path) -> Iterator[Row]:
    try:
        # With whatever bytes names of files have, and the mark that spreadsheets put before UTF-8.
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, csv.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise DataError(f"table {path} cannot be read ({reason}); check --recordings") from None
    heading = [name.strip().lower() for name in lines[0]] if lines else []
    if twice := [name for name in COLUMNS if heading.count(name) > 1]:
        raise DataError(f"table {path} has several columns {twice[0]!r}; leave one of them")
    if "path" not in heading:
        others = any(separator in name for name in heading for separator in (";", "\t"))
        separator = "; its cells must be separated by commas" if others else ""
        raise DataError(
            f"table {path} has no column 'path'{nearest('path', heading)}{separator}; its first line names the "
            f"columns, of {', '.join(COLUMNS)}; python -m trainable.recordings FOLDER drafts one"
        )
    seen: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) > len(heading):
            raise DataError(f"{path}, line {number}: has {len(line)} cells, but the first line names {len(heading)}")
        row = _row(f"{path}, line {number}", dict(zip(heading, (cell.strip() for cell in line), strict=False)))
        if (before := seen.setdefault(row.path, number)) != number:
            raise DataError(f"{path}, line {number}: names {row.path} again, after line {before}; leave one of them")
        yield row


def _row(where: str, cells: Mapping[str, str]) -> Row:
    label, split = cells.get("label", "").lower(), cells.get("split", "").lower()
    machine_id = cells.get("id", "") or cells.get("machine_id", "") or MACHINE_ID
    if not cells["path"] or "\0" in cells["path"]:
        raise DataError(f"{where}: names no file")
    if label not in _LABELS:
        raise DataError(f"{where}: the label is {label!r}; it must be normal, anomaly or empty")
    if split not in _SPLITS:
        raise DataError(f"{where}: the split is {split!r}; it must be train, test or empty")
    if not _ID.fullmatch(machine_id):
        raise DataError(f"{where}: the id is {machine_id!r}; it must consist of letters, digits, '-' and '.'")
    if not split and not label:
        split = "train"
    return Row(cells["path"], _LABELS[label], machine_id, split, cells.get("group", ""), cells.get("domain", ""))


def _cell(text: str) -> str:
    return f'"{text.replace(chr(34), 2 * chr(34))}"' if any(mark in text for mark in ',"\r\n') else text
