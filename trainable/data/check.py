"""How the recordings of a data set were stored, by split, id and label; and what of it alone tells anomalies.

A detector may learn a sample rate, a recorder's level or a length instead of a machine's sound.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from trainable.scoring.metrics import auc
from trainable.typed import build
from trainable.units import aligned


@dataclass(frozen=True)
class Storage:
    """How a recording was stored, in numbers: what must not tell normal from anomalous. NaN where a file does not say.

    ``rate`` in Hz, ``channels`` and ``bits`` of a sample, length in ``seconds`` before a short clip is repeated,
    ``peak`` in full scales and share of ``clipped`` samples before resampling, ``level`` as the mean log-mel in dB.
    """

    rate: float
    channels: float
    bits: float
    seconds: float
    peak: float
    clipped: float
    level: float


PROPERTIES = tuple(each.name for each in fields(Storage))
TITLES = {
    "rate": "sample rate",
    "channels": "number of channels",
    "bits": "bits of a sample",
    "seconds": "length",
    "peak": "peak",
    "clipped": "share of clipped samples",
    "level": "level",
}
SEPARATING = 0.95
"""AUC of a property, in either direction, from which it is said to separate labels."""
ENOUGH_CLIPS = 8
"""Of each label of an id: of so many, a property separates by chance in 1 of 900 (14 of the C(16, 8) orders)."""
FULL_SCALE = 1.0 + 1e-6
CLIPPED_SHARE = 0.01
"""Of a recording's samples at full scale, from which it is too loud for its microphone or converter."""
MOST_LINES = 24
"""Of a table for a terminal."""
_UNKNOWN = "–"
_FORMS = {
    "seconds": (".2f", 1, ""),
    "peak": (".3g", 1, ""),
    "clipped": (".2g", 100, " %"),
    "level": (".1f", 1, ""),
}
"""Property → format, factor and unit of a number; others as they are."""
_COLUMNS = ("Hz", "channels", "bits", "seconds", "peak", "clipped", "level in dB")


@dataclass(frozen=True)
class StorageRow:
    """Clips of one split, id and label: how many, and the least and the largest of each property."""

    split: str
    machine_id: str
    label: str
    clips: int
    short: int
    """Clips too short to fill a patch."""
    low: dict[str, float | None]
    high: dict[str, float | None]


@dataclass(frozen=True)
class DataCheck:
    """What was found before training."""

    rows: tuple[StorageRow, ...]
    warnings: tuple[str, ...]
    """One sentence each."""

    def cells(self) -> list[tuple[str, ...]]:
        """A heading and a row for each split, id and label; of all ids together where there are many."""
        rows = self.rows if len(self.rows) <= MOST_LINES else _merged(self.rows)
        cells = [["split", "id", "label", "clips", *_COLUMNS]]
        for row in rows:
            named = [row.split, row.machine_id, row.label, str(row.clips)]
            cells.append([*named, *_shown_ranges(row)])
        # What no recording says has no column.
        shown = [column for column in zip(*cells, strict=True) if any(cell != _UNKNOWN for cell in column[1:])]
        return list(zip(*shown, strict=True))

    @property
    def remarks(self) -> list[str]:
        """What the table does not say, and is no reason to warn."""
        short = sum(row.short for row in self.rows)
        return [f"{short} clips are shorter than a patch and are repeated until they fill it"] if short else []

    def lines(self) -> list[str]:
        """The table for a terminal."""
        cells = self.cells()
        return [*aligned(cells, left=range(len(cells[0]))), *self.remarks]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataCheck":
        """The inverse of `to_dict`. Raises ValueError for values of another form."""
        try:
            rows, warnings = list(values["rows"]), list(values["warnings"])
        except (KeyError, TypeError):
            raise ValueError("it holds no rows and warnings") from None
        return cls(tuple(build(StorageRow, row) for row in rows), tuple(map(str, warnings)))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"rows": [asdict(row) for row in self.rows], "warnings": list(self.warnings)}


def check_storage(
    storage: np.ndarray,
    *,
    splits: Sequence[str],
    machine_ids: Sequence[str],
    labels: Sequence[int],
    shortest_seconds: float,
    sample_rate: int,
) -> DataCheck:
    """The table and its warnings.

    Parameters
    ----------
    storage
        Float64 (clips, properties): `Storage` of each clip.
    splits, machine_ids, labels
        Of each clip: ``train`` or ``test``; 0 normal, 1 anomaly.
    shortest_seconds
        Length from which a clip fills a patch.
    sample_rate
        Hz, to which recordings are resampled.
    """
    members: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for index, key in enumerate(zip(splits, machine_ids, labels, strict=True)):
        members[key].append(index)
    rows = []
    for key in sorted(members, key=lambda key: (key[0] != "train", key[1], key[2])):
        mine = storage[members[key]]
        low, high = _range(mine, np.fmin), _range(mine, np.fmax)
        short = int((mine[:, PROPERTIES.index("seconds")] < shortest_seconds).sum())
        rows.append(StorageRow(key[0], key[1], ("normal", "anomaly")[key[2]], len(mine), short, low, high))
    test = np.array([split == "test" for split in splits], dtype=bool)
    ids, truth = np.array(machine_ids), np.array(labels)
    warnings = [
        *_separations(storage[test], ids[test], truth[test]),
        *_between_parts(storage, test, truth),
        *_odd_values(storage, sample_rate),
    ]
    return DataCheck(tuple(rows), tuple(warnings))


def _merged(rows: Sequence[StorageRow]) -> list[StorageRow]:
    """The rows of all ids of a split and label as one."""
    kinds = dict.fromkeys((row.split, row.label) for row in rows)
    merged = []
    for split, label in kinds:
        mine = [row for row in rows if (row.split, row.label) == (split, label)]
        low, high = (
            {name: choose(known) if (known := _known(mine, end, name)) else None for name in PROPERTIES}
            for end, choose in (("low", min), ("high", max))
        )
        ids = f"{len(mine)} ids"
        clips, short = sum(row.clips for row in mine), sum(row.short for row in mine)
        merged.append(StorageRow(split, ids, label, clips, short, low, high))
    return merged


def _known(rows: Sequence[StorageRow], end: str, name: str) -> list[float]:
    values = [getattr(row, end)[name] for row in rows]
    return [value for value in values if value is not None]


def _shown_ranges(row: StorageRow) -> list[str]:
    shown = []
    for name in PROPERTIES:
        low, high = row.low[name], row.high[name]
        if low is None or high is None:
            shown.append(_UNKNOWN)
            continue
        form, factor, unit = _FORMS.get(name, ("g", 1, ""))
        ends = [f"{value * factor:{form}}{unit}" for value in (low, high)]
        shown.append(ends[0] if ends[0] == ends[1] else " … ".join(ends))
    return shown


def _range(values: np.ndarray, least: np.ufunc) -> dict[str, float | None]:
    found = least.reduce(values, axis=0).tolist()
    return {name: None if np.isnan(value) else round(value, 4) for name, value in zip(PROPERTIES, found, strict=True)}


def _separations(storage: np.ndarray, ids: np.ndarray, labels: np.ndarray) -> list[str]:
    """Properties that alone separate normal from anomalous test clips."""
    separating = []
    for column, name in enumerate(PROPERTIES):
        aucs = [
            value
            for each in sorted(set(ids.tolist()))
            if (value := _property_auc(storage[ids == each, column], labels[ids == each])) is not None
        ]
        if aucs and (mean := float(np.mean(aucs))) >= SEPARATING:
            separating.append(f"{TITLES[name]} alone (AUC {mean:.2f})")
    if not separating:
        return []
    return [
        f"normal and anomalous test clips are told apart by {', by '.join(separating)}: unless that is the fault "
        "itself, a detector learns how they were recorded; record both alike"
    ]


def _property_auc(values: np.ndarray, labels: np.ndarray) -> float | None:
    """How well a property separates one id's labels, 0.5 … 1 in either direction; None for too few clips."""
    # A file that does not say (a precomputed one among sounds) is a value of its own.
    values = np.nan_to_num(values, nan=-1e9)
    if min((labels == 0).sum(), (labels == 1).sum()) < ENOUGH_CLIPS:
        return None
    wins = auc(labels, values)
    return max(wins, 1 - wins)


def _between_parts(storage: np.ndarray, test: np.ndarray, labels: np.ndarray) -> list[str]:
    """Properties of which no value is both a training clip's and a normal test clip's."""
    train, other = storage[~test], storage[test & (labels == 0)]
    sentences = []
    for name in ("rate", "channels", "bits"):
        column = PROPERTIES.index(name)
        ours, theirs = (set(np.nan_to_num(part[:, column], nan=-1).tolist()) for part in (train, other))
        if ours and theirs and not ours & theirs:
            shown = " and ".join(", ".join(map(_shown, sorted(values))) for values in (ours, theirs))
            sentences.append(
                f"{TITLES[name]}: {shown} in training and in normal test clips; what they differ in counts as anomalous"
            )
    return sentences


def _shown(value: float) -> str:
    return "not known" if value < 0 else f"{value:g}"


def _odd_values(storage: np.ndarray, sample_rate: int) -> list[str]:
    rate, peak, clipped = (storage[:, PROPERTIES.index(name)] for name in ("rate", "peak", "clipped"))
    known = ~np.isnan(rate)
    sentences = []
    if known.any() and (low := int((rate < min(sample_rate, np.nanmax(rate))).sum())) > 0:
        sentences.append(
            f"{low} recordings have a lower sample rate than the others and hold nothing above "
            f"{np.nanmin(rate) / 2:g} Hz; with --sample-rate {int(np.nanmin(rate))} all sound alike"
        )
    if 0 < known.sum() < len(rate):
        sentences.append(
            f"{len(rate) - known.sum()} of {len(rate)} recordings are precomputed features, the others sounds: their "
            "levels agree only if both were made in the same way"
        )
    if beyond := int((peak > FULL_SCALE).sum()):
        sentences.append(
            f"{beyond} recordings exceed full scale (largest peak {np.nanmax(peak):g}): integers saved as floats? "
            "divide them by their full scale"
        )
    if many := int((clipped > CLIPPED_SHARE).sum()):
        sentences.append(
            f"{many} recordings are clipped in more than {100 * CLIPPED_SHARE:g} % of their samples; record at a lower "
            "level"
        )
    return sentences
