"""What a set's ``.npy`` files mean is decided for all of them, and what cannot be log-mels is refused."""

from pathlib import Path

import numpy as np
import pytest

from tests.trainable_tests.recording_trees import mel_clip, write_tree
from trainable.config import DataConfig
from trainable.data.load import load_dataset
from trainable.data.npy import Axes, axes_of, read_npy
from trainable.errors import DataError


def saved(folder: Path, **arrays: np.ndarray) -> list[Path]:
    paths = []
    for name, array in arrays.items():
        paths.append(folder / f"{name}.npy")
        np.save(paths[-1], array)
    return paths


def test_a_square_array_lies_as_its_neighbours_do(tmp_path: Path) -> None:
    square = mel_clip(1, frames=64)
    paths = saved(tmp_path, long=mel_clip(2), square=square)
    assert axes_of(paths) is Axes.FRAMES_FIRST
    np.testing.assert_array_equal(read_npy(paths[1], Axes.FRAMES_FIRST), square)
    paths = saved(tmp_path, long=mel_clip(2).T, square=square.T)
    assert axes_of(paths) is Axes.MELS_FIRST
    np.testing.assert_array_equal(read_npy(paths[1], Axes.MELS_FIRST), square)


def test_of_square_arrays_alone_the_axis_whose_means_differ_is_the_mel_axis(tmp_path: Path) -> None:
    clips = [mel_clip(number, frames=64) for number in range(5)]
    assert axes_of(saved(tmp_path, **{f"f{n}": clip for n, clip in enumerate(clips)})) is Axes.FRAMES_FIRST
    assert axes_of(saved(tmp_path, **{f"f{n}": clip.T for n, clip in enumerate(clips)})) is Axes.MELS_FIRST


def test_shapes_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    paths = saved(tmp_path, one=mel_clip(1), other=mel_clip(2).T)
    with pytest.raises(DataError, match=r"one.npy has the shape \(80, 64\) and .*other.npy has \(64, 80\)"):
        axes_of(paths)


def test_one_file_that_lies_otherwise_than_its_detectors_set_is_refused(tmp_path: Path) -> None:
    [path] = saved(tmp_path, one=mel_clip(1))
    with pytest.raises(DataError, match="frames first; the other recordings have mels first"):
        read_npy(path, Axes.MELS_FIRST)


def test_64_frames_of_128_mels_are_not_128_frames(tmp_path: Path) -> None:
    mels = np.add.outer(np.arange(128.0), np.random.default_rng(0).standard_normal(64)).astype(np.float32)
    for array in (mels, mels.T):
        paths = saved(tmp_path, a=array, b=array + 1)
        for read in (lambda paths=paths: axes_of(paths), lambda paths=paths: read_npy(paths[0])):
            with pytest.raises(DataError, match="differ as mel bands do, so 64 seems to be the number of frames"):
                read()
    # 128 frames of 64 mels are.
    assert axes_of(saved(tmp_path, a=mel_clip(1, frames=128))) is Axes.FRAMES_FIRST


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((64, 200), np.float32), "every value is 0"),
        (np.full((200, 64), -80.0), "every value is -80"),
        (10 ** (mel_clip(1, frames=200) / 10), "holds power or amplitude, not its logarithm"),
    ],
)
def test_what_is_no_log_mel_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_npy(saved(tmp_path, wrong=array)[0])


@pytest.mark.parametrize("shift", [0.0, -80.0, 40.0])
def test_levels_in_decibels_are_read_whatever_their_reference(tmp_path: Path, shift: float) -> None:
    clip = mel_clip(1) + np.float32(shift)
    np.testing.assert_array_equal(read_npy(saved(tmp_path, clip=clip)[0]), clip)


def test_a_data_set_reads_its_short_clips_as_the_long_ones(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data")
    square = mel_clip(7, frames=64)
    np.save(folder / "test/normal_id_00_00000000.npy", square)
    dataset = load_dataset(DataConfig(data_root=str(tmp_path / "data")), cache_dir=tmp_path / "cache")
    clips = [half.clip(index) for half in (dataset.validation, dataset.held_out) for index in range(len(half))]
    [found] = [clip for clip in clips if len(clip) == 64]
    np.testing.assert_allclose(found, dataset.norm.apply(square), atol=1e-5)
    assert dataset.axes is Axes.FRAMES_FIRST
