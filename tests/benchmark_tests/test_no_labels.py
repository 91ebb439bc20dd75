"""The replay of recorded trainings with their labels hidden, on scores whose best choice is known."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import no_labels
from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.normal_only.families import FAMILIES

NORMAL, ANOMALOUS, CONFIGURATIONS = 24, 24, 8


def write_set(folder: Path, *, honest: bool) -> None:
    """Configurations that hear faults the better the higher their number, and pseudo-anomalies too, or the worse."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    labels = np.tile(np.repeat([0, 1], [NORMAL, ANOMALOUS]), 2)
    families = np.repeat(["", *(family.name for family in FAMILIES)], NORMAL)
    np.savez(
        folder / "clips.npz",
        families=families,
        pseudo_ids=np.full(len(families), "00"),
        ids=np.full(len(labels), "00"),
        labels=labels,
        validation=np.array(len(labels) // 2),
        severities=np.array([0.1, 1.0, 0.6]),
    )
    for number in range(CONFIGURATIONS):
        gain = 0.3 * number
        seen = gain if honest else 0.3 * (CONFIGURATIONS - number)
        arrays = {
            f"{epoch}/fused/{what}": scores
            for epoch in (no_labels.EARLY, no_labels.LAST)
            for what, scores in (
                ("pseudo", rng.normal(size=len(families)) + seen * (families != "")),
                ("test", rng.normal(size=len(labels)) + gain * labels),
            )
        }
        config = json.dumps(TrialConfig.from_flat({"density": "fused"}).flat())
        np.savez(folder / f"{number:03d}.npz", config=np.array(config), reconstruction=np.array(1.0 - gain), **arrays)


def test_pseudo_anomalies_lose_what_they_mislead(tmp_path: Path) -> None:
    for name, honest in (("honest", True), ("misleading", False)):
        write_set(tmp_path / name, honest=honest)
    sets = [no_labels.read(tmp_path / name, no_labels.LAST) for name in ("honest", "misleading")]
    found = no_labels.regrets(sets, worlds=12)
    honest, misleading = found["1 by pseudo-anomalies"].mean(axis=0)
    assert abs(honest) < 0.05
    assert misleading > 0.2
    assert found[no_labels.TRUTH].max() == found[no_labels.TRUTH].min() == 0.0
    assert found["lowest reconstruction loss"].mean() < 0.05
    # Averaging eight of eight is the same whoever chooses them.
    np.testing.assert_allclose(found["8 by roughness alone"], found["8 by bursts alone"])
    assert no_labels.chosen_elsewhere(found).shape == (12, 2)


def test_calibrated_alarms_are_as_rare_as_asked(tmp_path: Path) -> None:
    write_set(tmp_path / "honest", honest=True)
    assert no_labels.false_alarms(no_labels.read(tmp_path / "honest", no_labels.LAST)) < 0.15


def test_a_table_is_written_with_the_severities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "scores" / "fan", honest=True)
    table = tmp_path / "table.csv"
    assert no_labels.main(["--read", str(tmp_path / "scores"), "--worlds", "3", "--output", str(table)]) == 0
    assert "configurations: fan 8" in capsys.readouterr().out
    assert "severity of roughness,0.1" in table.read_text()


def test_nothing_recorded_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--record"):
        no_labels.main(["--read", str(tmp_path)])
    (tmp_path / "fan").mkdir()
    with pytest.raises(ConfigError, match="holds no recorded trainings"):
        no_labels.main(["--read", str(tmp_path)])
