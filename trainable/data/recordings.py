"""A user's own recordings: files in a known layout → features, read in parallel and cached by content."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from trainable.config import DataConfig, FrontEndConfig
from trainable.data.cache import cached, content_key
from trainable.data.features import ClipFeatures, Recordings, pack, unpack
from trainable.data.layout import ClipFile, find_files, log_skipped
from trainable.data.readers import read_features
from trainable.errors import DataError

MOST_BROKEN_SHARE = 0.2
"""A larger share of broken recordings means that the data set is broken."""
READER_THREADS = 4
_FORMAT = "features-4"
"""Change it whenever the same files would give other features, so that old cache entries are not used."""
_ARRAYS = ("frames", "lengths", "kept", "broken", "reasons")


def read_recordings(root: Path, config: DataConfig, cache_dir: Path) -> Recordings:
    """Features of one machine type below `root`. Raises DataError if too few recordings are usable."""
    files = find_files(root, config.machine_type, labelled=config.objective in ("labels", "both"))
    clips = [*files.train, *files.test]
    with ThreadPoolExecutor(READER_THREADS) as pool:
        digests = list(pool.map(_content_digest, clips))
    digest = content_key(_FORMAT, json.dumps(asdict(config.front_end)), *digests)
    arrays = cached(cache_dir, digest, lambda: _read_all(clips, config.front_end), needs=_ARRAYS)
    reasons = zip(arrays["broken"], arrays["reasons"], strict=True)
    broken = tuple(f"{clips[index].path}: {reason}" for index, reason in reasons)
    if len(broken) > MOST_BROKEN_SHARE * len(clips):
        raise DataError(
            f"{len(broken)} of {len(clips)} recordings below {root} are unusable, more than {MOST_BROKEN_SHARE:.0%}: "
            f"repair or remove them (docs/data.md says what is accepted); the first: {broken[0]}"
        )
    log_skipped(broken)
    features = unpack(arrays)
    kept = [clips[index] for index in arrays["kept"]]
    train_count = int((arrays["kept"] < len(files.train)).sum())
    train = _clip_features(kept[:train_count], features[:train_count])
    test = _clip_features(kept[train_count:], features[train_count:])
    return Recordings(train, test, (*files.skipped, *broken), digest)


def _clip_features(clips: list[ClipFile], features: list[np.ndarray]) -> ClipFeatures:
    return ClipFeatures(
        features,
        [clip.machine_id for clip in clips],
        [clip.name for clip in clips],
        [clip.label for clip in clips],
    )


def _content_digest(clip: ClipFile) -> str:
    try:
        content = clip.path.read_bytes()
    except OSError as error:
        content = f"unreadable: {error.strerror}".encode()
    return f"{clip.stamp}:{hashlib.sha256(content).hexdigest()}"


def _read_all(clips: list[ClipFile], front_end: FrontEndConfig) -> Mapping[str, np.ndarray]:
    def read(clip: ClipFile) -> np.ndarray | str:
        try:
            return read_features(clip.path, front_end)
        except DataError as error:
            # Without the path, since a cache entry also serves the same recordings in another folder.
            return str(error).removeprefix(f"{clip.path}: ")

    with ThreadPoolExecutor(READER_THREADS) as pool:
        results = list(pool.map(read, clips))
    broken = {index: result for index, result in enumerate(results) if isinstance(result, str)}
    return pack([result for result in results if isinstance(result, np.ndarray)]) | {
        "kept": np.array([index for index in range(len(clips)) if index not in broken], dtype=np.int64),
        "broken": np.array(list(broken), dtype=np.int64),
        "reasons": np.array(list(broken.values()), dtype=np.str_),
    }
