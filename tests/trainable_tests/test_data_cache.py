"""Features are computed once, stored under their content, and computed again where the store is damaged."""

import logging
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trainable.data.recordings as recordings
from tests.trainable_tests.recording_trees import write_tree, write_wav
from trainable.config import DataConfig
from trainable.data.cache import Arrays, Write, cached, cached_frames, content_key, default_cache_dir, release
from trainable.data.load import load_dataset
from trainable.errors import DataError

ARRAYS = {"frames": np.arange(6400, dtype=np.float32).reshape(100, 64), "lengths": np.array([40, 60])}
NEEDS = ("frames", "lengths")


class Maker:
    """Makes the arrays, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return ARRAYS

    def writing(self, write: Write) -> dict[str, np.ndarray]:
        """The same arrays, the frames written clip after clip."""
        self.calls += 1
        for clip in np.split(ARRAYS["frames"], [40]):
            write(clip)
        return {"lengths": ARRAYS["lengths"]}


Cached = Callable[[Path, str, Maker], Arrays]


def returned(cache_dir: Path, key: str, make: Maker) -> Arrays:
    return cached(cache_dir, key, make, needs=NEEDS)


def written(cache_dir: Path, key: str, make: Maker) -> Arrays:
    frames, arrays = cached_frames(cache_dir, key, make.writing, needs=["lengths"])
    return {"frames": frames.reshape(-1, 64), **arrays}


each_way = pytest.mark.parametrize("ask", [returned, written])


def assert_right(found: object) -> None:
    assert isinstance(found, dict)
    for name in NEEDS:
        np.testing.assert_array_equal(found[name], ARRAYS[name])


@each_way
def test_made_once_and_read_afterwards(ask: Cached, tmp_path: Path) -> None:
    make = Maker()
    for _ in range(3):
        assert_right(ask(tmp_path / "deep" / "er", "key", make))
    assert make.calls == 1
    ask(tmp_path / "deep" / "er", "other", make)
    assert make.calls == 2
    assert sorted(path.name for path in (tmp_path / "deep/er").iterdir()) == ["key.npz", "other.npz"]


@each_way
def test_damage_anywhere_is_noticed_and_repaired(ask: Cached, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every byte in turn would take long: every 499th, and all of the first and last 150, one flipped bit each."""
    make = Maker()
    ask(tmp_path, "key", make)
    path = tmp_path / "key.npz"
    content = path.read_bytes()
    places = {*range(150), *range(0, len(content), 499), *range(len(content) - 150, len(content))}
    noticed = 0
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(damaged))
        calls = make.calls
        assert_right(ask(tmp_path, "key", make))
        noticed += make.calls - calls
    # Some bytes (a file's date) mean nothing; no damage that means something gets through.
    assert noticed > len(places) / 2
    assert "are damaged" in caplog.text


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + b"\0" * 18, b"no archive at all", b"\0" * 5000])
@each_way
def test_a_file_that_is_no_cache_is_made_anew(ask: Cached, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.npz").write_bytes(content)
    make = Maker()
    for _ in range(2):
        assert_right(ask(tmp_path, "key", make))
    assert make.calls == 1


@each_way
def test_a_truncated_cache_is_made_anew(ask: Cached, tmp_path: Path) -> None:
    make = Maker()
    ask(tmp_path, "key", make)
    content = (tmp_path / "key.npz").read_bytes()
    for length in range(0, len(content), 501):
        (tmp_path / "key.npz").write_bytes(content[:length])
        assert_right(ask(tmp_path, "key", make))
        assert (tmp_path / "key.npz").read_bytes() == content


@each_way
def test_an_unwritable_cache_costs_time_not_the_run(
    ask: Cached, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    make = Maker()
    for _ in range(2):
        assert_right(ask(tmp_path / "file" / "cache", "key", make))
    assert make.calls == 2
    assert "cannot be cached" in caplog.text


def test_a_disk_that_fills_up_costs_time_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_right(written(tmp_path, "key", Maker()))
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_frames_are_mapped_aligned_and_read_only(tmp_path: Path) -> None:
    for _ in range(2):  # made, and found
        frames = written(tmp_path, "key", Maker())["frames"]
        assert frames.flags.aligned
        assert not frames.flags.writeable
        owner = frames.base
        while isinstance(owner, np.ndarray | memoryview):
            owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
        assert isinstance(owner, mmap.mmap)
        release(frames)
        np.testing.assert_array_equal(frames, ARRAYS["frames"])
    own = ARRAYS["frames"].copy()
    release(own)
    np.testing.assert_array_equal(own, ARRAYS["frames"])


def test_no_frames_are_cached_too(tmp_path: Path) -> None:
    for _ in range(2):
        frames, arrays = cached_frames(tmp_path, "key", lambda write: {"lengths": np.empty(0)}, needs=["lengths"])
        assert len(frames) == len(arrays["lengths"]) == 0


def test_several_may_ask_at_once_and_what_they_hold_survives_a_replacement(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: written(tmp_path, "key", Maker()), range(16)))
    (tmp_path / "key.npz").unlink()
    written(tmp_path, "key", Maker())
    for each in found:
        assert_right(each)
    assert [path.name for path in tmp_path.iterdir()] == ["key.npz"]


def test_what_a_killed_process_left_is_removed_and_what_one_writes_now_is_not(tmp_path: Path) -> None:
    left, growing = tmp_path / ".other.npz.1-1.tmp", tmp_path / ".other.npz.2-2.tmp"
    for path in (left, growing):
        path.touch()
    os.utime(left, (time.time() - 86_400,) * 2)
    written(tmp_path, "key", Maker())
    assert sorted(path.name for path in tmp_path.iterdir()) == [growing.name, "key.npz"]


def test_a_failure_while_making_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    def fail_late(write: Write) -> dict[str, np.ndarray]:
        write(ARRAYS["frames"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "key", fail, needs=NEEDS)
    with pytest.raises(KeyboardInterrupt):
        cached_frames(tmp_path, "key", fail_late, needs=NEEDS)
    assert list(tmp_path.iterdir()) == []


def test_keys_are_made_of_parts_not_of_their_concatenation() -> None:
    keys = {content_key("a", "bc"), content_key("ab", "c"), content_key("abc"), content_key("a", "b", "c")}
    assert len(keys) == 4
    assert all(len(key) == 32 for key in keys)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AD_CACHE_DIR", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("AD_CACHE_DIR")
    assert default_cache_dir() == Path.home() / ".cache" / "vqvae-ad-search"


def test_recordings_are_read_again_only_when_content_or_front_end_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    folder = write_tree(tmp_path / "data", write=write_wav)
    reads: list[str] = []
    real = recordings.read_recording
    monkeypatch.setattr(recordings, "read_recording", lambda path, *how: (reads.append(path.name), real(path, *how))[1])

    def reads_of(**options: object) -> int:
        reads.clear()
        values = {"data_root": str(tmp_path / "data"), **options}
        load_dataset(DataConfig.from_dict(values), cache_dir=tmp_path / "cache")
        return len(reads)

    assert reads_of() == 14
    assert reads_of() == 0
    for path in folder.glob("*/*"):
        path.touch()
    assert reads_of() == 0, "the date of a file is not its content"
    assert reads_of(hop_length=256) == 14
    assert reads_of(validation_share=0.3) == 0, "the split does not change features"
    write_wav(folder / "test/normal_id_00_00000000", 50)
    assert reads_of() == 14
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (lambda path: write_wav(path.with_suffix(""), 50), "changed while the recordings were read"),
        (Path.unlink, "was removed while the recordings were read"),
    ],
)
def test_what_changes_while_it_is_read_is_one_line_and_never_in_the_cache(
    happens: Callable[[Path], object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tree(tmp_path / "data", write=write_wav)
    changed = folder / "train/normal_id_00_00000001.wav"
    as_it_was = changed.read_bytes()
    config = DataConfig(data_root=str(tmp_path / "data"))
    real = recordings.read_recording

    def changed_before(path: Path, *how: Any) -> Any:
        if path == changed:
            happens(path)
        return real(path, *how)

    with monkeypatch.context() as patch:
        patch.setattr(recordings, "read_recording", changed_before)
        with pytest.raises(DataError, match=rf"{changed.name}: {said}"):
            load_dataset(config, cache_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    changed.write_bytes(as_it_was)
    assert load_dataset(config, cache_dir=tmp_path / "cache").skipped == ()
