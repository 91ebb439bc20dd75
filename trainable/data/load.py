"""The one door to data: a `DataConfig` in, a `Dataset` out, whatever the recordings are."""

import hashlib
import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from trainable.config import DataConfig, FrontEndConfig, nearest
from trainable.data import machine_faults, machines
from trainable.data.cache import Arrays, cached, content_key, default_cache_dir
from trainable.data.clips import Split, TestClips, TrainClips
from trainable.data.frontend import log_mel
from trainable.data.layout import ClipFile, find_files
from trainable.data.normalise import NormStats, compute_stats, load_stats
from trainable.data.readers import lengthen, read_features
from trainable.data.split import validation_mask
from trainable.errors import DataError

_log = logging.getLogger(__name__)
MOST_BROKEN_SHARE = 0.2
"""More broken recordings than this are a broken data set, not a broken recording."""
READER_THREADS = 4
_FORMAT = "features-2"
"""Changes whenever the same files would give other features, so that old cache entries are not used."""


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
    """One sentence a recording that could not be used."""
    digest: str
    """SHA-256 of contents, front end, normalisation and split: what a resumed run compares."""


@dataclass(frozen=True)
class _Features:
    """Unnormalised clips, before they are split."""

    features: list[np.ndarray]
    machine_ids: list[str]
    names: list[str]
    labels: list[int]


def load_dataset(config: DataConfig, *, cache_dir: Path | None = None) -> Dataset:
    """Loads, normalises and splits the recordings of one machine type.

    Raises
    ------
    DataError
        If recordings are missing, or too many of them are broken. A few broken ones are skipped with a warning.
    """
    cache_dir = cache_dir or default_cache_dir()
    if config.data_root is None:
        train, test, digest = _embedded(config, cache_dir)
        skipped: tuple[str, ...] = ()
    else:
        train, test, skipped, digest = _from_files(Path(config.data_root).expanduser(), config, cache_dir)
    norm = (
        load_stats(Path(config.norm_stats_path), config.machine_type)
        if config.norm_stats_path
        else compute_stats(train.features)
    )
    unheard = sorted(set(test.machine_ids) - set(train.machine_ids))
    if unheard:
        raise DataError(f"test clips of machine id {', '.join(unheard)} have no training clips of that id; add some")
    mask = validation_mask(test.names, test.machine_ids, test.labels, config.validation_share)
    stamp = hashlib.sha256(digest.encode() + norm.mean_F.tobytes() + norm.std_F.tobytes() + mask.tobytes())
    frames, offsets = _pack(train.features, norm)
    return Dataset(
        machine_type=config.machine_type,
        train=TrainClips(frames, offsets, tuple(train.machine_ids), tuple(train.names), Split.TRAIN),
        validation=_test_clips(test, np.flatnonzero(mask), norm, Split.VALIDATION),
        held_out=_test_clips(test, np.flatnonzero(~mask), norm, Split.HELD_OUT),
        norm=norm,
        ids=tuple(sorted(set(train.machine_ids))),
        skipped=skipped,
        digest=stamp.hexdigest(),
    )


def _pack(features: list[np.ndarray], norm: NormStats) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(clip) for clip in features])]).astype(np.int64)
    return norm.apply(np.concatenate(features)), offsets


def _test_clips(test: _Features, indices: np.ndarray, norm: NormStats, split: Split) -> TestClips:
    if len(indices) == 0:
        raise DataError(f"no test clip is left for the {split} split; there are too few test clips")
    frames, offsets = _pack([test.features[index] for index in indices], norm)
    return TestClips(
        frames,
        offsets,
        tuple(test.machine_ids[index] for index in indices),
        tuple(test.names[index] for index in indices),
        split,
        labels=np.array([test.labels[index] for index in indices], dtype=np.int64),
    )


def _from_files(root: Path, config: DataConfig, cache_dir: Path) -> tuple[_Features, _Features, tuple[str, ...], str]:
    files = find_files(root, config.machine_type)
    clips = [*files.train, *files.test]
    with ThreadPoolExecutor(READER_THREADS) as pool:
        digests = list(pool.map(_content_digest, clips))
    digest = content_key(_FORMAT, json.dumps(asdict(config.front_end)), *digests)
    arrays = cached(cache_dir, digest, lambda: _read_all(clips, config.front_end))
    broken = [str(sentence) for sentence in arrays["broken"]]
    for sentence in broken:
        _log.warning("skipped %s", sentence)
    if len(broken) > MOST_BROKEN_SHARE * len(clips):
        raise DataError(f"{len(broken)} of {len(clips)} recordings below {root} are unusable; the first: {broken[0]}")
    kept = [clips[index] for index in arrays["kept"]]
    features = _unpack(arrays)
    train_count = sum(1 for clip in kept if clip.path.parent.name == "train")
    parts = [_named(kept[part], features[part]) for part in (slice(0, train_count), slice(train_count, None))]
    if not parts[0].names:
        raise DataError(f"none of the training clips of {root / config.machine_type} is usable; the first: {broken[0]}")
    return parts[0], parts[1], (*files.skipped, *broken), digest


def _named(clips: list[ClipFile], features: list[np.ndarray]) -> _Features:
    return _Features(
        features,
        [clip.machine_id for clip in clips],
        [clip.path.name for clip in clips],
        [clip.label for clip in clips],
    )


def _content_digest(clip: ClipFile) -> str:
    try:
        content = clip.path.read_bytes()
    except OSError as error:
        content = f"unreadable: {error.strerror}".encode()
    return f"{clip.path.parent.name}/{clip.path.name}:{hashlib.sha256(content).hexdigest()}"


def _read_all(clips: list[ClipFile], front_end: FrontEndConfig) -> Arrays:
    def read(clip: ClipFile) -> np.ndarray | str:
        try:
            return read_features(clip.path, front_end)
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(READER_THREADS) as pool:
        results = list(pool.map(read, clips))
    kept = [index for index, result in enumerate(results) if isinstance(result, np.ndarray)]
    broken = [result for result in results if isinstance(result, str)]
    return _packed_arrays([results[index] for index in kept], kept, broken)  # type: ignore[misc]


def _packed_arrays(features: Iterable[np.ndarray], kept: list[int], broken: list[str]) -> Arrays:
    features = list(features)
    return {
        "frames": np.concatenate(features) if features else np.empty((0, 64), np.float32),
        "lengths": np.array([len(clip) for clip in features], dtype=np.int64),
        "kept": np.array(kept, dtype=np.int64),
        "broken": np.array(broken, dtype=np.str_),
    }


def _unpack(arrays: Arrays) -> list[np.ndarray]:
    return np.split(arrays["frames"], np.cumsum(arrays["lengths"])[:-1]) if len(arrays["lengths"]) else []


@dataclass(frozen=True)
class _EmbeddedClip:
    machine_index: int
    part: str
    label: int
    number: int

    @property
    def name(self) -> str:
        word = "anomaly" if self.label else "normal"
        return f"{word}_id_{machines.MACHINE_IDS[self.machine_index]}_{self.number:08d}.wav"


def embedded_clips(train_clips: int, test_clips: int) -> list[_EmbeddedClip]:
    """Names and kinds of the embedded machines' clips, training first."""
    indices = range(len(machines.MACHINE_IDS))
    train = [_EmbeddedClip(index, "train", 0, number) for index in indices for number in range(train_clips)]
    test = [
        _EmbeddedClip(index, "test", label, number)
        for index in indices
        for label in (0, 1)
        for number in range(test_clips)
    ]
    return train + test


def embedded_sound(machine_type: str, clip: _EmbeddedClip) -> np.ndarray:
    """Samples of one embedded clip at 16 kHz, float32; the same every time."""
    machine = machines.make_machine(machine_type, clip.machine_index)
    part = ("train", "test").index(clip.part)
    kind = machines.MACHINE_TYPES.index(machine_type)
    rng = np.random.default_rng([kind, clip.machine_index, part, clip.label, clip.number])
    if clip.label == 0:
        sound = machines.machine_sound(machine, machines.draw_motion(machine, rng), rng)
    else:
        faults, severities = machine_faults.FAULTS, machine_faults.SEVERITIES
        fault = faults[clip.number % len(faults)]
        severity = severities[clip.number // len(faults) % len(severities)]
        sound = machine_faults.faulty_sound(machine, fault, severity, rng)
    return machines.mix(sound, machines.hall_background(rng), rng)


def _embedded_features(machine_type: str, clips: list[_EmbeddedClip], front_end: FrontEndConfig) -> Arrays:
    def features(clip: _EmbeddedClip) -> np.ndarray:
        samples = embedded_sound(machine_type, clip)
        if front_end.sample_rate != machines.SAMPLE_RATE:
            from scipy.signal import resample_poly

            samples = resample_poly(samples, front_end.sample_rate, machines.SAMPLE_RATE).astype(np.float32)
        return lengthen(log_mel(torch.from_numpy(samples), front_end).numpy())

    # numpy and scipy release the interpreter's lock in the long operations, so threads use the second core.
    with ThreadPoolExecutor(READER_THREADS) as pool:
        made = list(pool.map(features, clips))
    return _packed_arrays(made, list(range(len(clips))), [])


def _embedded(
    config: DataConfig,
    cache_dir: Path,
    *,
    train_clips: int = machines.TRAIN_CLIPS,
    test_clips: int = machines.TEST_CLIPS,
) -> tuple[_Features, _Features, str]:
    if config.machine_type not in machines.MACHINE_TYPES:
        raise DataError(
            f"there is no embedded machine {config.machine_type!r}"
            f"{nearest(config.machine_type, machines.MACHINE_TYPES)}; there are {', '.join(machines.MACHINE_TYPES)}; name your own recordings with --data-root"
        )
    clips = embedded_clips(train_clips, test_clips)
    digest = content_key(
        _FORMAT, "embedded-1", config.machine_type, f"{train_clips}/{test_clips}", json.dumps(asdict(config.front_end))
    )
    arrays = cached(cache_dir, digest, partial(_embedded_features, config.machine_type, clips, config.front_end))
    features = _unpack(arrays)
    count = sum(1 for clip in clips if clip.part == "train")

    def part(some: slice) -> _Features:
        chosen = clips[some]
        ids = [machines.MACHINE_IDS[clip.machine_index] for clip in chosen]
        return _Features(features[some], ids, [clip.name for clip in chosen], [clip.label for clip in chosen])

    return part(slice(0, count)), part(slice(count, None)), digest
