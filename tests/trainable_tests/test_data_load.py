"""The one door to data: three layouts in, one kind of data set out, or one clear sentence."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.trainable_tests.recording_trees import (
    Writer,
    mel_clip,
    write_frames_first,
    write_mels_first,
    write_tree,
    write_wav,
)
from trainable.config import DataConfig
from trainable.data.load import Dataset, load_dataset
from trainable.errors import DataError
from trainable.memory.predict import DataSizes


def load(root: Path, machine_type: str = "fan", **options: object) -> Dataset:
    config = DataConfig.from_dict({"data_root": str(root), "machine_type": machine_type, **options})
    return load_dataset(config, cache_dir=root.parent / "cache")


@pytest.mark.parametrize("write", [write_frames_first, write_mels_first, write_wav])
@pytest.mark.parametrize("machine_type", ["fan", "my spindle №3"])
def test_each_layout_becomes_a_data_set(tmp_path: Path, write: Writer, machine_type: str) -> None:
    write_tree(tmp_path / "data", machine_type, write=write)
    dataset = load(tmp_path / "data", machine_type)
    assert (len(dataset.train), len(dataset.validation), len(dataset.held_out)) == (6, 4, 4)
    assert dataset.ids == ("00", "02")
    assert dataset.skipped == ()
    for clips in (dataset.train, dataset.validation, dataset.held_out):
        assert clips.frames_TF.shape == (clips.offsets[-1], 64)
        assert clips.frames_TF.dtype == np.float16
        assert clips.frames_TF.flags.c_contiguous
        assert (clips.lengths >= 64).all()
    for test_clips in (dataset.validation, dataset.held_out):
        words = ["anomaly" if label else "normal" for label in test_clips.labels]
        assert [name.split("_")[0] for name in test_clips.names] == words
        assert [name.split("_")[2] for name in test_clips.names] == list(test_clips.machine_ids)
        assert sorted(zip(test_clips.machine_ids, words, strict=True)) == [
            ("00", "anomaly"),
            ("00", "normal"),
            ("02", "anomaly"),
            ("02", "normal"),
        ]


def test_runs_of_earlier_rules_go_on_with_unrounded_features(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", train=5)
    new, old = load(tmp_path / "data", objective="both"), load(tmp_path / "data", objective="both", rules=2)
    assert new.digest != old.digest
    for mine, its in zip((new.train, *new.evaluated), (old.train, *old.evaluated), strict=True):
        assert its.frames_TF.dtype == np.float32
        assert mine.names == its.names
    for mine, its in zip((new.train, new.held_out), (old.train, old.held_out), strict=True):
        np.testing.assert_array_equal(mine.frames_TF, its.frames_TF.astype(np.float16))
    sizes, before = DataSizes.of(new), DataSizes.of(old)
    assert sizes.frames_bytes == sum(clips.frames_TF.nbytes for clips in (new.train, *new.evaluated))
    assert before == replace(sizes, feature_bytes=4)


def test_both_orders_of_axes_mean_the_same(tmp_path: Path) -> None:
    write_tree(tmp_path / "frames", write=write_frames_first)
    write_tree(tmp_path / "mels", write=write_mels_first)
    one, other = load(tmp_path / "frames"), load(tmp_path / "mels")
    np.testing.assert_array_equal(one.train.frames_TF, other.train.frames_TF)
    frames_TF = one.train.frames_TF.astype(np.float64)
    np.testing.assert_allclose(frames_TF.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(frames_TF.std(axis=0), 1.0, atol=1e-3)
    restored = one.train.frames_TF[:80] * one.norm.std_F + one.norm.mean_F
    np.testing.assert_allclose(restored, mel_clip(1), atol=2e-3 * float(one.norm.std_F.max()))


def test_normalisation_is_learned_from_training_clips_alone(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data")
    stats = load(tmp_path / "data").norm
    for number, path in enumerate((folder / "test").iterdir()):
        np.save(path, 100.0 * mel_clip(99 + number))
    np.testing.assert_array_equal(load(tmp_path / "data").norm.mean_F, stats.mean_F)


def test_the_digest_follows_contents_front_end_and_split(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data", write=write_wav)
    first = load(tmp_path / "data")
    assert load(tmp_path / "data").digest == first.digest
    digests = {first.digest, load(tmp_path / "data", n_fft=512, hop_length=256).digest}
    write_wav(folder / "train/normal_id_00_00000000", 77)
    digests.add(load(tmp_path / "data").digest)
    write_tree(tmp_path / "more", write=write_wav, normal=4, anomalous=4)
    digests |= {load(tmp_path / "more").digest, load(tmp_path / "more", validation_share=0.25).digest}
    assert len(digests) == 5


def test_the_same_recordings_elsewhere_are_the_same_data(tmp_path: Path) -> None:
    write_tree(tmp_path / "here")
    write_tree(tmp_path / "there")
    assert load(tmp_path / "here").digest == load(tmp_path / "there").digest


def test_one_broken_recording_among_many_is_skipped_reported_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tree(tmp_path / "data", train=10)
    broken = folder / "train/normal_id_02_00000004.npy"
    broken.write_bytes(broken.read_bytes()[:1000])
    for _ in range(2):  # read, and from the cache
        caplog.clear()
        dataset = load(tmp_path / "data")
        assert len(dataset.train) == 19
        assert len(dataset.skipped) == 1
        assert str(broken) in dataset.skipped[0]
        assert str(broken) in caplog.text
        assert broken.name not in dataset.train.names
        assert dataset.train.names[14:16] == ("normal_id_02_00000005.npy", "normal_id_02_00000006.npy")


def test_strange_names_and_trained_anomalies_are_skipped_and_counted(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data")
    (folder / "train/notes.txt").write_text("hello")
    (folder / "train/.DS_Store").write_text("hidden files are nobody's recordings")
    (folder / "train/Thumbs.db").write_text("nor are those of other kinds")
    write_frames_first(folder / "train/strange", 8)
    write_frames_first(folder / "train/anomaly_id_00_00000009", 9)
    dataset = load(tmp_path / "data")
    assert len(dataset.skipped) == 2
    assert len(dataset.train) == 6
    assert any("an anomaly among the training clips" in sentence for sentence in dataset.skipped)


def test_what_is_no_file_is_skipped_and_never_waited_for(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data")
    (folder / "train/normal_id_00_00000010.wav").mkdir()
    (folder / "train/normal_id_00_00000011.wav").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "test/normal_id_00_00000012.wav")
    dataset = load(tmp_path / "data")
    assert [sentence.rpartition(": ")[2] for sentence in dataset.skipped] == ["is not a file"] * 3
    assert len(dataset.train) == 6


def test_many_broken_recordings_are_a_broken_data_set(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data", train=5)
    for path in list((folder / "train").iterdir())[:5]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"5 of 18 recordings of .* are unusable, .*; the first: .*npy"):
        load(tmp_path / "data")


def missing(root: Path) -> None:
    """Nothing there at all."""


def a_file(root: Path) -> None:
    root.write_text("x")


def empty(root: Path) -> None:
    root.mkdir()


def empty_machine(root: Path) -> None:
    (root / "fan/train").mkdir(parents=True)


def no_test_folder(root: Path) -> None:
    write_frames_first(_made(root / "fan/train") / "normal_id_00_00000000", 1)


def empty_folders(root: Path) -> None:
    (root / "fan/train").mkdir(parents=True)
    (root / "fan/test").mkdir()


def another_machine(root: Path) -> None:
    write_tree(root, "fam")


def no_anomalies(root: Path) -> None:
    write_tree(root, anomalous=0)


def no_normal(root: Path) -> None:
    write_tree(root, normal=0)


def no_training(root: Path) -> None:
    write_tree(root, train=0)


def one_anomaly(root: Path) -> None:
    write_tree(root, anomalous=1)


def unheard_id(root: Path) -> None:
    write_tree(root)
    for path in (root / "fan/train").glob("*_id_02_*"):
        path.unlink()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (missing, "data root {root} does not exist; check --data-root"),
        (a_file, "data root {root} is a file"),
        (empty, "data root {root} holds no <machine_type>/train folder"),
        (empty_machine, "{root}/fan/train holds no normal_id_NN_*.npy or .wav"),
        (
            no_test_folder,
            "{root}/fan/test holds no normal_id_NN_*.npy or .wav (python -m trainable.recordings {root}/fan",
        ),
        (empty_folders, "{root}/fan/train holds no normal_id_NN_*.npy or .wav"),
        (another_machine, "{root} holds no machine type 'fan'; did you mean 'fam'?; there are fam"),
        (
            no_anomalies,
            "{root}/fan/test holds no anomaly_id_NN_*.npy or .wav (python -m trainable.recordings {root}/fan",
        ),
        (no_normal, "{root}/fan/test holds no normal_id_NN_*.npy or .wav"),
        (no_training, "{root}/fan/train holds no normal_id_NN_*.npy or .wav"),
        (
            one_anomaly,
            "id 02 (2 normal, 1 anomalous); an AUC on validation and on held-out clips needs 2",
        ),
        (unheard_id, "test clips of id 02 have no training clips of that id"),
    ],
)
def test_unusable_folders_get_one_clear_sentence(tmp_path: Path, make: Writer, message: str) -> None:
    root = tmp_path / "data"
    make(root)  # type: ignore[call-arg]
    with pytest.raises(DataError) as caught:
        load(root, objective="labels")
    assert message.format(root=root) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_root_that_no_file_system_takes_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="check --data-root"):
        load(tmp_path / name)


def test_only_embedded_machines_without_a_root(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no embedded machine 'fans'; did you mean 'fan'.*--data-root"):
        load_dataset(DataConfig(machine_type="fans"), cache_dir=tmp_path)
