"""A detector that leaves the house: its folder, its scorer, and what both refuse."""

import csv
import io
import json
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from analysis import best
from analysis.export.folder import export_detector
from analysis.export.scorer import command
from analysis.export.scorer.audio import read_sound, resampled
from analysis.export.scorer.calibration import AlarmRate, Calibration, combined_p, verdict_of
from analysis.export.scorer.detector import ExportedDetector
from analysis.export.scorer.errors import DetectorError, RecordingError
from analysis.export.scorer.frontend import FrontEnd
from analysis.export.scorer.layout import digest_of
from analysis.export.scorer.stretches import Windows
from analysis.export.target import check_target
from analysis.model_view import load_run_data
from analysis.results import load_run
from tests.analysis_tests.trained import spectrogram
from trainable import commandline
from trainable.config import FrontEndConfig, TrialConfig
from trainable.data import audio
from trainable.data.load import Dataset
from trainable.data.patches import patch_starts
from trainable.data.readers import read_recording
from trainable.detection import alarm
from trainable.detection.detector import Detector, Member, build_detector
from trainable.errors import ConfigError, RunError
from trainable.trial import PlannedTrial, Trial

NEEDED = ("numpy", "numpy.libs", "onnxruntime", "flatbuffers", "google", "packaging")
"""What pip installs for `pip install numpy onnxruntime`."""


@pytest.fixture(scope="module")
def dataset(trained_path: Path) -> Dataset:
    return load_run_data(load_run(trained_path))


@pytest.fixture(scope="module")
def detector_path(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, one of cosine distances between projected latents, with five density models."""
    kinds = [
        ({"codebooks": 2, "linear_path": True, "columns": 16}, ("fused", "mahalanobis", "combined")),
        ({"distance": "cosine", "codebook_dim": 4, "seed": 1}, ("grid_neighbours", "autoregressive")),
    ]
    members = []
    for changed, densities in kinds:
        config = TrialConfig.from_flat(
            {
                "epochs": 2,
                "width": 0.125,
                "latent_dim": 8,
                "num_embeddings": 16,
                "n_patches": 3,
                "batch_size": 8,
                **changed,
            }
        )
        trial = Trial(PlannedTrial.whole_batch(config), dataset)
        while not trial.done:
            trial.trainer.train_epoch()
        members.append(Member.of_trial(trial, densities))  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("detectors") / "detector"
    build_detector(members, dataset, dataset.held_out, FrontEndConfig()).save(path)
    return path


@pytest.fixture(scope="module")
def exported_path(detector_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "exported"
    export_detector(detector_path, path)
    return path


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Recordings of several rates, channels, widths and lengths, and log-mels."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    paths = []
    for index, (rate, channels, subtype, seconds) in enumerate(
        [
            (16_000, 1, "PCM_16", 5.2),
            (16_000, 2, "PCM_24", 5.0),
            (44_100, 1, "PCM_16", 3.1),
            (8_000, 4, "PCM_32", 4.0),
            (22_050, 1, "PCM_U8", 2.4),
            (48_000, 1, "PCM_16", 21.0),
        ]
    ):
        times = np.arange(int(rate * seconds)) / rate
        tone = 0.2 * np.sin(2 * np.pi * 330 * times)[:, None] + rng.normal(0, 0.05, (len(times), channels))
        paths.append(folder / f"normal_id_0{2 * (index % 2)}_{index:08d}.wav")
        soundfile.write(paths[-1], tone, rate, subtype=subtype)
    for seed in range(3):
        paths.append(folder / f"normal_id_00_9999999{seed}.npy")
        np.save(paths[-1], spectrogram(0, 70 + seed, faulty=seed == 2))
    return paths


def test_it_scores_as_the_detector_does(exported_path: Path, detector_path: Path, sounds: list[Path]) -> None:
    detector, exported = Detector.load(detector_path), ExportedDetector(exported_path)
    for path in sounds:
        expected, found = detector.score_file(path), exported.score_file(path)
        assert found.machine_id == expected.machine_id
        assert found.score == pytest.approx(expected.score, abs=1e-4, rel=1e-4)
        assert found.span_seconds == pytest.approx(expected.span_seconds)
        assert (found.status, found.verdict) == (expected.status, expected.verdict)
        assert found.p_value == (None if expected.p_value is None else pytest.approx(expected.p_value))


@pytest.mark.parametrize("rate", ["0.2", "90/hour", "1/week"])
def test_it_alarms_as_the_detector_does(
    rate: str, exported_path: Path, detector_path: Path, dataset: Dataset, tmp_path: Path
) -> None:
    detector = Detector.load(detector_path).with_alarm_rate(alarm.AlarmRate.parse(rate))
    exported = ExportedDetector(shutil.copytree(exported_path, tmp_path / "exported"))
    exported.alarm_rate = AlarmRate.parse(rate)
    verdicts = set()
    for index in range(0, len(dataset.held_out), 2):
        features_TF = dataset.held_out.clip(index) * detector.norm.std_F + detector.norm.mean_F
        long_TF = np.tile(features_TF.astype(np.float32), (1 + index % 3, 1))
        machine_id = dataset.held_out.machine_ids[index]
        expected, found = (each.score_features(long_TF, machine_id) for each in (detector, exported))
        assert (found.status, found.verdict) == (expected.status, expected.verdict)
        assert found.p_value == pytest.approx(expected.p_value)
        verdicts.add(found.verdict)
    assert len(verdicts) == 2, "some alarm, or cannot be known, and some do not"


def test_clips_score_as_the_detector_has_them(exported_path: Path, detector_path: Path, dataset: Dataset) -> None:
    detector, exported = Detector.load(detector_path), ExportedDetector(exported_path)
    clips = dataset.held_out
    for index, expected in enumerate(detector.score_clips(clips)):
        features_TF = clips.clip(index) * detector.norm.std_F + detector.norm.mean_F
        found = exported.score_features(features_TF.astype(np.float32), clips.machine_ids[index])
        assert found.score == pytest.approx(expected, abs=1e-4, rel=1e-4)


def bare_python(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """A Python whose only packages are NumPy, onnxruntime and what these need."""
    packages, site = Path(sysconfig.get_paths()["purelib"]), tmp_path / "site"
    site.mkdir()
    for name in NEEDED:
        if (packages / name).exists():
            (site / name).symlink_to(packages / name)
    return [sys.executable, "-S", "-s", "-B"], {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def test_it_runs_where_there_is_no_torch(
    exported_path: Path, detector_path: Path, sounds: list[Path], tmp_path: Path
) -> None:
    python, environment = bare_python(tmp_path)
    for absent in ("torch", "scipy", "sklearn", "soundfile", "trainable", "analysis"):
        asked = subprocess.run([*python, "-c", f"import {absent}"], env=environment, cwd=tmp_path, capture_output=True)
        assert b"ModuleNotFoundError" in asked.stderr, f"{absent} can be imported"
    moved = shutil.copytree(exported_path, tmp_path / "another name")
    (tmp_path / "normal_id_00_0.flac").write_bytes(b"fLaC")
    files = [*map(str, sounds), str(tmp_path / "normal_id_00_0.flac")]
    done = subprocess.run(
        [*python, str(moved / "score.py"), *files], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == command.SOME_FAILED, done.stderr
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["warning", "error"]
    assert "too few normal recordings are known to promise this alarm rate" in done.stderr
    assert "install soundfile" in done.stderr
    *rows, flac = csv.DictReader(io.StringIO(done.stdout))
    assert flac["status"] == "error"
    detector = Detector.load(detector_path)
    for path, row in zip(sounds, rows, strict=True):
        assert float(row["score"]) == pytest.approx(detector.score_file(path).score, abs=2e-4, rel=1e-4)


def test_json_lines_and_names_from_standard_input(
    exported_path: Path, sounds: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"\ufeff{sounds[0]}\r\n\n{sounds[1]}".encode())))
    assert command.main(exported_path, ["-", "--format", "json", "--machine-id", "00"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == [str(path) for path in sounds[:2]]
    assert [row["machine_id"] for row in rows] == ["00", "00"]
    assert list(rows[0]) == list(command.COLUMNS)


# ---- parts of the scorer beside the library's ------------------------------------------------------------------------


@pytest.mark.parametrize(("n_fft", "hop_length"), [(1024, 512), (512, 16), (400, 160)])
def test_the_front_end_is_the_library_s(n_fft: int, hop_length: int, tmp_path: Path) -> None:
    samples = np.random.default_rng(1).normal(0, 0.1, 9_000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    config = FrontEndConfig(n_fft=n_fft, hop_length=hop_length)
    expected, _ = read_recording(tmp_path / "a.wav", config)
    assert FrontEnd(16_000, n_fft, hop_length).log_mel(samples) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 17_001])
def test_resampling_is_scipy_s(rate: int) -> None:
    samples = np.random.default_rng(2).normal(0, 0.1, 5_001).astype(np.float32)
    divisor = np.gcd(rate, 16_000)
    expected = resample_poly(samples, 16_000 // divisor, rate // divisor)
    assert resampled(samples, rate, 16_000) == pytest.approx(expected, abs=1e-6)
    assert len(resampled(samples[:7], rate, 16_000)) == len(
        resample_poly(samples[:7], 16_000 // divisor, rate // divisor)
    )


@pytest.mark.parametrize("channel", ["auto", "mean", 1])
def test_sounds_are_read_as_in_the_library(channel: int | str, sounds: list[Path]) -> None:
    for path in sounds[1], sounds[3]:  # of two and of four channels
        expected = audio.read_sound(path, 16_000, channel)  # type: ignore[arg-type]
        found = read_sound(path, 16_000, channel)
        assert found.samples == pytest.approx(expected.samples, abs=1e-6)
        assert (found.rate, found.clipped) == (expected.rate, expected.clipped)


@pytest.mark.parametrize("n_patches", [1, 2, 7])
def test_configured_windows_are_the_library_s(n_patches: int) -> None:
    windows = Windows("configured", n_patches, 16, 64)
    for frames in (64, 79, 80, 141, 313):
        expected = patch_starts(
            np.array([0, frames]), torch.arange(1), n_patches=n_patches, stride=16, patch_frames=64, generator=None
        )
        assert windows.starts(frames).tolist() == expected.tolist()


@pytest.mark.parametrize(("frames", "n_patches"), [(64, 1), (64, 3), (100, 1), (313, 2), (313, 8), (1000, 3)])
def test_all_windows_cover_a_stretch(frames: int, n_patches: int) -> None:
    starts_RP = Windows("all", n_patches, 16, 64).starts(frames)
    assert starts_RP.shape[1] == n_patches
    assert (np.diff(starts_RP, axis=1) >= 0).all()
    starts_Q = np.sort(starts_RP.ravel())
    assert starts_Q[0] == 0
    assert starts_Q[-1] == frames - 64
    assert np.diff(starts_Q).max(initial=0) <= 64


# ---- p-values and verdicts -------------------------------------------------------------------------------------------


def calibration(scores: list[float], **others: object) -> Calibration:
    return Calibration.of({"centres_M": [1.0, 10.0], "scales_M": [2.0, 5.0], "scores": scores, **others})


def test_p_values_by_hand() -> None:
    plain = calibration([1.0, 2.0, 2.0, 4.0])
    assert plain.standardised(np.array([5.0, 5.0])) == pytest.approx((2.0 - 1.0) / 2)
    assert plain.p_values(np.array([5.0, 4.0, 2.0, -1.0])).tolist() == [1 / 5, 2 / 5, 4 / 5, 1.0]
    # Two recordings, one of three stretches.
    weighted = calibration([1.0, 2.0, 3.0, 4.0], weights=[1.0, 1 / 3, 1 / 3, 1 / 3])
    assert weighted.p_values(np.array([5.0, 3.0])) == pytest.approx([1 / 3, (1 + 2 / 3) / 3])
    assert combined_p(np.array([0.5])) == 0.5
    assert combined_p(np.array([0.5, 0.1, 0.12])) == pytest.approx(3 / 2 * 0.12)


def test_verdicts_by_hand() -> None:
    known = calibration([float(score) for score in range(99)])
    highest, middle = np.array([200.0]), np.array([50.0])
    assert verdict_of(None, known, highest, 10.0) == "unknown"
    hundredth, thousandth = (AlarmRate.parse(text) for text in ("0.01", "0.001"))
    assert verdict_of(hundredth, known, highest, 10.0) == "anomaly"
    assert verdict_of(thousandth, known, highest, 10.0) == "unknown", "a hundred recordings cannot promise a thousandth"
    assert verdict_of(hundredth, known, middle, 10.0) == "normal"
    p = np.array([0.01, 0.5])
    assert AlarmRate.parse("3/hour").alarms(p, 24.0)  # 2 · 0.01 ≤ 3 / 3600 · 24
    assert not AlarmRate.parse("3/hour").alarms(p, 23.9)
    assert not AlarmRate.parse("1/day").alarms(p, 24.0)
    assert AlarmRate.parse("2%") == AlarmRate.parse("0.02")


@pytest.mark.parametrize("text", ["", "often", "2", "0", "-1/day", "1/year", "1/", "1%/day", "1e-10"])
def test_a_rate_that_is_none_is_one_line(text: str, exported_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(exported_path, [f"--alarm-rate={text}", "x.wav"])
    assert "is no alarm rate; " in capsys.readouterr().err.splitlines()[-1]


# ---- what is refused -------------------------------------------------------------------------------------------------


def unreadable(folder: Path) -> dict[str, str]:
    """Files that cannot be scored, and a word of the reason."""
    (folder / "normal_id_00_text.wav").write_text("no sound")
    (folder / "normal_id_00_empty.wav").touch()
    np.save(folder / "normal_id_00_shape.npy", np.zeros((3, 3), dtype=np.float32))
    np.save(folder / "normal_id_00_nan.npy", np.full((64, 100), np.nan, dtype=np.float32))
    np.save(folder / "normal_id_00_power.npy", np.abs(np.random.default_rng(0).normal(size=(64, 100))) ** 9)
    np.save(folder / "normal_id_77_id.npy", spectrogram(0, 1, faulty=False))
    np.save(folder / "nameless.npy", spectrogram(0, 1, faulty=False))
    soundfile.write(folder / "normal_id_00_cut.wav", np.ones(9000) / 3, 16_000)
    (folder / "normal_id_00_cut.wav").write_bytes((folder / "normal_id_00_cut.wav").read_bytes()[:5000])
    soundfile.write(folder / "normal_id_00_out.wav", np.array([[0.3, -0.3]] * 9000), 16_000)
    return {
        "normal_id_00_text.wav": "is not a readable .wav",
        "normal_id_00_empty.wav": "is not a readable .wav",
        "normal_id_00_shape.npy": "64 × T",
        "normal_id_00_nan.npy": "NaN",
        "normal_id_00_power.npy": "10 · log10(power)",
        "normal_id_77_id.npy": "does not know machine id 77; it knows 00, 02",
        "nameless.npy": "--machine-id, one of 00, 02",
        "normal_id_00_cut.wav": "truncated",
        "normal_id_00_out.wav": "cancel each other",
        "normal_id_00_absent.wav": "does not exist",
        "normal_id_00_a.txt": "does not exist",
    }


def test_a_recording_that_cannot_be_scored_is_one_line(exported_path: Path, tmp_path: Path) -> None:
    exported = ExportedDetector(exported_path)
    for name, words in unreadable(tmp_path).items():
        with pytest.raises(RecordingError) as raised:
            exported.score_file(tmp_path / name)
        assert str(raised.value).startswith(str(tmp_path / name))
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)


def test_silent_and_short_recordings_have_a_status(exported_path: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "id_00.wav", np.zeros(90_000), 16_000)
    np.save(tmp_path / "id_02.npy", spectrogram(0, 1, faulty=False)[:, :63])
    exported = ExportedDetector(exported_path)
    for name, status in (("id_00.wav", "silent"), ("id_02.npy", "short")):
        with pytest.raises(RecordingError) as raised:
            exported.score_file(tmp_path / name)
        assert raised.value.status == status


EMPTY = {"centres_M": [0.0], "scales_M": [1.0], "scores": []}
DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: (path / "detector.json").unlink(), "detector.json cannot be read"),
    (lambda path: (path / "detector.json").write_text("{"), "is no JSON"),
    (lambda path: (path / "detector.json").write_text("[]"), "is of no exported detector"),
    (lambda path: (path / "codes-0.onnx").unlink(), "codes-0.onnx cannot be read"),
    (lambda path: (path / "codes-1.onnx").write_bytes(b"x"), "codes-1.onnx is damaged: its checksum"),
    (lambda path: (path / "arrays.npz").write_bytes(b"x"), "arrays.npz is damaged: its checksum"),
    (lambda path: edited(path, version=1), "has the version 1; this scorer reads 2"),
    (lambda path: edited(path, digest="0"), "detector.json is damaged: its digest"),
    (lambda path: edited(path, files={}, members=None), "does not describe a detector"),
    (lambda path: edited(path, calibration={"00": {}}), "does not describe a detector"),
    (lambda path: edited(path, alarm_rate="often"), "does not describe a detector"),
    (lambda path: edited(path, windows="some"), "does not describe a detector"),
    (lambda path: edited(path, calibration={"00": EMPTY}), "a calibration whose lists are empty"),
]


def edited(path: Path, **changed: object) -> None:
    """Changes what the folder says, with a right digest."""
    content = {**json.loads((path / "detector.json").read_text()), **changed}
    (path / "detector.json").write_text(json.dumps({**content, "digest": digest_of(content), **changed}))


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[words for _, words in DAMAGES])
def test_a_damaged_folder_is_one_line(
    damage: Callable[[Path], object],
    words: str,
    exported_path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = shutil.copytree(exported_path, tmp_path / "exported")
    damage(path)
    assert command.main(path, ["x.wav"]) == command.UNUSABLE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_a_scorer_that_lacks_a_module_is_one_line(exported_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(exported_path, tmp_path / "exported")
    (path / "scorer" / "counts.py").unlink()
    done = subprocess.run([sys.executable, str(path / "score.py"), "x.wav"], capture_output=True, text=True)
    assert done.returncode == command.UNUSABLE
    assert done.stderr.startswith(f"error: {path} cannot run (No module named 'scorer.counts'); install numpy")
    assert done.stderr.count("\n") == 1


def test_a_detector_of_the_library_is_no_exported_one(detector_path: Path) -> None:
    with pytest.raises(DetectorError, match="is of no exported detector; make one with"):
        ExportedDetector(detector_path)


def test_other_folders_are_not_overwritten_and_earlier_exports_are(exported_path: Path, tmp_path: Path) -> None:
    check_target(tmp_path / "new")
    path = shutil.copytree(exported_path, tmp_path / "exported")
    (path / "best.json").touch()
    check_target(path)
    (path / "scorer" / "mine.txt").touch()
    with pytest.raises(RunError, match=r"holds scorer/mine\.txt"):
        check_target(path)
    (path / "notes.txt").touch()
    with pytest.raises(RunError, match=r"holds notes.txt, which no export wrote; name a new or an empty folder"):
        check_target(path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "score.py").touch()
    with pytest.raises(RunError, match=r"holds score\.py"):
        check_target(tmp_path / "mine")
    with pytest.raises(RunError, match="is a file"):
        check_target(path / "notes.txt")


def test_a_quantizer_of_one_s_own_is_refused(
    detector_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.export.graphs.Codebook", int)
    with pytest.raises(ConfigError, match="the quantizer 'ema' cannot be exported"):
        export_detector(detector_path, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_exports_a_detector_s_folder(
    detector_path: Path, exported_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):  # the second time over the first
        assert best.main([str(detector_path), "--export", str(tmp_path / "out")]) == 0
    assert f"python {tmp_path / 'out' / 'score.py'} FILES" in capsys.readouterr().out
    made, expected = ({path.name for path in folder.iterdir()} for folder in (tmp_path / "out", exported_path))
    assert made == expected - {"__pycache__"}
    texts = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(str(Path.cwd()).encode() in text for text in texts), "no path of the machine that made it"


def test_the_command_exports_what_it_retrained_beside_the_configurations(
    trained_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert best.main([str(trained_path), "--top", "1", "--export", str(folder)]) == 0
    assert "no model in" in capsys.readouterr().out
    alone = ["--retrain", "--members", "1", "--seeds", "1", "--output", str(tmp_path / "detector")]
    assert best.main([str(trained_path), "--top", "1", *alone, "--export", str(folder)]) == 0
    assert {"best.json", "best-1-trial-00001.yaml", "detector.json", "score.py"} <= {p.name for p in folder.iterdir()}
    features = spectrogram(0, 5, faulty=True).T
    expected = Detector.load(tmp_path / "detector").score_features(features, "00")
    assert ExportedDetector(folder).score_features(features, "00").score == pytest.approx(expected.score, abs=1e-4)


def test_the_command_refuses_a_foreign_folder_at_once(
    trained_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    assert commandline.run(best.main, [str(trained_path), "--retrain", "--export", str(tmp_path)]) == 2
    assert "holds notes.txt" in capsys.readouterr().err
