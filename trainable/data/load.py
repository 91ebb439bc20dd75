"""The one door to data: a `DataConfig` in, a `Dataset` out, whatever the recordings are."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainable.config import DataConfig
from trainable.data.cache import default_cache_dir
from trainable.data.clips import Split, TestClips, TrainClips
from trainable.data.embedded import Amount, make_recordings
from trainable.data.features import ClipFeatures, Recordings
from trainable.data.normalise import NormStats, compute_stats, load_stats, save_stats
from trainable.data.recordings import read_recordings
from trainable.data.split import validation_mask
from trainable.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """One machine type, normalised, split and in memory."""

    machine_type: str
    train: TrainClips
    validation: TestClips
    held_out: TestClips
    norm: NormStats
    ids: tuple[str, ...]
    """Sorted machine ids: the classes of the machine-id head."""
    skipped: tuple[str, ...]
    """One sentence per recording that could not be used."""
    digest: str
    """SHA-256 of contents, front end, normalisation and split: what a resumed run compares."""


def load_dataset(config: DataConfig, *, cache_dir: Path | None = None) -> Dataset:
    """Loads, normalises and splits the recordings of one machine type.

    Features come from, or go to, `cache_dir` (default: `default_cache_dir`). If `config.norm_stats_path` names a file
    that does not exist yet, the statistics of the training clips are computed and saved there.

    Raises
    ------
    DataError
        If recordings are missing, or too many of them are broken. A few broken ones are skipped with a warning.
    """
    cache_dir = cache_dir or default_cache_dir()
    if config.data_root is None:
        amount = Amount(test_clips=config.embedded_test_clips)
        recordings = make_recordings(config.machine_type, config.front_end, cache_dir, amount=amount)
    else:
        recordings = read_recordings(Path(config.data_root).expanduser(), config, cache_dir)
    return assemble(config, recordings)


def assemble(config: DataConfig, recordings: Recordings) -> Dataset:
    """Normalises and splits recordings that were read or generated. Raises DataError if they are no usable data set."""
    train, test = recordings.train, recordings.test
    _check(config, train, test)
    norm = _norm_stats(config, train)
    mask = validation_mask(test.names, test.machine_ids, test.labels, config.validation_share)
    stamp = hashlib.sha256(recordings.digest.encode() + norm.mean_F.tobytes() + norm.std_F.tobytes() + mask.tobytes())
    frames, offsets = _normalised(train.features, norm)
    return Dataset(
        machine_type=config.machine_type,
        train=TrainClips(frames, offsets, tuple(train.machine_ids), tuple(train.names), Split.TRAIN),
        validation=_test_clips(test, np.flatnonzero(mask), norm, Split.VALIDATION),
        held_out=_test_clips(test, np.flatnonzero(~mask), norm, Split.HELD_OUT),
        norm=norm,
        ids=tuple(sorted(set(train.machine_ids))),
        skipped=recordings.skipped,
        digest=stamp.hexdigest(),
    )


def _check(config: DataConfig, train: ClipFeatures, test: ClipFeatures) -> None:
    what = f"machine type {config.machine_type}"
    if not train.names:
        raise DataError(f"{what}: no training clip is usable; see the warnings above")
    unheard = sorted(set(test.machine_ids) - set(train.machine_ids))
    if unheard:
        raise DataError(f"{what}: test clips of id {', '.join(unheard)} have no training clips of that id; add some")
    for machine_id in sorted(set(test.machine_ids)):
        labels = [label for label, its_id in zip(test.labels, test.machine_ids, strict=True) if its_id == machine_id]
        for label, word in ((0, "normal"), (1, "anomalous")):
            # One for validation and one held out; with fewer, one of the two splits has no AUC for this id.
            if labels.count(label) < 2:
                raise DataError(
                    f"{what}: id {machine_id} has {labels.count(label)} usable {word} test clips; "
                    "an AUC on validation and on held-out clips needs at least 2 of each kind per id"
                )


def _norm_stats(config: DataConfig, train: ClipFeatures) -> NormStats:
    if config.norm_stats_path is None:
        return compute_stats(train.features)
    path = Path(config.norm_stats_path).expanduser()
    if path.exists():
        return load_stats(path, config.machine_type)
    stats = compute_stats(train.features)
    save_stats(path, {config.machine_type: stats})
    _log.info("normalisation statistics of %s computed and saved as %s", config.machine_type, path)
    return stats


def _normalised(features: list[np.ndarray], norm: NormStats) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(clip) for clip in features])]).astype(np.int64)
    return norm.apply(np.concatenate(features)), offsets


def _test_clips(test: ClipFeatures, indices: np.ndarray, norm: NormStats, split: Split) -> TestClips:
    frames, offsets = _normalised([test.features[index] for index in indices], norm)
    return TestClips(
        frames,
        offsets,
        tuple(test.machine_ids[index] for index in indices),
        tuple(test.names[index] for index in indices),
        split,
        labels=np.array([test.labels[index] for index in indices], dtype=np.int64),
    )
