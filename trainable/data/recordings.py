"""A user's own recordings: files in a known layout or a table → features, read in parallel and cached by content."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from trainable.config import DataConfig, FrontEndConfig
from trainable.data.cache import Arrays, Write, cached_frames, content_key
from trainable.data.check import PROPERTIES, Storage, check_storage
from trainable.data.copies import find_copies, without_other_formats
from trainable.data.features import ClipFeatures, Recordings, unpack
from trainable.data.frontend import N_MELS
from trainable.data.layout import ClipFile, MachineFiles, find_files, log_skipped
from trainable.data.npy import Axes, axes_of
from trainable.data.parallel import in_parallel, one_torch_thread
from trainable.data.readers import SHORTEST_FRAMES, is_npy, lengthen, read_recording
from trainable.data.table import read_table
from trainable.errors import DataError

MOST_BROKEN_SHARE = 0.2
"""A larger share of broken recordings means that the data set is broken."""
_FORMATS = {1: "features-4", 2: "features-5", 3: "features-5", 4: "features-5"}
"""By the rules of reading. Change the last whenever the same files would give other features."""
_CACHE = "recordings-2"
"""Change it whenever an entry of the cache would hold other arrays."""
_ARRAYS = ("lengths", "kept", "broken", "reasons", "storage", "sounds")


def read_recordings(config: DataConfig, cache_dir: Path) -> Recordings:
    """Features of the recordings that a configuration names.

    Raises DataError if too few are usable, or if one changes or is removed meanwhile.
    """
    files = _files(config)
    clips, unused = [*files.train, *files.test], list(files.unused)
    axes: Axes | None = Axes.EACH_BY_SHAPE
    if config.rules > 1:
        clips, others = without_other_formats(clips)
        log_skipped(others)
        unused += others
        axes = axes_of([clip.path for clip in clips if is_npy(clip.path)])
    versions = [_version(clip) for clip in clips]
    digests = list(in_parallel(_content_digest, clips, "recordings compared with the cache"))
    digest = content_key(_FORMATS[config.rules], *_stamp(config.front_end, config.rules), *digests)
    frames, arrays = cached_frames(
        cache_dir,
        content_key(_CACHE, digest, axes or ""),
        lambda write: _read_all(clips, versions, config.front_end, axes, write),
        needs=_ARRAYS,
    )
    reasons = zip(arrays["broken"], arrays["reasons"], strict=True)
    broken = tuple(f"{clips[index].path}: {reason}" for index, reason in reasons)
    unusable = [*broken, *(files.skipped if config.rules > 1 else ())]
    _refuse_many(unusable, len(clips) + len(unusable) - len(broken), config)
    log_skipped(broken)
    features = unpack({"frames": frames.reshape(-1, N_MELS), "lengths": arrays["lengths"]})
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


@dataclass(frozen=True)
class _Read:
    """One usable recording."""

    features: np.ndarray
    storage: Storage
    sound: str
    """Digest of its features."""


def _version(clip: ClipFile) -> tuple[int, int] | None:
    """Bytes of a file and the time of its last change in ns; None if there is no file."""
    try:
        status = clip.path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _refuse_changed(clips: Sequence[ClipFile], versions: Sequence[tuple[int, int] | None]) -> None:
    """Raises DataError for what is not as it was: the cache would keep it under the digest of other content."""
    for clip, version in zip(clips, versions, strict=True):
        if (now := _version(clip)) != version:
            what = "was removed" if now is None else "changed"
            raise DataError(
                f"{clip.path}: {what} while the recordings were read; start again when nothing writes there"
            )


def _content_digest(clip: ClipFile) -> str:
    try:
        with clip.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
    except OSError as error:
        content = hashlib.sha256(f"unreadable: {error.strerror}".encode())
    return f"{clip.stamp}:{content.hexdigest()}"


def _read_all(
    clips: Sequence[ClipFile],
    versions: Sequence[tuple[int, int] | None],
    front_end: FrontEndConfig,
    axes: Axes | None,
    write: Write,
) -> Arrays:
    """Writes the features of all clips that can be read, and gives what else the cache keeps of them.

    Raises DataError for a clip that is not in the version that its digest was made of.
    """

    def read(clip: ClipFile) -> _Read | str:
        try:
            features, storage = read_recording(clip.path, front_end, axes)
        except DataError as error:
            # Without the path, since a cache entry also serves the same recordings in another folder.
            return str(error).removeprefix(f"{clip.path}: ")
        features = lengthen(features)
        return _Read(features, storage, hashlib.sha256(features.ravel().data).hexdigest())

    kept: dict[int, tuple[int, Storage, str]] = {}
    broken: dict[int, str] = {}
    with one_torch_thread():
        for index, result in enumerate(in_parallel(read, clips, "recordings read")):
            if isinstance(result, str):
                broken[index] = result
            else:
                write(result.features)
                kept[index] = len(result.features), result.storage, result.sound
    _refuse_changed(clips, versions)
    storage = np.array([astuple(storage) for _, storage, _ in kept.values()], dtype=np.float64)
    return {
        "lengths": np.array([length for length, _, _ in kept.values()], dtype=np.int64),
        "kept": np.array(list(kept), dtype=np.int64),
        "broken": np.array(list(broken), dtype=np.int64),
        "reasons": np.array(list(broken.values()), dtype=np.str_),
        "storage": storage.reshape(-1, len(PROPERTIES)),
        "sounds": np.array([sound for _, _, sound in kept.values()], dtype=np.str_),
    }
