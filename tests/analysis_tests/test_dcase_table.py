"""DCASE's protocol, table and files, on tiny recordings of two machine types."""

import csv
from pathlib import Path

import numpy as np
import pytest
import yaml

from analysis import dcase_table
from analysis.dcase import (
    BASELINE,
    BASELINE_MEANS,
    MachineScores,
    average,
    comparison_table,
    find_machine_types,
    mean_by_id,
    train_and_score,
    write_results,
    write_scores,
)
from tests.analysis_tests.trained import TINY, write_recordings
from trainable import commandline
from trainable.config import DataConfig, TrialConfig
from trainable.data.clips import Split
from trainable.data.load import Dataset, load_dataset
from trainable.errors import DataError
from trainable.execution_plan import MemoryPlan
from trainable.scoring.metrics import auc, pauc
from trainable.trial import PlannedTrial, Trial
from trainable.yardsticks.catalogue import YARDSTICKS
from trainable.yardsticks.log_mel import LogMelMahalanobis


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two machine types: one that the baseline knows by name and ids, one that it does not."""
    root = tmp_path_factory.mktemp("dcase")
    write_recordings(root, machine_type="grinder", train=6, test=5)
    write_recordings(root, machine_type="valve", train=6, test=5)
    (root / "not_a_machine").mkdir()
    return root


@pytest.fixture(scope="module")
def config_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "best.yaml"
    path.write_text(yaml.safe_dump({"config": TINY, "data": {"machine_type": "fan", "hop_length": 512}}))
    return path


def made_scores(machine_type: str = "fan") -> MachineScores:
    """Two ids of two normal clips and two anomalies: the first separated, the second swapped at one place."""
    return MachineScores(
        machine_type,
        tuple(f"{'normal' if i % 4 < 2 else 'anomaly'}_id_0{i // 4}_{i:08d}.wav" for i in range(8)),
        ("00",) * 4 + ("01",) * 4,
        np.array([0, 0, 1, 1] * 2),
        np.array([1.0, 2.0, 3.0, 4.0, 1.0, 3.0, 2.0, 4.0]),
    )


def read_rows(path: Path) -> list[list[str]]:
    return list(csv.reader(path.read_text().splitlines()))


def test_machine_types_are_the_folders_that_hold_training_clips(root: Path, tmp_path: Path) -> None:
    assert find_machine_types(root) == ["grinder", "valve"]
    with pytest.raises(DataError, match="holds no <machine_type>/train"):
        find_machine_types(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        find_machine_types(tmp_path / "none")


def test_auc_by_id_by_hand() -> None:
    found = made_scores().by_id()
    assert found["00"] == (1.0, 1.0)
    assert found["01"][0] == 0.75
    assert average(found) == pytest.approx(((1.0 + 0.75) / 2, (1.0 + found["01"][1]) / 2))


def test_trainings_are_averaged() -> None:
    worse = MachineScores(**{**vars(made_scores()), "scores": -made_scores().scores})
    assert mean_by_id([made_scores(), worse])["00"][0] == 0.5


def test_score_files_are_dcases(tmp_path: Path) -> None:
    paths = write_scores(tmp_path, made_scores())
    assert [path.name for path in paths] == ["anomaly_score_fan_id_00.csv", "anomaly_score_fan_id_01.csv"]
    rows = read_rows(paths[0])
    assert rows == [
        ["normal_id_00_00000000.wav", "1.0"],
        ["normal_id_00_00000001.wav", "2.0"],
        ["anomaly_id_00_00000002.wav", "3.0"],
        ["anomaly_id_00_00000003.wav", "4.0"],
    ]


def test_the_result_file_is_dcases(tmp_path: Path) -> None:
    results = {"fan": {"00": (0.5, 0.25), "02": (1.0, 0.75)}, "valve": {"00": (0.5, 0.5)}}
    write_results(tmp_path / "result.csv", results)
    assert (tmp_path / "result.csv").read_text() == (
        "fan\nid,AUC,pAUC\n00,0.5,0.25\n02,1.0,0.75\nAverage,0.75,0.5\n\n"
        "valve\nid,AUC,pAUC\n00,0.5,0.5\nAverage,0.5,0.5\n\n"
    )


def test_the_baselines_means_are_those_of_its_ids() -> None:
    """The README's own averages come from unrounded values: at most one unit of the last digit apart."""
    assert set(BASELINE) == set(BASELINE_MEANS)
    for machine_type, by_id in BASELINE.items():
        assert average(by_id) == pytest.approx(BASELINE_MEANS[machine_type], abs=0.0011)


def test_the_table_stands_beside_the_baseline() -> None:
    table = comparison_table({name: dict.fromkeys(by_id, (0.9, 0.8)) for name, by_id in BASELINE.items()})
    assert table.rows[0] == ("ToyCar", "01", "0.900", "0.800", "0.828", "0.679")
    means = [row for row in table.rows if row[1] == "mean"]
    assert means[0] == ("ToyCar", "mean", "0.900", "0.800", "0.801", "0.672")
    # The mean of the six printed means: (.801 + .727 + .652 + .726 + .850 + .665) / 6.
    assert means[-1] == ("all", "mean", "0.900", "0.800", "0.737", "0.597")
    assert len(table.rows) == 23 + 6 + 1


def test_a_baselines_mean_stands_only_beside_the_same_ids() -> None:
    table = comparison_table({"fan": {"00": (0.9, 0.8)}, "grinder": {"00": (0.7, 0.6)}})
    assert table.rows[0][4:] == ("0.540", "0.492")
    assert table.rows[1] == ("fan", "mean", "0.900", "0.800", "–", "–")
    assert table.rows[2] == ("grinder", "00", "0.700", "0.600", "–", "–")
    assert table.rows[-1] == ("all", "mean", "0.800", "0.700", "–", "–")


def test_every_test_clip_is_scored_as_a_trial_scores_it(root: Path) -> None:
    config = TrialConfig.from_flat(TINY)
    data = DataConfig(data_root=str(root), machine_type="valve")
    told: list[str] = []
    plan = MemoryPlan.whole_batch(config.patch.batch_size).plan
    (scores,) = train_and_score(config, data, seeds=1, plan=plan, log=told.append)
    assert len(told) == 3
    files = {path.name for path in (root / "valve" / "test").iterdir()}
    assert set(scores.names) == files
    assert len(scores.names) == len(files)
    assert all(("anomaly" in name) == bool(label) for name, label in zip(scores.names, scores.labels, strict=True))
    # The same training, scored by the trial itself.
    trial = Trial(PlannedTrial.whole_batch(config), load_dataset(data))
    while not trial.done:
        trial.trainer.train_epoch()
    mine = dict(zip(scores.names, scores.scores, strict=True))
    for split in (Split.VALIDATION, Split.HELD_OUT):
        found = trial.evaluate(split)
        assert [mine[name] for name in found.names] == pytest.approx(found.scores.tolist())


def test_the_command_on_two_machine_types(
    root: Path, config_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results"
    arguments = ["--data-root", str(root), "--config", str(config_path), "--epochs", "1", "--output", str(output)]
    assert dcase_table.main([*arguments, "--gradient-accumulation-steps", "2"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 2  # a line an epoch
    lines = [line.split() for line in captured.out.splitlines()]
    assert lines[0][:4] == ["machine", "type", "id", "AUC"]
    assert [line[:2] for line in lines[1:8]] == [
        ["grinder", "00"],
        ["grinder", "02"],
        ["grinder", "mean"],
        ["valve", "00"],
        ["valve", "02"],
        ["valve", "mean"],
        ["all", "mean"],
    ]
    assert lines[4][4:] == ["0.687", "0.513"]
    assert {path.name for path in output.iterdir()} == {
        "result.csv",
        *(f"anomaly_score_{name}_id_{i}.csv" for name in ("grinder", "valve") for i in ("00", "02")),
    }
    # What was printed, worked out again from the files.
    rows = read_rows(output / "anomaly_score_valve_id_02.csv")
    labels = np.array([name.startswith("anomaly") for name, _ in rows]).astype(int)
    values = np.array([float(value) for _, value in rows])
    result = (output / "result.csv").read_text().split("\n\n")[1].splitlines()
    assert result[3] == f"02,{auc(labels, values)},{pauc(labels, values)}"


def test_yardsticks_add_a_column_each_on_the_same_clips(
    root: Path, config_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainable.yardsticks.stacked_frames.BATCH_FRAMES", 4096)
    arguments = ["--data-root", str(root), "--config", str(config_path), "--epochs", "1", "--output", str(tmp_path)]
    assert dcase_table.main([*arguments, "--machine-type", "grinder", "--yardsticks"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("yardstick") == 5
    head, *lines = captured.out.splitlines()
    assert [head.index(kind.title) for kind in YARDSTICKS] == sorted(head.index(kind.title) for kind in YARDSTICKS)
    data = DataConfig(data_root=str(root), machine_type="grinder")
    dataset = load_dataset(data)
    model = LogMelMahalanobis().fit(dataset.train)
    clips = (dataset.validation, dataset.held_out)
    scores = np.concatenate([model.score_samples(part) for part in clips])
    labels = np.concatenate([part.labels for part in clips])
    mine = np.array([i == "00" for part in clips for i in part.machine_ids])
    expected = f"{auc(labels[mine], scores[mine]):.3f} / {pauc(labels[mine], scores[mine]):.3f}"
    assert lines[0][head.index("log-mel Mahalanobis") :].startswith(expected)
    written = {path.parent.name for path in (tmp_path / "yardsticks").glob("*/result.csv")}
    assert written == {kind.name for kind in YARDSTICKS}
    assert read_rows(tmp_path / "yardsticks" / "log_mel_mahalanobis" / "result.csv")[0] == ["grinder"]


def test_means_of_yardsticks_by_hand() -> None:
    results = {"fan": {"00": (0.9, 0.8)}, "pump": {"00": (0.7, 0.6), "02": (0.5, 0.6)}}
    table = comparison_table(
        results, {"twfr": {"pump": {"00": (0.8, 0.7), "02": (0.6, 0.5)}, "fan": {"00": (0.5, 0.4)}}}
    )
    assert table.columns[-1] == "TWFR + Gaussian"
    assert [row[-1] for row in table.rows] == [
        "0.500 / 0.400",
        "0.500 / 0.400",
        "0.800 / 0.700",
        "0.600 / 0.500",
        "0.700 / 0.600",
        "0.600 / 0.500",
    ]


def test_several_trainings_have_a_folder_each(
    root: Path, config_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data-root", str(root), "--config", str(config_path), "--epochs", "1", "--quiet"]
    arguments += ["--machine-type", "grinder", "--seeds", "2", "--output", str(tmp_path)]
    assert dcase_table.main(arguments) == 0
    assert capsys.readouterr().err == ""
    assert {path.name for path in tmp_path.iterdir()} == {"result.csv", "seed-0", "seed-1"}
    averages = []
    for folder in (tmp_path, tmp_path / "seed-0", tmp_path / "seed-1"):
        rows = read_rows(folder / "result.csv")
        averages.append(float(rows[4][1]))
    assert averages[0] == pytest.approx((averages[1] + averages[2]) / 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--gradient-accumulation-steps", "0"], "--gradient-accumulation-steps is 0"),
        (["--epochs", "0"], "epochs is 0"),
        (["--machine-type", "vavle"], "did you mean 'valve'"),
        (["--config", "missing.yaml"], "--config missing.yaml cannot be read"),
    ],
)
def test_bad_input_is_one_line(
    root: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["--data-root", str(root), "--output", str(tmp_path / "out")]
    assert commandline.run(dcase_table.main, [*base, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "out").exists()


def test_recordings_without_labels_have_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recordings(tmp_path / "data", train=6, test=0)
    arguments = ["--data-root", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--epochs", "1"]
    assert commandline.run(dcase_table.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "an AUC needs normal and anomalous" in error


def test_no_normal_clip_is_held_back_whatever_judged_the_search(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump({"config": TINY, "data": {"machine_type": "fan", "objective": "normal-only"}}))
    counts: list[int] = []

    def load(data: DataConfig) -> Dataset:
        dataset = load_dataset(data)
        counts.append(len(dataset.train))
        return dataset

    monkeypatch.setattr("analysis.dcase.load_dataset", load)
    arguments = ["--data-root", str(root), "--config", str(path), "--epochs", "1", "--output", str(tmp_path / "out")]
    assert dcase_table.main([*arguments, "--machine-type", "valve", "--quiet"]) == 0
    assert counts == [12]
