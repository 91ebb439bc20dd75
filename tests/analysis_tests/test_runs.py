"""``python -m analysis.runs``: runs side by side, and two compared."""

import csv
import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from analysis.compare_runs import Gain, compare, held_out_gain
from analysis.results import load_run
from analysis.run_list import COLUMNS, SORTS, read_rows, rows_text, run_row, sorted_rows
from analysis.runs import ORDERS, main
from tests.analysis_tests.synthetic import make_run
from tests.analysis_tests.trained import train_run
from trainable.commandline import run
from trainable.durable import write_json
from trainable.scoring.clip_counts import ClipCounts
from trainable.units import GIB

EARLIER = Path(__file__).parents[1] / "search_tests/earlier/run_0_1_0.tar.xz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, synthetic_path: Path, trained_path: Path) -> Path:
    """Runs of three kinds, one of an earlier version, one that is damaged, and a folder that is no run."""
    root = tmp_path_factory.mktemp("runs") / "runs"
    shutil.copytree(synthetic_path, root / "synthetic")
    shutil.copytree(trained_path, root / "trained")
    make_run(root / "open", trials=12, finished=False)
    with tarfile.open(EARLIER) as archive:
        archive.extractall(root, filter="data")
    shutil.move(root / "detector", root / "no_run")
    make_run(root / "damaged", trials=1)
    (root / "damaged/manifest.json").write_text("{")
    best = {"held_out_auc": 0.9, "held_out_interval": [0.8, 0.95], "members": [], "detector_held_out_auc": None}
    write_json(root / "synthetic/summary.json", {"parts": 1, "best": best, "stop_reason": "the time limit of 5 s"})
    return root


def test_a_list_names_every_run_and_what_could_not_be_read(folder, capsys):
    assert main([str(folder)]) == 1
    shown = capsys.readouterr()
    assert re.search(r"runs/synthetic +0\.9\d\d +0\.900 \(0\.800 … 0\.950\) +35 of 40", shown.out)
    assert "budget 2.00 GiB, begun 2025-01-01 00:00, stopped: the time limit of 5 s" in shown.out
    assert re.search(r"runs/killed .*\n.*interrupted or running on another machine, 1 unfinished", shown.out)
    assert shown.err.count("\n") == 1
    assert "runs/damaged (" in shown.err
    assert "runs/no_run (no run)" in shown.err


def test_a_summary_that_was_edited_and_a_folder_without_a_run_hide_no_other(folder, tmp_path, capsys):
    edited = shutil.copytree(folder / "synthetic", tmp_path / "edited")
    (edited / "summary.json").write_text('{"best": 3}')
    assert main([str(folder / "trained"), str(edited), str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "runs/trained " in shown.out
    assert "edited (its files do not describe a run: " in shown.err
    (tmp_path / "empty").mkdir()
    assert main([str(folder / "trained"), str(folder / "synthetic"), str(tmp_path / "empty")]) == 0
    assert f"left out: {tmp_path / 'empty'} (no run)" in capsys.readouterr().err


def test_runs_on_the_same_recordings_stand_together_and_are_sorted(folder):
    rows, unreadable = read_rows(folder / name for name in ("killed", "open", "synthetic", "trained"))
    assert not unreadable
    for order in ORDERS:
        assert [row.recordings for row in sorted_rows(rows, order)] == sorted(row.recordings for row in rows)
    synthetic = [Path(row.folder).name for row in sorted_rows(rows, "best") if row.data_digest == "1" * 64]
    by_value = sorted(("open", "synthetic"), key=lambda name: -run_row(load_run(folder / name)).best)
    assert synthetic == by_value
    assert tuple(SORTS) == ORDERS
    assert len(rows_text(rows).split("\n\n")) == 3


def test_a_list_for_programs(folder, capsys):
    main([str(folder / "trained"), str(folder / "synthetic"), str(folder / "open"), "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert all(tuple(row) == COLUMNS for row in listed)
    main([str(folder), "--csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {Path(row["folder"]).name for row in rows} == {"synthetic", "trained", "open", "killed"}
    (synthetic,) = (row for row in rows if row["folder"].endswith("/synthetic"))
    assert (synthetic["held_out_auc"], synthetic["held_out_of"]) == ("0.9", "trial")
    assert synthetic["budget_bytes"] == str(2 * GIB)


def test_bad_input_is_one_line(folder, tmp_path, capsys):
    for words, says in (
        ([str(tmp_path / "none")], "is not a folder"),
        ([str(tmp_path)], "holds no run"),
        ([str(folder / "open"), str(folder / "trained"), "--csv"], "--csv prints a list"),
        ([str(folder), "--sort", "auc"], "invalid choice"),
    ):
        assert run(main, words) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_two_runs_are_compared(folder, capsys):
    assert main([str(folder / "trained"), str(folder / "synthetic"), "--no-model"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"epochs of a full training +3 +27\n", shown)
    assert "Best configurations" in shown
    assert re.search(r"\nwidth +0\.125 +1\n", shown)
    assert "No paired difference: left out with --no-model" in shown
    assert not re.search(r"^seed ", shown, re.MULTILINE)
    main([str(folder / "trained"), str(folder / "synthetic"), "--no-model", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["trials requested"] == ["2", "40"]
    assert found["held_out_gain"] is None


def test_the_difference_is_paired_on_the_same_clips(trained_path, recordings, tmp_path):
    other = train_run(tmp_path / "other", recordings, tmp_path / "cache", trials=1)
    first, second = load_run(trained_path), load_run(other)
    assert [row.name for row in compare(first, second, with_model=False).settings] == ["trials requested"]
    same = held_out_gain(first, load_run(trained_path))
    assert isinstance(same, Gain)
    assert (same.difference, same.interval) == (0.0, (0.0, 0.0))
    there, back = held_out_gain(first, second), held_out_gain(second, first)
    assert isinstance(there, Gain)
    assert isinstance(back, Gain)
    assert there.difference == pytest.approx(-back.difference)
    assert there.interval == pytest.approx(tuple(-end for end in reversed(back.interval)))
    assert there.clips == ClipCounts(12, 12)


def test_what_cannot_be_compared_is_said(trained_path, synthetic_run, unlabelled_run, folder):
    trained = load_run(trained_path)
    assert "No anomaly is labelled" in held_out_gain(trained, unlabelled_run)
    assert "Held-out clips are scored once" in held_out_gain(trained, load_run(folder / "open"))
    assert "are not those that" in held_out_gain(trained, synthetic_run)


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ((0.01, 0.03), "the second detects more"),
        ((-0.03, -0.01), "the first detects more"),
        ((-0.01, 0.03), "these clips cannot tell"),
    ],
)
def test_a_difference_in_words(interval, says):
    assert says in Gain(0.9, 0.92, interval, ClipCounts(40, 40)).text
    assert "only 3 normal" in Gain(0.9, 0.92, interval, ClipCounts(3, 40)).text
