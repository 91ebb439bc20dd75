"""How recordings were stored, by split, id and label: a table, and a loud word where that alone tells anomalies."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.trainable_tests.recording_trees import write_tree
from trainable.config import DataConfig
from trainable.data.check import DataCheck
from trainable.data.load import load_dataset

Store = Callable[[Path, int], None]


def noise(number: int, rate: int = 16_000, seconds: float = 0.3) -> np.ndarray:
    """Of one loudness, whatever the number."""
    return 0.1 * np.random.default_rng(number).standard_normal(int(rate * seconds))


def write_noise(path: Path, number: int) -> None:
    soundfile.write(path.with_suffix(".wav"), noise(number), 16_000)


def check(tmp_path: Path, anomalous: Store = write_noise) -> DataCheck:
    """Of twelve normal clips and as many that are stored otherwise, a machine id each of two."""
    folder = write_tree(tmp_path / "data", write=write_noise, train=6, normal=12, anomalous=0)
    for index in range(24):
        anomalous(folder / f"test/anomaly_id_{('00', '02')[index % 2]}_{index:08d}", 200 + index)
    found = load_dataset(DataConfig(data_root=str(tmp_path / "data")), cache_dir=tmp_path / "cache").check
    assert found is not None
    return found


def at_half_the_rate(path: Path, number: int) -> None:
    soundfile.write(path.with_suffix(".wav"), noise(number, rate=8_000), 8_000)


def as_integers(path: Path, number: int) -> None:
    soundfile.write(path.with_suffix(".wav"), np.round(32_768 * noise(number)), 16_000, subtype="FLOAT")


def short(path: Path, number: int) -> None:
    soundfile.write(path.with_suffix(".wav"), noise(number, seconds=0.2), 16_000)


def stereo(path: Path, number: int) -> None:
    soundfile.write(path.with_suffix(".wav"), np.stack([noise(number), noise(number + 1)], axis=1), 16_000)


def louder(path: Path, number: int) -> None:
    soundfile.write(path.with_suffix(".wav"), 3 * noise(number), 16_000)


def precomputed(path: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    np.save(path.with_suffix(".npy"), (rng.standard_normal((64, 80)) - np.arange(64)[:, None]).astype(np.float32))


def test_recordings_that_are_stored_alike_need_no_word(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert found.warnings == ()
    assert [(row.split, row.machine_id, row.label, row.clips) for row in found.rows] == [
        ("train", "00", "normal", 6),
        ("train", "02", "normal", 6),
        ("test", "00", "normal", 12),
        ("test", "00", "anomaly", 12),
        ("test", "02", "normal", 12),
        ("test", "02", "anomaly", 12),
    ]
    assert found.rows[0].low["rate"] == found.rows[0].high["rate"] == 16_000
    assert found.rows[0].short == 6
    lines = found.lines()
    assert lines[0].split() == ["split", "id", "label", "clips", "Hz", "channels", "bits", "seconds", "peak", "clipped",
                                "level", "in", "dB"]  # fmt: skip
    assert lines[3].split()[:8] == ["test", "00", "normal", "12", "16000", "1", "16", "0.30"]
    assert lines[-1] == "60 clips are shorter than a patch and are repeated until they fill it"


@pytest.mark.parametrize(
    ("anomalous", "words"),
    [
        (at_half_the_rate, ["sample rate alone (AUC 1.00)", "24 recordings have a lower sample rate"]),
        (as_integers, ["level alone (AUC 1.00)", "24 recordings exceed full scale"]),
        (short, ["length alone (AUC 1.00)"]),
        (stereo, ["number of channels alone (AUC 1.00)"]),
        (louder, ["peak alone (AUC 1.00)", "level alone"]),
        (precomputed, ["24 of 60 recordings are precomputed features, the others sounds", "sample rate alone"]),
    ],
)
def test_storage_that_tells_labels_is_said_aloud(tmp_path: Path, anomalous: Store, words: list[str]) -> None:
    warnings = " ".join(check(tmp_path, anomalous).warnings)
    for each in words:
        assert each in warnings


def test_few_clips_separate_by_chance_and_nothing_is_said(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data", write=write_noise, train=6, normal=4, anomalous=0)
    for index in range(4):
        louder(folder / f"test/anomaly_id_00_{index:08d}", 200 + index)
    found = load_dataset(DataConfig(data_root=str(tmp_path / "data")), cache_dir=tmp_path / "cache").check
    assert found is not None
    assert found.warnings == ()


def test_training_clips_stored_otherwise_than_all_test_clips_are_named(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data", write=write_noise, train=0)
    for index in range(6):
        stereo(folder / f"train/normal_id_{('00', '02')[index % 2]}_{index:08d}", 300 + index)
    found = load_dataset(DataConfig(data_root=str(tmp_path / "data")), cache_dir=tmp_path / "cache").check
    assert found is not None
    [warning] = found.warnings
    assert warning.startswith("number of channels: 2 and 1 in training and in normal test clips")


def test_many_ids_are_one_line_of_each_split_and_label(tmp_path: Path) -> None:
    ids = [f"{number:02d}" for number in range(12)]
    write_tree(tmp_path / "data", write=write_noise, ids=ids, train=4, normal=1, anomalous=1)
    found = load_dataset(DataConfig(data_root=str(tmp_path / "data")), cache_dir=tmp_path / "cache").check
    assert found is not None
    assert len(found.rows) == 36
    assert len(found.lines()) == 5
    assert found.lines()[1].split()[:5] == ["train", "12", "ids", "normal", "48"]
