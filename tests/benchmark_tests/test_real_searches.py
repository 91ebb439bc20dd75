"""The table of real searches, from stores whose scores are known."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import real_searches
from benchmarks.real_searches import Found, Judges
from benchmarks.search_methods import DEFAULT, RAY
from benchmarks.tables import read_table
from trainable.errors import ConfigError

LABELS = [0, 0, 0, 0, 1, 1, 1, 1]
RIGHT = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
ONE_WRONG = [0.1, 0.2, 0.3, 0.65, 0.5, 0.6, 0.7, 0.8]
"""One normal clip scores above two of four anomalies: 14 of 16 pairs are right."""
REVERSED = RIGHT[::-1]


def write_store(folder: Path, ours: list[list[float]], rays: list[list[float]]) -> None:
    folder.mkdir()
    (folder / "judges.json").write_text(json.dumps(asdict(Judges(LABELS, ["00"] * 8))), encoding="utf-8")
    for name, searches in ((DEFAULT, ours), (RAY, rays)):
        for seed, scores in enumerate(searches):
            found = Found(name, seed, scores, 0.9, 0.95, trials=20, completed=10, epochs=66, seconds=100.0)
            path = folder / f"{'ours' if name == DEFAULT else 'ray'}-66-{seed}.json"
            path.write_text(json.dumps(asdict(found)), encoding="utf-8")
    (folder / "yardsticks-0.json").write_text(json.dumps({"log-mel": REVERSED}), encoding="utf-8")


def rows_by_name(tmp_path: Path) -> dict[tuple[str, str], dict[str, str]]:
    output = tmp_path / "table.csv"
    stores = [str(tmp_path / each) for each in ("fan", "pump")]
    assert real_searches.main(["--epochs", "66", "--read", *stores, "--output", str(output)]) == 0
    return {(row["data set"], row["system"]): row for row in read_table(output)}


def test_differences_are_paired_by_seed_and_have_the_clips_interval(tmp_path: Path) -> None:
    write_store(tmp_path / "fan", [RIGHT, ONE_WRONG], [ONE_WRONG, RIGHT])
    write_store(tmp_path / "pump", [RIGHT], [REVERSED])
    rows = rows_by_name(tmp_path)
    assert rows["fan", DEFAULT]["each"] == "1.000 0.875"
    assert rows["fan", DEFAULT]["truth"] == "0.9375"
    assert rows["fan", DEFAULT]["this project − it"] == ""
    assert rows["fan", RAY]["this project − it"].startswith("+0.000 ± ")
    assert rows["fan", RAY]["over clips"] == "+0.000 … +0.000", "both had the same scores, though in another order"
    assert rows["pump", RAY]["this project − it"] == "+1.000"
    assert rows["pump", RAY]["over clips"] == "+1.000 … +1.000"
    assert rows["fan", "log-mel"]["this project − it"] == "+1.000", "of the only seed that it has"
    assert rows["fan", "log-mel"]["trials"] == ""
    assert rows["all", RAY]["truth"] == f"{np.mean([0.9375, 0.0]):.4f}"
    assert rows["all", RAY]["this project − it"].startswith("+0.500 ± ")
    assert rows["all", DEFAULT]["truth"] == f"{np.mean([0.9375, 1.0]):.4f}"


def test_the_clips_interval_holds_what_redrawing_them_changes(tmp_path: Path) -> None:
    write_store(tmp_path / "fan", [RIGHT], [ONE_WRONG])
    write_store(tmp_path / "pump", [RIGHT], [RIGHT])
    low, high = rows_by_name(tmp_path)["fan", RAY]["over clips"].split(" … ")
    assert float(low) == 0.0, "in some resamples the wrong clip is not drawn"
    assert 0.125 < float(high) < 1.0


def test_a_store_without_searches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no search of 66 epochs"):
        real_searches.main(["--epochs", "66", "--read", str(tmp_path)])
