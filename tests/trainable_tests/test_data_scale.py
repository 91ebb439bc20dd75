"""Large sets of recordings: the same results to the last bit as from arrays in memory, and no copy of them beside."""

import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from tests.trainable_tests.recording_trees import mel_clip, write_tree
from trainable.config import DataConfig
from trainable.data.cache import cached_frames
from trainable.data.features import ClipFeatures, ClipInfo, passing
from trainable.data.load import load_dataset
from trainable.data.normalise import compute_stats
from trainable.normal_only.families import FAMILIES


def mapped_clips(folder: Path, lengths: list[int]) -> list[np.ndarray]:
    """Made-up clips that lie in a cache."""

    def make(write: object) -> dict[str, np.ndarray]:
        assert callable(write)
        for number, length in enumerate(lengths):
            write(20 * mel_clip(number, frames=length))
        return {}

    frames, _ = cached_frames(folder, "key", make, needs=())
    return np.split(frames.reshape(-1, 64), np.cumsum(lengths)[:-1])


@pytest.mark.parametrize("lengths", [[64], [64] * 500, [1, 30_000, 77, 64], [313] * 300])
def test_statistics_and_normalisation_are_those_of_one_array_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    monkeypatch.setattr("trainable.data.features._RELEASED_BYTES", 100_000)
    clips = mapped_clips(tmp_path, lengths)
    together = np.concatenate(clips)
    stats = compute_stats(clips)
    np.testing.assert_array_equal(stats.mean_F, together.mean(axis=0, dtype=np.float64).astype(np.float32))
    np.testing.assert_array_equal(stats.std_F, together.std(axis=0, dtype=np.float64).astype(np.float32))
    infos = [ClipInfo("00", f"normal_{number}", 0) for number in range(len(clips))]
    frames_TF, offsets, _, _ = stats.packed(ClipFeatures(clips, infos))
    np.testing.assert_array_equal(frames_TF, stats.apply(together))
    np.testing.assert_array_equal(np.diff(offsets), lengths)


def test_clips_in_memory_pass_as_they_are() -> None:
    clips = [mel_clip(1), mel_clip(2)]
    assert [id(clip) for clip in passing(clips)] == [id(clip) for clip in clips]
    assert list(passing([])) == []


def test_reading_takes_the_features_and_little_beside(tmp_path: Path) -> None:
    """Of what numpy allocates, in a first run and from the cache; a clip here is 0.8 % of all.

    In a process of its own: what is counted is all that a process allocates, by threads of other tests too.
    """
    clip_bytes = 4_000 * 64 * 2

    def write(path: Path, number: int) -> None:
        np.save(path.with_suffix(".npy"), mel_clip(number, frames=4_000))

    write_tree(tmp_path / "data", write=write, train=40, normal=10, anomalous=10)
    config = DataConfig.from_dict({"data_root": str(tmp_path / "data")})
    # 16 of the 80 training clips are held back, and each is changed by each family.
    judged = DataConfig.from_dict({"data_root": str(tmp_path / "data"), "objective": "both"})
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        first, cached, both = process.map(peak_of_loading, (config, config, judged), [tmp_path / "cache"] * 3)
    assert max(first, cached) < 1.1 * 120 * clip_bytes
    assert both < 1.1 * (120 + 16 * len(FAMILIES)) * clip_bytes


def peak_of_loading(config: DataConfig, cache: Path) -> int:
    """Bytes that numpy and Python allocate at most while a data set is made."""
    tracemalloc.start()
    try:
        load_dataset(config, cache_dir=cache)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
