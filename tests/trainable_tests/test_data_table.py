"""Tables of recordings: drafted from any tree, read with what the user corrected, refused line by line."""

from collections import Counter
from pathlib import Path

import pytest
import soundfile

from tests.trainable_tests.recording_trees import tone
from trainable.commandline import run
from trainable.config import DataConfig
from trainable.data.draft import counts, draft
from trainable.data.load import load_dataset
from trainable.data.table import read_table
from trainable.errors import DataError
from trainable.recordings import main


def sound(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(number), 16_000)


def table(folder: Path, *lines: str) -> Path:
    path = folder / "pump.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def two_machines(root: Path) -> None:
    number = 0
    for machine in ("unit1", "unit2"):
        for kind, count in (("ok", 12), ("broken", 4)):
            for index in range(count):
                number += 1
                sound(root / machine / kind / f"{index:02d}.wav", number)


def test_a_table_is_read_as_it_says(tmp_path: Path) -> None:
    for number in range(6):
        sound(tmp_path / f"a/{number}.wav", number)
    path = table(
        tmp_path,
        "label,path,id,split,group,domain,remark",
        "normal,a/0.wav,7,train,,,",
        "normal,a/1.wav,7,test,morning,source,loud",
        'anomaly,"a/2.wav",7,test,noon,target,',
        "",
        ",a/3.wav,7,,,,not heard yet",
        ",a/4.wav,7,test,,,nobody knows",
        "anomaly,a/5.wav,7,train,,,",
    )
    files = read_table(path, None, labelled=True)
    assert [clip.path.name for clip in files.train] == ["0.wav", "3.wav"]
    assert [(clip.path.name, clip.label, clip.group, clip.domain) for clip in files.test] == [
        ("1.wav", 0, "morning", "source"),
        ("2.wav", 1, "noon", "target"),
    ]
    assert len(files.unused) == 2
    assert {clip.machine_id for clip in files.train} == {"7"}


def test_paths_alone_are_enough_to_train(tmp_path: Path) -> None:
    for number in range(3):
        sound(tmp_path / f"recordings/{number}.wav", number)
    path = table(tmp_path, "path", "0.wav", "1.wav", str(tmp_path / "recordings/2.wav"))
    files = read_table(path, tmp_path / "recordings", labelled=False)
    assert [clip.machine_id for clip in files.train] == ["00"] * 3
    assert files.test == ()


def test_where_no_split_is_named_anomalies_test_and_as_many_normal_clips_in_whole_groups(tmp_path: Path) -> None:
    lines = []
    for number in range(12):
        sound(tmp_path / f"{number}.wav", number)
        lines.append(f"{number}.wav,{'anomaly' if number > 8 else 'normal'},run {number // 2}")
    files = read_table(table(tmp_path, "path,label,group", *lines), None, labelled=True)
    assert Counter(clip.label for clip in files.test) == {0: 3, 1: 3}
    assert {clip.group for clip in files.test} == {"run 0", "run 4", "run 5"}, "8 and 9 are of one run, as 0 and 1 are"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "0.wav,normal"], "has no column 'path'"),
        (["path;label", "0.wav;normal"], "must be separated by commas"),
        (["path,label", "0.wav,fine"], "line 2: the label is 'fine'; it must be normal, anomaly or empty"),
        (["path,split", "0.wav,validation"], "line 2: the split is 'validation'; it must be train, test or empty"),
        (["path,id", "0.wav,a b"], "line 2: the id is 'a b'"),
        (["path,label", "0.wav,normal", ",normal"], "line 3: names no file"),
        (["path,label", "0.wav,normal", "0.wav,anomaly"], "line 3: names 0.wav again, after line 2"),
        (["path,label,Label", "0.wav,normal,"], "has several columns 'label'"),
        (["path\tlabel", "0.wav\tnormal"], "must be separated by commas"),
        (["path", "0.wav,normal"], "line 2: has 2 cells, but the first line names 1"),
        (["path,label", '"0.wav,normal'], "cannot be read"),
        ([""], "has no column 'path'"),
        (["path,label,split", "0.wav,anomaly,train"], "lists no normal train clips; training needs normal clips"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    sound(tmp_path / "0.wav")
    with pytest.raises(DataError) as caught:
        read_table(table(tmp_path, *lines), None, labelled=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_count_as_broken(tmp_path: Path) -> None:
    for number in range(4):
        sound(tmp_path / f"{number}.wav", number)
    path = table(tmp_path, "path", "0.wav", "1.wav", "2.wav", "3.wav", "gone.wav", "notes.txt")
    with pytest.raises(DataError, match=r"2 of 6 recordings of .*pump.csv are unusable.*gone.wav: does not exist"):
        load_dataset(DataConfig(recordings=str(path), machine_type="pump"), cache_dir=tmp_path / "cache")


def test_a_spreadsheets_table_with_windows_lines_is_read(tmp_path: Path) -> None:
    sound(tmp_path / "é.wav")
    path = tmp_path / "table.csv"
    path.write_bytes("\ufeffPath,Label\r\né.wav,Normal\r\n".encode())
    assert len(read_table(path, None, labelled=False).train) == 1


def test_clips_of_a_group_that_is_trained_on_do_not_test(tmp_path: Path) -> None:
    lines = []
    for number in range(20):
        sound(tmp_path / f"{number}.wav", number)
        split, label = ("train", "normal") if number < 8 else ("test", "anomaly" if number % 2 else "normal")
        lines.append(f"{number}.wav,{label},{split},{'run 0' if number in (0, 8) else ''}")
    path = table(tmp_path, "path,label,split,group", *lines)
    dataset = load_dataset(DataConfig(recordings=str(path), machine_type="pump"), cache_dir=tmp_path / "cache")
    assert len(dataset.validation) + len(dataset.held_out) == 11
    assert "8.wav: is of the group run 0, others of which are trained on" in dataset.skipped[0]


def test_a_draft_guesses_from_names(tmp_path: Path) -> None:
    two_machines(tmp_path)
    rows = draft(tmp_path, [])
    assert Counter((row.machine_id, row.label) for row in rows) == {
        ("1", 0): 12, ("1", 1): 4, ("2", 0): 12, ("2", 1): 4
    }  # fmt: skip
    assert {row.group for row in rows} == {""}


@pytest.mark.parametrize(
    ("name", "label", "machine_id", "split", "domain"),
    [
        ("fan/train/normal_id_02_00000001.wav", 0, "02", "", ""),
        ("Pump Hall/abnormal/x.wav", 1, "00", "", ""),
        ("bad/ok_17.wav", None, "00", "", ""),
        ("not_ok/17.wav", 1, "00", "", ""),
        ("un-healthy/17.wav", 1, "00", "", ""),
        ("no fault/17.wav", 0, "00", "", ""),
        ("machine-3/2024-05-01 10h.wav", None, "3", "", ""),
        ("section_01_target_test_anomaly_0001_speed_3.wav", 1, "01", "", "target"),
        ("badger/bookshelf.wav", None, "00", "", ""),
    ],
)
def test_a_guess(tmp_path: Path, name: str, label: int | None, machine_id: str, split: str, domain: str) -> None:
    sound(tmp_path / name)
    [row] = draft(tmp_path, [])
    assert (row.label, row.machine_id, row.split, row.domain) == (label, machine_id, split, domain)


def test_what_may_be_an_anomaly_is_not_trained_on(tmp_path: Path) -> None:
    for number, name in enumerate(("ok/1.wav", "ok/2.wav", "strange/3.wav", "faulty/normal_speed_4.wav")):
        sound(tmp_path / name, number)
    rows = {row.path: row for row in draft(tmp_path, [])}
    assert {path for path, row in rows.items() if row.split == "test"} == {"strange/3.wav", "faulty/normal_speed_4.wav"}
    assert rows["faulty/normal_speed_4.wav"].label is None
    assert any("in faulty, strange: they serve nothing until" in line for line in counts(rows.values()))


def test_words_of_a_split_count_where_there_are_both(tmp_path: Path) -> None:
    for number, name in enumerate(("test bench/ok/1.wav", "test bench/bad/2.wav")):
        sound(tmp_path / name, number)
    assert {row.split for row in draft(tmp_path, [])} == {""}
    sound(tmp_path / "train/ok/3.wav", 3)
    assert {row.split for row in draft(tmp_path, [])} == {"train", "test"}


def test_clips_cut_from_recordings_are_a_group(tmp_path: Path) -> None:
    for recording in range(5):
        for segment in range(3):
            sound(tmp_path / f"rec{recording}_{segment:03d}.wav", 3 * recording + segment)
    rows = draft(tmp_path, [])
    assert Counter(row.group for row in rows) == {f"rec{recording}": 3 for recording in range(5)}
    # Serial numbers of a whole set are no groups.
    for number in range(5):
        sound(tmp_path / f"serial/normal_id_00_{number:08d}.wav")
    assert {row.group for row in draft(tmp_path / "serial", [])} == {""}


def test_the_command_drafts_a_table_that_a_training_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    two_machines(tmp_path / "hall")
    monkeypatch.setenv("AD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert run(main, ["hall"]) == 0
    output = capsys.readouterr().out
    assert "32 recordings are listed in hall.csv" in output
    assert "id 1, split by label: 12 normal" in output
    assert "test   2   anomaly  4      16000  1         16    0.30" in output
    assert "python -m search.run --space ad_tuning --recordings hall.csv" in output
    dataset = load_dataset(DataConfig.merged({}, {"recordings": str(tmp_path / "hall.csv")}))
    assert dataset.machine_type == "hall"
    assert (len(dataset.train), len(dataset.validation), len(dataset.held_out)) == (16, 8, 8)
    assert run(main, ["hall"]) != 0
    assert "hall.csv exists and may have been corrected" in capsys.readouterr().err


def test_the_command_names_the_flags_of_known_layouts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("normal", "abnormal"):
        sound(tmp_path / f"sets/fan/id_00/{name}/0.wav")
    assert run(main, [str(tmp_path), "--no-reading"]) == 0
    assert f"fan: MIMII; --data-root {tmp_path}/sets --machine-type fan" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent does not exist; name a folder"),
        (["empty"], "holds no recording that can be read"),
        (["empty", "--data-root", "x"], "--data-root and FOLDER cannot be combined"),
    ],
)
def test_the_command_refuses_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(main, arguments) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
