"""A user's own recordings: files in a known layout or a table → features, read in parallel and cached by content."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path

import numpy as np

from trainable.config import DataConfig, FrontEndConfig
from trainable.data.cache import cached, content_key
from trainable.data.check import PROPERTIES, Storage, check_storage
from trainable.data.copies import find_copies, without_other_formats
from trainable.data.features import ClipFeatures, Recordings, pack, unpack
from trainable.data.layout import ClipFile, MachineFiles, find_files, log_skipped
from trainable.data.npy import Axes, axes_of
from trainable.data.readers import SHORTEST_FRAMES, is_npy, lengthen, read_recording
from trainable.data.table import read_table
from trainable.errors import DataError

MOST_BROKEN_SHARE = 0.2
"""A larger share of broken recordings means that the data set is broken."""
READER_THREADS = 4
_FORMATS = {1: "features-4", 2: "features-5"}
"""By the rules of reading. Change the last whenever the same files would give other features."""
_CACHE = "recordings-1"
"""Change it whenever an entry of the cache would hold other arrays."""
_ARRAYS = ("frames", "lengths", "kept", "broken", "reasons", "storage", "sounds")


def read_recordings(config: DataConfig, cache_dir: Path) -> Recordings:
    """Features of the recordings that a configuration names. Raises DataError if too few are usable."""
    files = _files(config)
    clips, unused = [*files.train, *files.test], list(files.unused)
    axes = None
    if config.rules > 1:
        clips, others = without_other_formats(clips)
        log_skipped(others)
        unused += others
        axes = axes_of([clip.path for clip in clips if is_npy(clip.path)])
    with ThreadPoolExecutor(READER_THREADS) as pool:
        digests = list(pool.map(_content_digest, clips))
    digest = content_key(_FORMATS[config.rules], *_stamp(config.front_end, config.rules), *digests)
    arrays = cached(
        cache_dir,
        content_key(_CACHE, digest, axes or ""),
        lambda: _read_all(clips, config.front_end, axes),
        needs=_ARRAYS,
    )
    reasons = zip(arrays["broken"], arrays["reasons"], strict=True)
    broken = tuple(f"{clips[index].path}: {reason}" for index, reason in reasons)
    unusable = [*broken, *(files.skipped if config.rules > 1 else ())]
    _refuse_many(unusable, len(clips) + len(unusable) - len(broken), config)
    log_skipped(broken)
    features = unpack(arrays)
    kept = [clips[index] for index in arrays["kept"]]
    copies = find_copies(kept, arrays["sounds"].tolist()) if config.rules > 1 else {}
    log_skipped(list(copies.values()))
    rows = [index for index in range(len(kept)) if index not in copies]
    check = check_storage(
        arrays["storage"][rows],
        splits=[kept[index].part for index in rows],
        machine_ids=[kept[index].machine_id for index in rows],
        labels=[kept[index].label or 0 for index in rows],
        shortest_seconds=(SHORTEST_FRAMES - 1) * config.front_end.hop_length / config.front_end.sample_rate,
        sample_rate=config.front_end.sample_rate,
    )
    skipped = (*files.skipped, *unused, *broken, *copies.values())
    train, test = (
        _clip_features([index for index in rows if kept[index].part == part], kept, features)
        for part in ("train", "test")
    )
    return Recordings(train, test, skipped, digest, axes, check)


def _files(config: DataConfig) -> MachineFiles:
    labelled = config.objective in ("labels", "both")
    root = None if config.data_root is None else Path(config.data_root).expanduser()
    if config.recordings is not None:
        return read_table(Path(config.recordings).expanduser(), root, labelled=labelled)
    assert root is not None
    return find_files(root, config.machine_type, labelled=labelled)


def _refuse_many(unusable: Sequence[str], there: int, config: DataConfig) -> None:
    if len(unusable) > MOST_BROKEN_SHARE * there:
        raise DataError(
            f"{len(unusable)} of {there} recordings of {config.source} are unusable, more than "
            f"{MOST_BROKEN_SHARE:.0%}: repair or remove them (docs/data.md says what is accepted); the first: "
            f"{unusable[0]}"
        )


def _stamp(front_end: FrontEndConfig, rules: int) -> tuple[str, ...]:
    """What features depend on besides the files; earlier rules had no choice of a channel."""
    spectrum = json.dumps(front_end.spectrum)
    return (spectrum,) if rules == 1 and front_end.channel == "mean" else (spectrum, str(front_end.channel))


def _clip_features(indices: Sequence[int], clips: Sequence[ClipFile], features: Sequence[np.ndarray]) -> ClipFeatures:
    return ClipFeatures([features[index] for index in indices], [clips[index].info for index in indices])


def _content_digest(clip: ClipFile) -> str:
    try:
        content = clip.path.read_bytes()
    except OSError as error:
        content = f"unreadable: {error.strerror}".encode()
    return f"{clip.stamp}:{hashlib.sha256(content).hexdigest()}"


def _read_all(clips: list[ClipFile], front_end: FrontEndConfig, axes: Axes | None) -> Mapping[str, np.ndarray]:
    def read(clip: ClipFile) -> tuple[np.ndarray, Storage] | str:
        try:
            features, storage = read_recording(clip.path, front_end, axes)
            return lengthen(features), storage
        except DataError as error:
            # Without the path, since a cache entry also serves the same recordings in another folder.
            return str(error).removeprefix(f"{clip.path}: ")

    with ThreadPoolExecutor(READER_THREADS) as pool:
        results = list(pool.map(read, clips))
    read_clips = [result for result in results if not isinstance(result, str)]
    broken = {index: result for index, result in enumerate(results) if isinstance(result, str)}
    sounds = [hashlib.sha256(features.tobytes()).hexdigest() for features, _ in read_clips]
    storage = np.array([astuple(storage) for _, storage in read_clips], dtype=np.float64)
    return pack([features for features, _ in read_clips]) | {
        "kept": np.array([index for index in range(len(clips)) if index not in broken], dtype=np.int64),
        "broken": np.array(list(broken), dtype=np.int64),
        "reasons": np.array(list(broken.values()), dtype=np.str_),
        "storage": storage.reshape(-1, len(PROPERTIES)),
        "sounds": np.array(sounds, dtype=np.str_),
    }
