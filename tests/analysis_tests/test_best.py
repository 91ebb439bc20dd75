"""The best configurations: printed, exported, and what they say when something is missing."""

import json
import math
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import yaml

from analysis import best
from analysis.model_view import load_run_data, load_view, read_newest
from analysis.results import RunResults, load_run
from analysis.winners import export_winners, find_winners, winners_text, wrapped
from tests.analysis_tests.synthetic import make_run
from tests.analysis_tests.trained import spectrogram
from trainable import commandline
from trainable.config import DataConfig, TrialConfig
from trainable.data.clips import Split
from trainable.detection.detector import Detector
from trainable.errors import RunError
from trainable.train import read_config_file


def test_winners_are_the_ranking_with_held_out_values(trained_path: Path) -> None:
    run = load_run(trained_path)
    winners, notes = find_winners(run, 5)
    assert notes == []
    assert [winner.number for winner in winners] == run.ranked.index.tolist()
    assert [winner.rank for winner in winners] == [1, 2]
    for winner in winners:
        assert winner.held_out_auc is not None
        assert winner.held_out_interval is not None
        low, high = winner.held_out_interval
        assert 0.0 <= low <= winner.held_out_auc <= high <= 1.0
        assert winner.validation_auc == run.records[winner.number].epochs[-1].validation_auc
        assert winner.missing == ""
    clips = winners[0].held_out_clips
    assert clips is not None
    assert f"Held-out AUCs: {clips.text}.\n" in winners_text(winners)


def test_the_checkpoint_gives_the_recorded_validation_auc(trained_path: Path) -> None:
    run = load_run(trained_path)
    for number in run.records:
        view = load_view(run, number)
        assert view.epoch == 3
        assert view.evaluation(Split.VALIDATION).auc == pytest.approx(run.trials["final_auc"].loc[number], abs=1e-9)


def test_the_tone_band_is_found_where_it_is(trained_path: Path) -> None:
    """The fault of the recordings lies at mel bins 40 … 51, frames 96 … 127: rows 5 and 6, columns 12 … 15."""
    from analysis.figures.surprise import surprise_map

    view = load_view(load_run(trained_path), 1)
    clips = view.clips(Split.HELD_OUT)
    faulty = int(clips.labels.argmax())
    frames_TF, surprise_PHW, starts_P = view.position_scores(Split.HELD_OUT, faulty)
    surprise = surprise_map(surprise_PHW, starts_P, len(frames_TF), view.geometry)
    row, frame = divmod(int(surprise.argmax()), surprise.shape[1])
    assert row in (5, 6)
    assert 96 <= frame < 128


def test_an_exported_configuration_trains_again(trained_path: Path, tmp_path: Path) -> None:
    run = load_run(trained_path)
    winners, _ = find_winners(run, 1)
    paths = export_winners(run, winners, tmp_path / "best")
    assert [path.name for path in paths] == ["best-1-trial-00001.yaml", "best.json"]
    config, data = read_config_file(paths[0])
    assert TrialConfig.from_flat(config) == load_view(run, winners[0].number).config
    assert DataConfig.from_dict(data) == DataConfig.from_dict(run.manifest.data)
    content = yaml.safe_load(paths[0].read_text())
    assert content["result"]["held_out_auc"] == winners[0].held_out_auc
    assert content["params"] == {"num_embeddings": 32}
    listed = json.loads(paths[1].read_text())
    assert listed["best"][0]["number"] == winners[0].number


def test_the_command_prints_and_exports(trained_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert best.main([str(trained_path), "--top", "1", "--export", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "num_embeddings=32" in out
    assert f"wrote {tmp_path / 'out' / 'best.json'}" in out
    assert "held-out clips took no part in the choice" in out
    assert sum("num_embeddings=" in line for line in out.splitlines()) == 1


def test_columns_stand_under_their_headings(trained_path: Path) -> None:
    lines = winners_text(find_winners(load_run(trained_path), 2)[0]).splitlines()
    held_out, ended = lines[0].index("held-out AUC"), lines[0].index("ended")
    for line in lines[1:4:2]:
        assert line[held_out - 1] == " "
        assert 0.0 <= float(line[held_out : held_out + 5]) <= 1.0
        assert line[ended:].split()[:2] == ["completed", "3"]  # how it ended, and its epochs
        assert len(line) <= len(lines[0])
    assert lines[0].endswith("s an epoch")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_is_longer_than_the_terminal_and_no_word_is_broken(trained_path: Path, width: int) -> None:
    winners, _ = find_winners(load_run(trained_path), 2)
    whole = winners_text(winners)
    text = winners_text(winners, width)
    assert max(map(len, text.splitlines())) <= width
    if width < 200:
        assert text.startswith("1. trial 1, completed after 3 epochs\n      validation AUC ")
        assert {word.rstrip(",") for word in text.split()} >= {"num_embeddings=32", f"{winners[0].held_out_auc:.3f}"}
    else:
        assert text.splitlines()[0] == whole.splitlines()[0]


def test_a_path_longer_than_the_terminal_stays_whole() -> None:
    command = "python -m search.run --resume /mnt/shared/searches/2026-11-28/fan-of-hall-three"
    lines = wrapped(f"2 trials unfinished; resume with {command}", 40).splitlines()
    assert "/mnt/shared/searches/2026-11-28/fan-of-hall-three" in lines
    assert " ".join(lines) == f"2 trials unfinished; resume with {command}"


def test_without_checkpoints_the_order_stays_and_the_reason_is_said(trained_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    shutil.rmtree(path / "trials" / "00001" / "checkpoints")
    winners, notes = find_winners(load_run(path), 2)
    assert notes == []
    assert [winner.number for winner in winners] == [1, 0]
    assert winners[0].held_out_auc is None
    assert "no checkpoint" in winners[0].missing
    assert winners[1].held_out_auc is not None
    assert "no held-out AUC: trial 1" in winners_text(winners)
    assert f"python -m analysis.best {path} --retrain --trial 1" in winners[0].missing


def test_checkpoints_under_a_storage_path_are_found(trained_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    run = stored_elsewhere(path, tmp_path / "storage", str(tmp_path / "storage"))
    assert load_view(run, 1).epoch == 3
    assert (tmp_path / "storage" / "trained" / "00001").is_dir()


def stored_elsewhere(path: Path, storage: Path, address: str) -> RunResults:
    """The run with trial 1's checkpoints where ``--storage-path ADDRESS`` keeps them."""
    storage.mkdir()
    (storage / "trained").mkdir()
    shutil.move(path / "trials" / "00001" / "checkpoints", storage / "trained" / "00001")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["options"] = {"storage_path": address}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return load_run(path)


def test_checkpoints_in_an_object_store_are_fetched_and_the_copy_goes(
    trained_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyarrow's store of files stands for any other: an address, not a path."""
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    path = shutil.copytree(trained_path, tmp_path / "run")
    run = stored_elsewhere(path, tmp_path / "storage", (tmp_path / "storage").as_uri())
    assert load_view(run, 1).epoch == 3
    assert list(copies.iterdir()) == []
    with pytest.raises(RunError, match=r"trial 7 of .* has no checkpoint in file://"):
        read_newest(run, 7)


def test_without_recordings_the_table_is_printed_and_the_reason_said(
    trained_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["data"]["data_root"] = str(tmp_path / "gone")
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert best.main([str(path), "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("num_embeddings=") == 2
    assert out.count("No held-out AUC: ") == 1
    assert str(tmp_path / "gone") in out.splitlines()[-2]  # the front is last


def test_a_search_that_has_not_ended_keeps_its_held_out_clips(
    trained_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    (path / "summary.json").unlink()
    with patch("trainable.trial.Trial.codes", side_effect=AssertionError("no clip is scored")):
        assert best.main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("The search is interrupted or running on another machine: 2 of 2 trials ended, as of ")
    assert "held-out clips are scored once" in lines[-2].lower()  # the front is last
    assert best.main([str(path), "--held-out", "--top", "1"]) == 0
    assert " … " in capsys.readouterr().out


def test_recordings_that_changed_are_refused(trained_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(trained_path, tmp_path / "run")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "data_digest": "0" * 64}))
    with pytest.raises(RunError, match=r"scores would not be comparable.* --retrain .*--allow-changes"):
        load_run_data(load_run(path))


def test_a_detector_is_trained_on_recordings_that_came_later(
    trained_path: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = shutil.copytree(recordings, tmp_path / "more")
    for machine, machine_id in enumerate(("00", "02")):
        np.save(more / f"grinder/train/normal_id_{machine_id}_00000900.npy", spectrogram(machine, 900, faulty=False))
    path = shutil.copytree(trained_path, tmp_path / "run")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["data"]["data_root"] = str(more)
    (path / "manifest.json").write_text(json.dumps(manifest))
    retrain = [str(path), "--top", "1", "--retrain", "--members", "1", "--seeds", "1"]
    with pytest.raises(RunError, match="are not those that"):
        best.main(retrain)
    assert best.main([*retrain, "--allow-changes"]) == 0
    assert "(32 training clips then, 34 now)" in capsys.readouterr().out
    assert Detector.load(path / "retrained").made["training_clips"] == 34 + 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top", "0"], "--top is 0"),
        (["--retrain", "--seeds", "0"], "--seeds is 0"),
        (["--retrain", "--trial", "9"], "holds no trial 9"),
        (["--retrain", "--output", __file__], "cannot be a detector's folder: File exists"),
        (["--retrain", "--output", "same", "--export", "same"], "--export same is where --retrain writes its detector"),
    ],
)
def test_bad_flags_are_one_line(
    trained_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commandline.run(best.main, [str(trained_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error


def test_a_run_without_an_auc_has_no_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with patch("os.fsync"):
        path = make_run(tmp_path / "run", trials=8, with_study=False)
    for file in path.glob("trials/*/epochs.jsonl"):
        file.unlink()
    assert commandline.run(best.main, [str(path)]) == 2
    assert "has finished an epoch" in capsys.readouterr().err


def test_measured_memory_is_shown_before_predicted(trained_path: Path) -> None:
    import dataclasses

    from analysis.winners import memory_text

    winner = dataclasses.replace(find_winners(load_run(trained_path), 1)[0][0], predicted_bytes=2**30, peak_bytes=2**29)
    assert memory_text(winner) == "512 MiB measured"
    assert memory_text(dataclasses.replace(winner, driver_bytes=3 * 2**28)) == "768 MiB by the driver"
    assert memory_text(dataclasses.replace(winner, peak_bytes=0)) == "1.00 GiB predicted"
    assert memory_text(dataclasses.replace(winner, peak_bytes=0, predicted_bytes=0)) == "–"
    assert math.isfinite(winner.epoch_seconds)
