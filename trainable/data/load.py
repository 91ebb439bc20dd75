"""The one door to data: a `DataConfig` in, a `Dataset` out, whatever the recordings are."""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainable.config import DataConfig, Objective
from trainable.data.cache import default_cache_dir
from trainable.data.check import DataCheck
from trainable.data.clips import Split, TestClips, TrainClips
from trainable.data.embedded import Amount, make_recordings
from trainable.data.features import ClipFeatures, Recordings
from trainable.data.normalise import NormStats, compute_stats, load_stats, save_stats
from trainable.data.npy import Axes
from trainable.data.recordings import read_recordings
from trainable.data.split import validation_mask
from trainable.errors import DataError
from trainable.normal_only.held_back import held_back_mask
from trainable.normal_only.objective import choose_objective
from trainable.normal_only.pseudo import PseudoAnomalies, make_pseudo_anomalies

_log = logging.getLogger(__name__)
FEWEST_LABELLED = 2
"""Test clips of each kind that a machine id needs: one for validation and one held out."""


@dataclass(frozen=True)
class Dataset:
    """One machine type, normalised, split and in memory."""

    machine_type: str
    train: TrainClips
    validation: TestClips
    """Empty where no anomaly is labelled."""
    held_out: TestClips
    """Empty where no anomaly is labelled."""
    norm: NormStats
    ids: tuple[str, ...]
    """Sorted machine ids: the classes of the machine-id head."""
    skipped: tuple[str, ...]
    """One sentence per recording that could not be used."""
    digest: str
    """SHA-256 of contents, front end, normalisation and split: what a resumed run compares."""
    axes: Axes | None = None
    """How precomputed features lie in their files; None without such files."""
    check: DataCheck | None = None
    """How the recordings were stored; None for embedded machines."""
    objective: Objective = Objective.LABELS
    """What judges a training on these clips."""
    pseudo: PseudoAnomalies | None = None
    """Held-back normal clips and pseudo-anomalies; None where labels alone judge."""

    def check_lines(self) -> list[str]:
        """How the recordings were stored, as a table for a terminal; nothing of embedded machines."""
        return [] if self.check is None else self.check.lines()

    @property
    def labelled(self) -> bool:
        """Whether there are labelled clips to evaluate on."""
        return len(self.held_out) > 0

    @property
    def evaluated(self) -> tuple[TestClips, ...]:
        """Every set of clips that a trial scores beside its training clips, some of them empty."""
        return (self.validation, self.held_out, *(() if self.pseudo is None else (self.pseudo.clips,)))


def load_dataset(config: DataConfig, *, cache_dir: Path | None = None, checked: bool = False) -> Dataset:
    """Loads, normalises and splits the recordings of one machine type.

    Features come from, or go to, `cache_dir` (default: `default_cache_dir`). If `config.norm_stats_path` names a file
    that does not exist yet, the statistics of the training clips are computed and saved there. How the recordings are
    stored has been `checked` where a run has said it already.

    Raises
    ------
    DataError
        If recordings are missing, or too many of them are broken. A few broken ones are skipped with a warning.
    """
    cache_dir = cache_dir or default_cache_dir()
    if config.source is not None:
        recordings = read_recordings(config, cache_dir)
        for warning in () if checked or recordings.check is None else recordings.check.warnings:
            _log.warning("%s", warning)
    else:
        amount = Amount(test_clips=config.embedded_test_clips)
        recordings = make_recordings(config.machine_type, config.front_end, cache_dir, amount=amount)
    return assemble(config, recordings)


def assemble(config: DataConfig, recordings: Recordings) -> Dataset:
    """Normalises and splits recordings that were read or generated. Raises DataError if they are no usable data set."""
    _check(config, recordings)
    test, unlabelled = _labelled(config, recordings.test)
    anomalies = Counter(each for each, label in zip(test.machine_ids, test.labels, strict=True) if label == 1)
    held = held_back_mask(recordings.train.machine_ids)
    ids = np.array(recordings.train.machine_ids)
    could_hold = {machine_id: int(held[ids == machine_id].sum()) for machine_id in np.unique(ids).tolist()}
    objective = choose_objective(config.objective, anomalies, could_hold)
    held &= objective.holds_back
    train = recordings.train.take(np.flatnonzero(~held).tolist())
    norm = replace(_norm_stats(config, train), precision="float16" if config.rules > 2 else "float32")
    mask = validation_mask(
        test.names,
        test.machine_ids,
        test.labels,
        config.validation_share,
        groups=test.groups,
        domains=test.domains,
        by_file=config.rules == 1,
    )
    stamp = hashlib.sha256(recordings.digest.encode() + norm.mean_F.tobytes() + norm.std_F.tobytes() + mask.tobytes())
    if norm.precision == "float16":
        stamp.update(norm.precision.encode())
    train_clips = TrainClips(*norm.packed(train), Split.TRAIN)
    pseudo = None
    if objective.holds_back:
        held_back = recordings.train.take(np.flatnonzero(held).tolist()).and_(unlabelled)
        scale = config.front_end.overlap_scale if config.rules > 3 else 1
        pseudo = make_pseudo_anomalies(train_clips, held_back, norm, scale=scale)
        # Not their contents: a severity may differ in its last digit between processors.
        stamp.update("\n".join(pseudo.normal.names).encode(errors="surrogateescape"))
        for warning in pseudo.warnings():
            _log.warning("%s", warning)
    return Dataset(
        machine_type=config.machine_type,
        train=train_clips,
        validation=_test_clips(test, np.flatnonzero(mask), norm, Split.VALIDATION),
        held_out=_test_clips(test, np.flatnonzero(~mask), norm, Split.HELD_OUT),
        norm=norm,
        ids=tuple(sorted(set(train.machine_ids))),
        skipped=recordings.skipped,
        digest=stamp.hexdigest(),
        axes=recordings.axes,
        check=recordings.check,
        objective=objective,
        pseudo=pseudo,
    )


def _check(config: DataConfig, recordings: Recordings) -> None:
    what = f"machine type {config.machine_type}"
    if not recordings.train.names:
        raise DataError(f"{what}: no training clip is usable; see the warnings above")
    unheard = sorted(set(recordings.test.machine_ids) - set(recordings.train.machine_ids))
    if unheard:
        raise DataError(f"{what}: test clips of id {', '.join(unheard)} have no training clips of that id; add some")


def _labelled(config: DataConfig, test: ClipFeatures) -> tuple[ClipFeatures, ClipFeatures]:
    """The test clips of machine ids that have an AUC, and the normal test clips of the others.

    Raises DataError where no id has one but the objective asks for labels.
    """
    # Of a group only one side can have clips.
    own = [group or name for name, group in zip(test.names, test.groups, strict=True)]
    recordings = set(zip(test.machine_ids, test.labels, own, strict=True))
    kinds = Counter((machine_id, label) for machine_id, label, _ in recordings)
    short = {
        machine_id: f"id {machine_id} ({kinds[machine_id, 0]} normal, {kinds[machine_id, 1]} anomalous)"
        for machine_id in sorted(set(test.machine_ids))
        if min(kinds[machine_id, 0], kinds[machine_id, 1]) < FEWEST_LABELLED
    }
    needs = f"an AUC on validation and on held-out clips needs {FEWEST_LABELLED} test clips of each kind of an id"
    if len(short) == len(set(test.machine_ids)):
        usable = ", ".join(short.values()) or "none"
        if config.objective in ("labels", "both"):
            raise DataError(
                f"machine type {config.machine_type}: usable test clips: {usable}; {needs}; add some, or search with "
                "--objective normal-only"
            )
    if short:
        _log.warning("left out of every AUC: test clips of %s; %s", ", ".join(short.values()), needs)
    rows = range(len(test.names))
    labelled = test.take([index for index in rows if test.machine_ids[index] not in short])
    normal = test.take([index for index in rows if test.machine_ids[index] in short and test.labels[index] == 0])
    return labelled, normal


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


def _test_clips(test: ClipFeatures, indices: np.ndarray, norm: NormStats, split: Split) -> TestClips:
    chosen = test.take(indices.tolist())
    labels = np.array(chosen.labels, dtype=np.int64)
    return TestClips(*norm.packed(chosen), split, labels=labels, domains=chosen.domains)
