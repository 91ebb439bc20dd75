"""Recordings that a data set holds more than once: each counts once, and none of them on two sides."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from trainable.data.layout import ClipFile
from trainable.data.readers import is_npy
from trainable.data.split import recording_of
from trainable.errors import DataError


def without_other_formats(clips: Sequence[ClipFile]) -> tuple[list[ClipFile], list[str]]:
    """The clips without further files of a recording (``x.npy`` beside ``x.wav``), and a sentence about each of those.

    A sound is preferred to features, since those may have been made otherwise.
    """
    by_recording: dict[tuple[str, str, Path], list[ClipFile]] = defaultdict(list)
    for clip in clips:
        by_recording[clip.part, recording_of(clip.name), clip.path.parent].append(clip)
    sentences = []
    dropped: set[Path] = set()
    for same in by_recording.values():
        kept = min(same, key=lambda clip: (is_npy(clip.path), clip.path.name))
        for clip in same:
            if clip is not kept and clip.path != kept.path:
                dropped.add(clip.path)
                sentences.append(f"{clip.path}: {kept.path.name} beside it is the same recording, which counts once")
    return [clip for clip in clips if clip.path not in dropped], sentences


def find_copies(clips: Sequence[ClipFile], sounds: Sequence[str]) -> dict[int, str]:
    """Which clips are copies of others, or cut from what is trained on: index → a sentence about it.

    Parameters
    ----------
    sounds
        Per clip a digest of its features.

    Raises
    ------
    DataError
        If a recording is both normal and anomalous.
    """
    copies: dict[int, str] = {}
    first: dict[str, int] = {}
    for index, (clip, sound) in enumerate(zip(clips, sounds, strict=True)):  # training clips come first
        original = first.setdefault(sound, index)
        if original == index:
            continue
        other = clips[original]
        if (clip.label or 0) != (other.label or 0):
            raise DataError(
                f"{clip.path} and {other.path} are the same recording, one of them normal and the other an anomaly; "
                "remove the one with the wrong label"
            )
        trained = " that is trained on" if other.part == "train" and clip.part == "test" else ""
        copies[index] = f"{clip.path}: is a copy of {other.path}{trained}"
    trained_groups = {clip.group for clip in clips if clip.part == "train" and clip.group}
    for index, clip in enumerate(clips):
        if clip.part == "test" and clip.group in trained_groups:
            copies.setdefault(index, f"{clip.path}: is of the group {clip.group}, others of which are trained on")
    return copies
