"""A first table of the recordings in any tree, guessed from the names of folders and files."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from trainable.data.layout import sound_files
from trainable.data.layouts.good_folders import NORMAL_WORDS
from trainable.data.split import recording_of
from trainable.data.table import MACHINE_ID, Row

ANOMALY_WORDS = (
    *("abnormal", "anomalous", "anomaly", "anomalies", "bad", "broken", "damaged", "defect", "defective", "fail"),
    *("failure", "fault", "faulty", "ng"),
)
_WORDS_OF_LABELS: dict[str, Literal[0, 1]] = {**dict.fromkeys(NORMAL_WORDS, 0), **dict.fromkeys(ANOMALY_WORDS, 1)}
_WORDS_OF_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"}
_DOMAINS = ("source", "target")
_ID = re.compile(r"(?:^|[/_\W])(?:id|machine|unit|section|case)[ _-]?([0-9A-Za-z]*[0-9][0-9A-Za-z]*)", re.IGNORECASE)
_SEGMENT = re.compile(r"^(.*[0-9A-Za-z])[_-](?:seg|part|clip|chunk)?[_-]?[0-9]+$", re.IGNORECASE)
FEWEST_GROUPS = 4
"""Of an id and label: fewer common beginnings of names are no recordings that clips were cut from."""


def draft(root: Path, skipped: list[str]) -> list[Row]:
    """A row for each recording below `root`, its path relative to it.

    Raises DataError where a folder cannot be read. What cannot be read as a recording gets a sentence in `skipped`.
    """
    rows = [_row(path.relative_to(root)) for path in sound_files(root, skipped)]
    return _with_groups(rows)


def _row(path: Path) -> Row:
    stem = path.with_name(recording_of(path.name))
    label, split, domain = (_last_word(stem, meanings) for meanings in (_WORDS_OF_LABELS, _WORDS_OF_SPLITS, None))
    found = _ID.findall(str(stem))
    return Row(
        path=str(path),
        label=label if label in (0, 1) else None,
        machine_id=found[-1] if found else MACHINE_ID,
        split=str(split or ""),
        domain=str(domain or ""),
    )


def _last_word(path: Path, meanings: dict[str, Literal[0, 1]] | dict[str, str] | None) -> object:
    """What the last of a path's words that has a meaning says; None if none has."""
    known: dict[str, object] = dict(meanings) if meanings is not None else {word: word for word in _DOMAINS}
    words = re.findall(r"[a-z]+", str(path).lower())
    return next((known[word] for word in reversed(words) if word in known), None)


def _with_groups(rows: list[Row]) -> list[Row]:
    """Rows with the common beginning of a numbered name as their group, where clips seem to be cut from recordings."""
    beginnings: dict[tuple[str, object], Counter[str]] = defaultdict(Counter)
    for row in rows:
        if (group := _beginning(row)) is not None:
            beginnings[row.machine_id, row.label][group] += 1
    cut = {
        key
        for key, counts in beginnings.items()
        if len(counts) >= FEWEST_GROUPS and sum(count > 1 for count in counts.values()) > len(counts) / 2
    }
    return [_grouped(row) if (row.machine_id, row.label) in cut else row for row in rows]


def _grouped(row: Row) -> Row:
    return Row(row.path, row.label, row.machine_id, row.split, _beginning(row) or "", row.domain)


def _beginning(row: Row) -> str | None:
    path = Path(row.path)
    match = _SEGMENT.match(recording_of(path.name))
    return None if match is None else str(path.with_name(match[1]))


def counts(rows: Iterable[Row]) -> list[str]:
    """A summary: a line for each split, id and label, and what the columns do not say."""
    rows = list(rows)
    kinds = Counter((row.split or "by label", row.machine_id, row.label) for row in rows)
    words = {0: "normal", 1: "anomalous", None: "without a label"}
    order = sorted(kinds, key=lambda kind: (kind[1], kind[0], str(kind[2])))
    lines = [
        f"  id {machine_id}, split {split}: {kinds[split, machine_id, label]} {words[label]}"
        for split, machine_id, label in order
    ]
    groups = {row.group for row in rows if row.group}
    if groups:
        lines.append(f"  {len(groups)} groups of clips that seem to be cut from one recording stay on one side")
    return lines
