"""A first table of the recordings in any tree, guessed from the names of folders and files."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from trainable.data.layout import sound_files
from trainable.data.layouts.good_folders import NORMAL_WORDS
from trainable.data.split import recording_of
from trainable.data.table import MACHINE_ID, Row

ANOMALY_WORDS = (
    *("abnormal", "anomalous", "anomaly", "anomalies", "bad", "broken", "damaged", "defect", "defective", "fail"),
    *("defekt", "failure", "fault", "faulty", "kaputt", "ko", "ng", "nio", "nok", "unhealthy"),
)
_NEGATIONS = ("no", "non", "not", "un")
"""Before a word of a label they turn it round."""
_WORDS_OF_LABELS: dict[str, Literal[0, 1]] = {**dict.fromkeys(NORMAL_WORDS, 0), **dict.fromkeys(ANOMALY_WORDS, 1)}
_WORDS_OF_SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"}
_DOMAINS = ("source", "target")
_ID = re.compile(r"(?:^|[/_\W])(?:id|machine|unit|section|case)[ _-]?([0-9A-Za-z]*[0-9][0-9A-Za-z]*)", re.IGNORECASE)
_SEGMENT = re.compile(r"^(.*[0-9A-Za-z])[_-](?:seg|part|clip|chunk)?[_-]?[0-9]+$", re.IGNORECASE)
MOST_FOLDERS = 5
"""Named in a summary."""
FEWEST_GROUPS = 4
"""Of an id and label: fewer common beginnings of names are no recordings that clips were cut from."""


def draft(root: Path, skipped: list[str]) -> list[Row]:
    """A row for each recording below `root`, its path relative to it.

    Raises DataError where a folder cannot be read. What cannot be read as a recording gets a sentence in `skipped`.
    """
    rows = [_row(path.relative_to(root)) for path in sound_files(root, skipped)]
    if not {"train", "test"} <= {row.split for row in rows}:  # a word in some names only means something else
        rows = [replace(row, split="") for row in rows]
    # Where names of others say it, what is not known to be normal is not trained on.
    if any(row.label is not None for row in rows):
        rows = [replace(row, split="test") if row.label is None else row for row in rows]
    return _with_groups(rows)


def _row(path: Path) -> Row:
    stem = path.with_name(recording_of(path.name))
    words = re.findall(r"[a-z]+", str(stem).lower())
    labels = {
        1 - _WORDS_OF_LABELS[word] if before in _NEGATIONS else _WORDS_OF_LABELS[word]
        for before, word in zip(["", *words], words, strict=False)
        if word in _WORDS_OF_LABELS
    }
    split = next((_WORDS_OF_SPLITS[word] for word in reversed(words) if word in _WORDS_OF_SPLITS), "")
    domain = next((word for word in reversed(words) if word in _DOMAINS), "")
    found = _ID.findall(str(stem))
    return Row(
        path=str(path),
        label=None if len(labels) != 1 else 0 if labels == {0} else 1,
        machine_id=found[-1] if found else MACHINE_ID,
        split=split,
        domain=domain,
    )


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
    return replace(row, group=_beginning(row) or "")


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
    unknown = sorted({str(Path(row.path).parent) for row in rows if row.label is None})
    if unknown and len(kinds) > 1:
        shown = ", ".join(unknown[:MOST_FOLDERS]) + (", …" if len(unknown) > MOST_FOLDERS else "")
        lines.append(f"  without a label, or with words of both, in {shown}: they serve nothing until you correct them")
    elif unknown:
        lines.append("  no name says what is normal: all of them are taken for normal and trained on")
    groups = {row.group for row in rows if row.group}
    if groups:
        lines.append(f"  {len(groups)} groups of clips that seem to be cut from one recording stay on one side")
    return lines
