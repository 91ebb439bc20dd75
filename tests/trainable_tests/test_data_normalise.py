"""Normalisation statistics: computed, saved and loaded in the recipe's format."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainable_tests.recording_trees import mel_clip, write_tree
from trainable.config import DataConfig
from trainable.data.load import load_dataset
from trainable.data.normalise import SMALLEST_STD, NormStats, compute_stats, load_stats, save_stats, stats_key
from trainable.errors import DataError

MEAN, STD = torch.arange(64.0), torch.arange(1.0, 65.0)


def test_statistics_are_those_of_all_frames_together() -> None:
    clips = [mel_clip(1, frames=70), mel_clip(2, frames=130)]
    stats = compute_stats(clips)
    frames = np.concatenate(clips).astype(np.float64)
    np.testing.assert_allclose(stats.mean_F, frames.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(stats.std_F, frames.std(axis=0), rtol=1e-6)
    normalised = stats.apply(np.concatenate(clips))
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised.std(axis=0), 1.0, rtol=1e-5)


def test_a_bin_that_never_changes_stays_finite() -> None:
    stats = compute_stats([np.full((70, 64), -156.5, np.float32)])
    np.testing.assert_array_equal(stats.std_F, np.float32(SMALLEST_STD))
    np.testing.assert_array_equal(stats.apply(np.full((70, 64), -156.5, np.float32)), 0.0)


def test_half_precision_rounds_by_what_it_says() -> None:
    clip = 20 * mel_clip(1, frames=2_000)
    exact = compute_stats([clip])
    rounded = replace(exact, precision="float16").apply(clip)
    assert rounded.dtype == np.float16
    expected = exact.apply(clip)
    np.testing.assert_array_equal(rounded, expected.astype(np.float16))
    assert (np.abs(rounded - expected) <= np.maximum(2.0**-11 * np.abs(expected), 2.0**-25)).all()


@pytest.mark.parametrize("loud", [0.0, np.finfo(np.float32).max])
def test_half_precision_has_no_infinite_numbers(loud: float) -> None:
    """A test clip sounds in a band that was silent in training, 156,500 deviations of it away, or is absurdly loud."""
    stats = replace(compute_stats([np.full((70, 64), -156.5, np.float32)]), precision="float16")
    np.testing.assert_array_equal(stats.apply(np.full((64, 64), loud, np.float32)), np.float16(65_504))
    np.testing.assert_array_equal(stats.apply(np.full((64, 64), -loud - 313, np.float32)), np.float16(-65_504))


def test_machine_types_have_dcases_indices() -> None:
    """DESIGN.md: order ToyCar, ToyConveyor, fan, pump, slider, valve."""
    names = ["ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve"]
    assert [stats_key(name) for name in names] == [0, 1, 2, 3, 4, 5]
    assert stats_key("spindle") == "spindle"


def test_saved_statistics_are_the_recipes_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "stats.pt"
    fan, spindle = (compute_stats([mel_clip(number)]) for number in (1, 2))
    save_stats(path, {"fan": fan, "spindle": spindle})
    content = torch.load(path, weights_only=True)
    assert set(content) == {2, "spindle"}
    mean, std = content[2]
    assert mean.shape == std.shape == (64,)
    for name, stats in (("fan", fan), ("spindle", spindle)):
        loaded = load_stats(path, name)
        np.testing.assert_array_equal(loaded.mean_F, stats.mean_F)
        np.testing.assert_array_equal(loaded.std_F, stats.std_F)
    assert [entry.name for entry in path.parent.iterdir()] == ["stats.pt"]


@pytest.mark.parametrize(
    "entry",
    [
        (MEAN, STD),
        [MEAN, STD],
        {"mean": MEAN, "std": STD},
        torch.stack([MEAN, STD]),
        (MEAN.double(), STD.half()),
        (MEAN[:, None], STD[:, None]),
        (MEAN.tolist(), STD.tolist()),
        (MEAN.numpy(), STD.double().numpy()),
        {"mean": MEAN.half().numpy(), "std": list(STD.numpy()), "var": STD**2},
        (MEAN[None], STD.bfloat16()),
        (torch.nn.Parameter(MEAN), STD.int()),
    ],
    ids=["tuple", "list", "dict", "tensor", "types", "columns", "plain", "arrays", "scalars", "row", "parameter"],
)
def test_every_spelling_of_the_format_is_read(tmp_path: Path, entry: object) -> None:
    torch.save({3: entry}, tmp_path / "stats.pt")
    stats = load_stats(tmp_path / "stats.pt", "pump")
    np.testing.assert_array_equal(stats.mean_F, MEAN.numpy())
    np.testing.assert_array_equal(stats.std_F, STD.numpy())
    assert stats.mean_F.dtype == stats.std_F.dtype == np.float32


@pytest.mark.parametrize("key", [3, "3", "pump", np.int64(3)], ids=["index", "text", "name", "numpy"])
def test_a_machine_type_is_found_by_index_or_name(tmp_path: Path, key: object) -> None:
    torch.save({key: (MEAN, STD), 2: (STD, STD), "fan": (STD, STD)}, tmp_path / "stats.pt")
    np.testing.assert_array_equal(load_stats(tmp_path / "stats.pt", "pump").mean_F, MEAN.numpy())


def test_arrays_that_numpy_1_wrote_are_read(tmp_path: Path) -> None:
    """It names the module of their reconstruction without the underscore."""
    torch.save({3: (MEAN.numpy(), STD.numpy())}, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "old.pt", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core", b"numpy.core"))
    np.testing.assert_array_equal(load_stats(tmp_path / "old.pt", "pump").mean_F, MEAN.numpy())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({2: (MEAN, STD)}, "hold no entry 3 or 'pump' for pump but the entries 2; what torch.save wrote of {machine"),
        ([MEAN, STD], "hold no entry 3 or 'pump' for pump but list of 2; what"),
        ({3: MEAN}, "is not a pair of mean and std but an array (64,) of torch.float32; what"),
        ({3: (MEAN, STD, STD)}, "is not a pair of mean and std but tuple of 3; what"),
        ({3: {"mean": MEAN, "var": STD}}, "is not a pair of mean and std but a dict of 'mean', 'var'; what"),
        ({3: 5}, "is not a pair of mean and std but int; what"),
        ({3: ("a", "b")}, "is not a pair of mean and std"),
        ({3: (MEAN * 1j, STD)}, "is not a pair of mean and std"),
        ({3: (MEAN[:32], STD)}, "has a mean (32,) and a std (64,); what"),
        ({3: (MEAN.reshape(8, 8), STD)}, "has a mean (8, 8) and a std (64,); what"),
        ({3: (MEAN, STD - 1)}, "is not finite, or its std not positive; what"),
        ({3: (MEAN * torch.nan, STD)}, "is not finite"),
        ({3: (MEAN.double() + 1e300, STD)}, "is not finite"),
        ({3: (MEAN, STD * torch.nan)}, "is not finite"),
        ({3: (MEAN, STD * torch.inf)}, "is not finite"),
        ({3: (MEAN, Path("x"))}, "cannot be read (it is damaged or no file of torch.save, or it holds more than"),
        ({3: np.array([MEAN, Path("x")], dtype=object)}, "cannot be read (it is damaged or no file of torch.save"),
    ],
)
def test_unusable_statistics_are_named(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "stats.pt"
    torch.save(content, path)
    with pytest.raises(DataError) as caught:
        load_stats(path, "pump")
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("count", [59, 61])
def test_more_or_fewer_frames_than_were_said_are_refused(count: int) -> None:
    norm, clips = NormStats(MEAN.numpy(), STD.numpy()), [mel_clip(1, frames=59), mel_clip(2, frames=1)]
    with pytest.raises(ValueError, match=f"have 60 frames, not {count}"):
        norm.frames(clips, count)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x80\x02cos\nsystem\n(S'ls'\ntR."])
def test_a_file_that_is_no_statistics_is_refused_and_never_run(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "stats.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read") as caught:
        load_stats(path, "pump")
    assert "\n" not in str(caught.value)


def test_numpys_own_files_are_refused_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "stats.npz", mean=MEAN.numpy(), std=STD.numpy())
    np.save(tmp_path / "stats.npy", np.stack([MEAN.numpy(), STD.numpy()]))
    for name in ("stats.npz", "stats.npy"):
        with pytest.raises(DataError, match=rf"{name} are a NumPy file \(.npy or .npz\); what torch.save wrote"):
            load_stats(tmp_path / name, "pump")


def test_statistics_are_computed_once_and_used_from_then_on(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data")
    path = tmp_path / "stats" / "norm.pt"
    config = DataConfig(data_root=str(tmp_path / "data"), norm_stats_path=str(path))
    first = load_dataset(config, cache_dir=tmp_path / "cache").norm
    for number, clip in enumerate((folder / "train").iterdir()):
        np.save(clip, 10 * mel_clip(50 + number))
    second = load_dataset(config, cache_dir=tmp_path / "cache").norm
    np.testing.assert_array_equal(first.mean_F, second.mean_F)
    fresh = load_dataset(DataConfig(data_root=str(tmp_path / "data")), cache_dir=tmp_path / "cache").norm
    assert not np.array_equal(first.mean_F, fresh.mean_F)


def test_statistics_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be saved as .*file/stats.pt"):
        save_stats(tmp_path / "file" / "stats.pt", {"fan": NormStats(MEAN.numpy(), STD.numpy())})
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"cannot be saved as .*folder"):
        save_stats(tmp_path / "folder", {"fan": NormStats(MEAN.numpy(), STD.numpy())})
