"""Trees as public data sets, and people, lay them out: recognised, or answered with the command that reads them."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.trainable_tests.recording_trees import mel_clip, tone, write_tree, write_wav
from trainable.config import DataConfig
from trainable.data.layout import find_files, layout_of
from trainable.data.load import Dataset, load_dataset
from trainable.errors import DataError

Counts = dict[tuple[str, str, int], int]


def touch(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(number), 16_000)


def mimii(folder: Path) -> None:
    for machine in ("00", "02"):
        for number in range(7):
            touch(folder / f"id_{machine}/normal/{number:08d}.wav", number)
        for number in range(2 if machine == "00" else 5):
            touch(folder / f"id_{machine}/abnormal/{number:08d}.wav", 50 + number)


def dcase2021(folder: Path) -> None:
    for number in range(4):
        domain = ("source", "target")[number == 3]
        touch(folder / f"train/section_00_{domain}_train_normal_{number:04d}_strength_1_ambient.wav")
    for part in ("source_test", "target_test"):
        for label in ("normal", "anomaly"):
            for number in range(2):
                touch(folder / f"{part}/section_00_{part}_{label}_{number:04d}.wav")


def dcase2023(folder: Path) -> None:
    touch(folder / "train/section_00_source_train_normal_0000_vel_6.wav")
    touch(folder / "train/section_01_train_normal_0000.wav")
    for domain in ("source", "target"):
        for label in ("normal", "anomaly"):
            touch(folder / f"test/section_00_{domain}_test_{label}_0001_vel_8.wav")
    touch(folder / "test/section_00_0004.wav")  # of an evaluation set, without a label
    touch(folder / "supplemental/section_00_source_supplemental_clean_0001.wav")
    (folder / "attributes_00.csv").write_text("file_name,d1p,d1v\n")


def toyadmos(folder: Path) -> None:
    for channel in (1, 2, 3, 4):
        for number in range(4):
            touch(
                folder / f"case1/NormalSound_IND/110001000{number}_ToyCar_case1_normal_IND_ch{channel}_000{number}.wav"
            )
        touch(folder / f"case1/AnomalousSound_IND/1101010001_ToyCar_case1_ab01_IND_ch{channel}_0001.wav")
    touch(folder / "case1/NormalSound_CNT/1100110001_ToyCar_case1_normal_CNT_ch1_0001.wav")


def good_folders(folder: Path) -> None:
    for number in range(3):
        touch(folder / f"train/good/{number:03d}.wav")
    touch(folder / "test/good/000.wav")
    touch(folder / "test/bent/000.wav")
    touch(folder / "test/worn/deep/000.wav")


def capitals_and_folders(folder: Path) -> None:
    for name in ("monday/normal_id_00_1", "tuesday/normal_id_00_1"):
        touch(folder / f"train/{name}.WAV")
    touch(folder / "test/normal_id_00_2.Wav")
    touch(folder / "test/anomaly_id_00_3.flac")


@pytest.mark.parametrize(
    ("make", "layout", "counts"),
    [
        (
            mimii,
            "MIMII",
            {
                ("train", "00", 0): 5,
                ("test", "00", 0): 2,
                ("test", "00", 1): 2,
                ("train", "02", 0): 4,
                ("test", "02", 0): 3,
                ("test", "02", 1): 5,
            },
        ),
        (dcase2021, "DCASE 2021 and later", {("train", "00", 0): 4, ("test", "00", 0): 4, ("test", "00", 1): 4}),
        (
            dcase2023,
            "DCASE 2021 and later",
            {("train", "00", 0): 1, ("train", "01", 0): 1, ("test", "00", 0): 2, ("test", "00", 1): 2},
        ),
        (toyadmos, "ToyADMOS", {("train", "1", 0): 3, ("test", "1", 0): 1, ("test", "1", 1): 1}),
        (
            good_folders,
            "train/good and test/{good,…}",
            {("train", "00", 0): 3, ("test", "00", 0): 1, ("test", "00", 1): 2},
        ),
        (capitals_and_folders, "DCASE 2020", {("train", "00", 0): 2, ("test", "00", 0): 1, ("test", "00", 1): 1}),
    ],
)
def test_a_layout_is_recognised_and_sorted(
    tmp_path: Path, make: Callable[[Path], None], layout: str, counts: Counts
) -> None:
    make(tmp_path / "fan")
    (tmp_path / "fan/Thumbs.db").write_text("junk")
    found = layout_of(tmp_path / "fan")
    assert found is not None
    assert found.title == layout
    files = find_files(tmp_path, "fan", labelled=True)
    clips = [*files.train, *files.test]
    assert Counter((clip.part, clip.machine_id, clip.label) for clip in clips) == counts
    assert files.skipped == ()
    names = [(clip.part, clip.name) for clip in clips]
    assert len(names) == len(set(names))
    for clip in clips:
        assert clip.name.startswith(f"{'anomaly' if clip.label else 'normal'}_id_{clip.machine_id}_")


def test_the_first_normal_clips_of_mimii_are_test_clips(tmp_path: Path) -> None:
    mimii(tmp_path / "fan")
    files = find_files(tmp_path, "fan", labelled=True)
    assert [clip.path.stem[-1] for clip in files.test if clip.machine_id == "00" and clip.label == 0] == ["0", "1"]


def test_of_toyadmos_the_first_channel_is_read_and_no_continuous_recording(tmp_path: Path) -> None:
    toyadmos(tmp_path / "ToyCar")
    files = find_files(tmp_path, "ToyCar", labelled=True)
    assert all("_IND_ch1_" in clip.path.name for clip in (*files.train, *files.test))


def test_domains_are_kept_and_clips_without_a_label_named(tmp_path: Path) -> None:
    dcase2023(tmp_path / "fan")
    files = find_files(tmp_path, "fan", labelled=True)
    assert sorted(clip.domain for clip in files.test) == ["source", "source", "target", "target"]
    supplemental, unlabelled = files.unused
    assert supplemental.endswith("supplemental: its recordings have no place in this layout and are not read")
    assert "section_00_0004.wav: without a label it judges nothing" in unlabelled


def test_both_halves_hold_clips_of_each_domain(tmp_path: Path) -> None:
    for number in range(6):
        touch(tmp_path / f"data/fan/train/section_00_source_train_normal_{number:04d}.wav", number)
    for index, (domain, label) in enumerate((d, one) for d in ("source", "target") for one in ("normal", "anomaly")):
        for number in range(2):
            name = f"section_00_{domain}_test_{label}_{number:04d}.wav"
            touch(tmp_path / "data/fan/test" / name, 10 * (index + 1) + number)
    dataset = load_dataset(DataConfig(data_root=str(tmp_path / "data")), cache_dir=tmp_path / "cache")
    for half in (dataset.validation, dataset.held_out):
        kinds = sorted(zip(half.domains, half.labels.tolist(), strict=True))
        assert kinds == [("source", 0), ("source", 1), ("target", 0), ("target", 1)]


def test_an_evaluation_set_of_2020_has_no_labels(tmp_path: Path) -> None:
    write_tree(tmp_path, write=write_wav)
    touch(tmp_path / "fan/test/id_00_00000009.wav", 99)
    files = find_files(tmp_path, "fan", labelled=True)
    assert files.skipped == ()
    assert "id_00_00000009.wav: without a label" in files.unused[0]


def test_a_folder_of_mimii_that_is_neither_normal_nor_abnormal_counts_as_unusable(tmp_path: Path) -> None:
    mimii(tmp_path / "fan")
    touch(tmp_path / "fan/id_00/strange/1.wav")
    (tmp_path / "fan/id_02/abnormal").rename(tmp_path / "fan/id_02/anomaly")
    files = find_files(tmp_path, "fan", labelled=True)
    assert sum(clip.label == 1 for clip in files.test) == 7
    assert "strange/1.wav: lies in neither" in files.skipped[0]


def test_links_that_go_round_are_followed_once(tmp_path: Path) -> None:
    good_folders(tmp_path / "fan")
    for name, target in (("up", ".."), ("a", "."), ("b", "."), ("there", "../../test/good")):
        (tmp_path / "fan/train/good" / name).symlink_to(target)
    files = find_files(tmp_path, "fan", labelled=True)
    assert len(files.train) + len(files.test) <= 7


def refusal(root: Path, machine_type: str = "fan") -> str:
    with pytest.raises(DataError) as caught:
        find_files(root, machine_type, labelled=True)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_root_above_or_below_the_right_one_is_answered_with_the_right_flags(tmp_path: Path) -> None:
    mimii(tmp_path / "0_dB/fan")
    right = f"--data-root {tmp_path}/0_dB --machine-type fan"
    assert f"has the layout of MIMII: {right}" in refusal(tmp_path)
    assert right in refusal(tmp_path / "0_dB/fan")


def test_any_other_tree_is_answered_with_the_command_that_drafts_a_table(tmp_path: Path) -> None:
    touch(tmp_path / "some.wav")
    assert f"python -m trainable.recordings {tmp_path} says what is there" in refusal(tmp_path)


def test_files_that_may_be_recordings_but_cannot_be_read_count(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data", write=write_wav)
    for number in range(4):
        (folder / f"train/normal_id_00_9{number}.m4a").write_bytes(b"")
    config = DataConfig(data_root=str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"4 of 18 recordings .* cannot be read as .m4a; convert it"):
        load_dataset(config, cache_dir=tmp_path / "cache")


def test_files_skipped_for_their_names_count_towards_a_broken_set(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data", write=write_wav)
    for number in range(4):
        write_wav(folder / f"train/recording{number}", 100 + number)
    with pytest.raises(DataError, match=r"4 of 18 recordings .* its name is not"):
        load_dataset(DataConfig(data_root=str(tmp_path / "data")), cache_dir=tmp_path / "cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "data", write=write_wav, train=8, normal=4, anomalous=4)


def load(tree: Path) -> Dataset:
    config = DataConfig(data_root=str(tree.parent))
    return load_dataset(config, cache_dir=tree.parents[1] / "cache")


def recordings(dataset: Dataset) -> dict[str, str]:
    """Each recording's split."""
    parts = (dataset.train, dataset.validation, dataset.held_out)
    return {Path(name).stem: part.split.value for part in parts for name in part.names}


def test_converted_recordings_keep_their_halves_and_count_once_beside_the_first(tree: Path) -> None:
    before = recordings(load(tree))
    for path in list(tree.glob("*/*.wav")):
        samples, rate = soundfile.read(path)
        soundfile.write(path.with_suffix(".flac"), samples, rate)
    together = load(tree)
    assert recordings(together) == before
    assert len(together.skipped) == 32
    assert "is the same recording, which counts once" in together.skipped[0]
    for path in tree.glob("*/*.wav"):
        path.unlink()
    converted = load(tree)
    assert recordings(converted) == before
    np.testing.assert_array_equal(converted.train.frames_TF, together.train.frames_TF)


def test_a_run_from_before_goes_on_with_the_halves_that_it_had(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data", train=4, normal=8, anomalous=8)
    values = {"data_root": str(tmp_path / "data"), "machine_type": "fan"}
    earlier = DataConfig.from_dict(DataConfig.saved_by_earlier(values))
    assert (earlier.rules, earlier.front_end.channel, earlier.objective) == (1, "mean", "labels")
    old, new = (load_dataset(each, cache_dir=tmp_path / "cache") for each in (earlier, DataConfig.from_dict(values)))
    assert set(old.validation.names) != set(new.validation.names), "the suffix .npy was hashed too"
    assert DataConfig.saved_by_earlier(earlier.to_dict()) == earlier.to_dict()
    np.save(folder / "test/normal_id_00_00000099.npy", mel_clip(1))  # a copy of a training clip
    assert len(load_dataset(earlier, cache_dir=tmp_path / "cache").skipped) == 0


def test_a_run_from_before_reads_each_square_array_as_it_did(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data")
    square = mel_clip(7, frames=64)
    np.save(folder / "train/normal_id_00_00000000.npy", square.T)  # among arrays with frames first
    values = DataConfig.saved_by_earlier({"data_root": str(tmp_path / "data"), "machine_type": "fan"})
    dataset = load_dataset(DataConfig.from_dict(values), cache_dir=tmp_path / "cache")
    np.testing.assert_allclose(dataset.train.clip(0), dataset.norm.apply(square), atol=1e-5)


def test_copies_count_once_and_never_on_two_sides(tree: Path) -> None:
    shutil.copy(tree / "train/normal_id_00_00000000.wav", tree / "test/normal_id_00_00000090.wav")
    shutil.copy(tree / "train/normal_id_00_00000001.wav", tree / "train/normal_id_00_00000091.wav")
    shutil.copy(tree / "test/anomaly_id_02_00000001.wav", tree / "test/anomaly_id_02_00000092.wav")
    samples, rate = soundfile.read(tree / "train/normal_id_02_00000003.wav")
    soundfile.write(tree / "test/normal_id_02_00000093.flac", samples, rate)
    dataset = load(tree)
    assert not {name for name in recordings(dataset) if int(name[-2:]) >= 90}
    assert len(dataset.skipped) == 4
    assert sum("is a copy of" in sentence for sentence in dataset.skipped) == 4
    assert sum("that is trained on" in sentence for sentence in dataset.skipped) == 2


def test_one_recording_with_both_labels_is_refused(tree: Path) -> None:
    shutil.copy(tree / "train/normal_id_00_00000000.wav", tree / "test/anomaly_id_00_00000090.wav")
    with pytest.raises(DataError, match="are the same recording, one of them normal and the other an anomaly"):
        load(tree)


def test_an_id_or_a_domain_that_no_terminal_should_show_is_refused(tmp_path: Path) -> None:
    mimii(tmp_path / "fan")
    (tmp_path / "fan/id_02").rename(tmp_path / "fan/id_\x1b[31m")
    with pytest.raises(DataError) as caught:
        find_files(tmp_path, "fan", labelled=False)
    assert r"the machine id '\x1b[31m' holds control characters; rename it" in str(caught.value)
    (tmp_path / "fan.csv").write_text("path,domain\nfan/id_00/normal/00000000.wav,\x1b[31m\n")
    with pytest.raises(DataError, match=r"the domain '\\x1b\[31m' holds control characters"):
        load_dataset(DataConfig(recordings=str(tmp_path / "fan.csv"), machine_type="fan"), cache_dir=tmp_path / "cache")
