"""A whole search without labelled anomalies: from the first line to a detector's scores."""

import csv
import json
import shutil
from pathlib import Path
from statistics import fmean

import optuna
import pytest
import yaml

from analysis import best, report
from search.run import main
from tests.analysis_tests.trained import write_recordings
from tests.search_tests.test_run import SPACE
from trainable.commandline import run
from trainable.config import Objective
from trainable.detection.detector import Detector
from trainable.detection.ranking import competing
from trainable.record import RunFolder
from trainable.score import main as score


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Normal recordings of one machine type, without a folder of test clips."""
    root = write_recordings(tmp_path_factory.mktemp("machines"), machine_type="press")
    shutil.move(root / "press" / "test", root / "kept")
    return root


@pytest.fixture(scope="module")
def arguments(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    space = tmp_path_factory.mktemp("space") / "space.yaml"
    space.write_text(SPACE)
    return ["--space", str(space), "--data-root", str(recordings), "--machine-type", "press", "--local"]


@pytest.fixture(scope="module")
def searched(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main([*arguments, "--quiet", "--output", str(path)]) == 0
    return path


def shown(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_it_says_what_it_holds_back_makes_and_does_not_promise(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--num-samples", "1", "--output", str(tmp_path / "run")]) == 0
    text = shown(capsys.readouterr().out)
    assert "no anomaly is labelled: " in text
    assert "roughness (it fluctuates more from frame to frame; severity " in text
    assert "is no AUC on real faults" in text
    assert "best so far: pseudo-AUC " in text
    assert "held-out AUC not measured: no anomaly is labelled" in text
    assert "detector the mean of trial 0 " in text
    assert "only 1 trial trained long enough to be ranked" in text


def test_its_value_is_recorded_by_its_own_name_everywhere(searched: Path) -> None:
    folder = RunFolder(searched)
    manifest = folder.read_manifest()
    assert manifest.objective is Objective.NORMAL_ONLY
    assert manifest.data["objective"] == "normal-only"
    assert set(manifest.pseudo["held_back_by_id"]) == {"00", "02"}
    assert manifest.clips["held_out"] == 0
    assert manifest.clips["held_back"] == sum(manifest.pseudo["held_back_by_id"].values())
    for record in folder.read_trials():
        for told in record.epochs:
            assert told.validation_auc is None
            assert told.value == told.pseudo_auc == pytest.approx(fmean(told.pseudo_auc_by_density["counts"].values()))
    study = optuna.load_study(study_name=manifest.study_name, storage=f"sqlite:///{folder.study_path}")
    assert study.metric_names == ["pseudo_auc"]
    summary = json.loads(folder.summary_path.read_text())["best"]
    result = yaml.safe_load(folder.best_path.read_text())["result"]
    for told in (summary, result):
        assert told["objective"] == "normal-only"
        assert told["validation_auc"] is None
        assert told["held_out_auc"] is None
        assert told["pseudo_auc"] == folder.read_trial(summary["trial"]).epochs[-1].pseudo_auc
        assert [set(each) for each in told["members"]] == [set(told["members"][0])] * len(told["members"])
    assert {each["trial"] for each in summary["members"]} <= {each.number for each in competing(folder.read_trials())}


def test_it_is_resumed_with_the_same_clips_and_no_other_objective(
    searched: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    before = RunFolder(path).read_trials()
    assert main(["--resume", str(path), "--num-samples", "5", "--quiet"]) == 0
    assert RunFolder(path).read_trials()[: len(before)] == before
    assert len(RunFolder(path).read_trials()) == 5
    # Anomalies that were labelled since do not change what judges.
    shutil.copytree(recordings, tmp_path / "more")
    shutil.copytree(recordings / "kept", tmp_path / "more" / "press" / "test")
    assert run(main, ["--resume", str(path), "--data-root", str(tmp_path / "more"), "--objective", "labels"]) == 2
    assert "objective 'normal-only' → 'labels'" in capsys.readouterr().err
    resumed = ["--resume", str(path), "--data-root", str(tmp_path / "more"), "--objective", "labels", "--allow-changes"]
    assert run(main, resumed) == 2
    assert "holds trials judged by pseudo-AUC, and this search judges by validation AUC" in capsys.readouterr().err


def test_a_run_that_other_pseudo_anomalies_judged_is_not_gone_on_with(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    shutil.copytree(searched, path)
    manifest = json.loads((path / "manifest.json").read_text())
    mix = {"family": "mix", "alpha": 0.1, "reference_auc": 0.7, "reached": True}
    for severities, named in (([mix], "mix"), ([], "of an earlier version"), (7, "of an earlier version")):
        manifest["pseudo"]["severities"] = severities
        (path / "manifest.json").write_text(json.dumps(manifest))
        before = (path / "study.db").read_bytes()
        assert run(main, ["--resume", str(path), "--num-samples", "5", "--quiet", "--allow-changes"]) == 2
        assert f"is judged by pseudo-anomalies {named}, and this version makes roughness" in capsys.readouterr().err
        assert (path / "study.db").read_bytes() == before


def test_the_best_pairs_become_a_detector_that_scores_recordings(
    searched: Path, recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = tmp_path / "detector"
    assert best.main([str(searched), "--retrain", "--members", "3", "--output", str(detector)]) == 0
    told = capsys.readouterr().out
    assert "nobody knows yet how many faults" in told
    assert "the mean of 3 scores of" in told
    made = Detector.load(detector).made
    members = json.loads((searched / "summary.json").read_text())["best"]["members"]
    ranked = sorted(members, key=lambda each: (each["rank"], each["trial"], each["density"]))
    assert {(each["trial"], each["density"]) for each in made["members"]} == {
        (each["trial"], each["density"]) for each in ranked[:3]
    }
    assert made["held_out_auc"] is None
    assert made["calibration_clips"] == sum(RunFolder(searched).read_manifest().pseudo["held_back_by_id"].values())
    files = sorted(str(path) for path in (recordings / "kept").iterdir())
    assert score(["--model", str(detector), *files]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    loaded = Detector.load(detector)
    for row, path in zip(rows, files, strict=True):
        alone = loaded.score_file(Path(path))
        assert float(row["score"]) == pytest.approx(alone.score, abs=1e-3)
        assert 0 < float(row["p_value"]) <= 1


def test_a_single_pair_is_trained_with_seeds(searched: Path, tmp_path: Path) -> None:
    detector = tmp_path / "detector"
    flags = ["--retrain", "--members", "1", "--seeds", "2", "--output", str(detector)]
    assert best.main([str(searched), *flags]) == 0
    made = Detector.load(detector).made
    assert len({(each["trial"], each["density"]) for each in made["members"]}) == 1
    assert len(set(made["seeds"])) == 2
    flags = ["--retrain", "--members", "2", "--trial", "0"]
    assert run(best.main, [str(searched), *flags]) == 2


def test_its_report_says_that_nobody_knows_how_many_faults_are_heard(searched: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert report.main([str(searched), "--output", str(page)]) == 0
    text = page.read_text()
    assert "Judged without anomalies" in text
    assert "nobody knows" in text
    assert "validation AUC" not in text


def test_labels_and_pseudo_anomalies_judge_together(
    arguments: list[str], recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "labelled"
    shutil.copytree(recordings, root)
    shutil.copytree(root / "kept", root / "press" / "test")
    asked = [str(root) if each == str(recordings) else each for each in arguments]
    assert main([*asked, "--objective", "both", "--output", str(tmp_path / "run")]) == 0
    assert "best mean AUC" in capsys.readouterr().out
    for record in RunFolder(tmp_path / "run").read_trials():
        for told in record.epochs:
            assert told.validation_auc is not None
            assert told.pseudo_auc is not None
            assert told.value == pytest.approx((told.validation_auc + told.pseudo_auc) / 2)
    summary = json.loads((tmp_path / "run/summary.json").read_text())["best"]
    assert summary["held_out_auc"] > 0.5
    assert all(each["validation_auc"] is not None for each in summary["members"])
