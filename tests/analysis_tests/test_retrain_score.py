"""From the winner to a detector, and from a detector to a line a recording."""

import codecs
import csv
import gc
import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from analysis import best
from analysis.model_view import load_run_data
from analysis.results import load_run
from analysis.retrain import all_normal_clips
from tests.analysis_tests.trained import FAULT_FRAMES, spectrogram
from trainable import commandline, score
from trainable.config import FrontEndConfig, ScoreConfig, TrialConfig
from trainable.data.clips import Split, TestClips
from trainable.data.load import Dataset
from trainable.data.windows import Windows
from trainable.detection.alarm import AlarmRate, Tally, Verdict
from trainable.detection.calibration import simes
from trainable.detection.detector import Detector, Member, build_detector, raw_scores
from trainable.detection.saved import FORMAT
from trainable.detection.stretches import cut_clips, frame_surprise, most_surprising, stretches
from trainable.errors import CheckpointError, ConfigError, DataError
from trainable.model.geometry import Geometry
from trainable.scoring.evaluate import evaluate
from trainable.scoring.registry import make_density
from trainable.trial import PlannedTrial, Trial

SECONDS_PER_FRAME = 512 / 16_000


@pytest.fixture(scope="module")
def dataset(trained_path: Path) -> Dataset:
    return load_run_data(load_run(trained_path))


@pytest.fixture(scope="module")
def detector_path(trained_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector as the command makes it: two seeds of the winner."""
    path = tmp_path_factory.mktemp("detectors") / "detector"
    alone = ["--top", "1", "--retrain", "--members", "1", "--seeds", "2"]
    assert best.main([str(trained_path), *alone, "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def detector(detector_path: Path) -> Detector:
    return Detector.load(detector_path)


def held_out_files(recordings: Path, dataset: Dataset, label: int) -> list[str]:
    chosen = dataset.held_out.labels == label
    return [
        str(recordings / "grinder" / "test" / name) for name, c in zip(dataset.held_out.names, chosen, strict=True) if c
    ]


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_training_clips_and_normal_validation_clips_are_trained_on(dataset: Dataset) -> None:
    clips = all_normal_clips(dataset)
    normal = [n for n, label in zip(dataset.validation.names, dataset.validation.labels, strict=True) if label == 0]
    assert sorted(clips.names) == sorted([*dataset.train.names, *normal])
    held_out = dataset.held_out
    spared = {held_out.frames_TF[a:b].tobytes() for a, b in itertools.pairwise(held_out.offsets)}
    trained = {clips.frames_TF[a:b].tobytes() for a, b in itertools.pairwise(clips.offsets)}
    assert len(spared) == len(held_out)
    assert not spared & trained
    assert not any("anomaly" in name for name in clips.names)
    assert clips.split is Split.TRAIN
    last = len(clips) - 1  # a name alone is not enough: both folders begin to count at 0
    begin, end = clips.offsets[last : last + 2]
    source = dataset.validation.names.index(normal[-1])
    a, b = dataset.validation.offsets[source : source + 2]
    assert np.array_equal(clips.frames_TF[begin:end], dataset.validation.frames_TF[a:b])


def test_a_detector_says_how_it_was_made(detector: Detector, dataset: Dataset) -> None:
    made = detector.made
    assert [(each["trial"], each["density"]) for each in made["members"]] == [(1, "grid_neighbours")] * 2
    assert made["epochs"] == [3, 3]
    assert len(detector.members) == 2
    assert len(set(made["seeds"])) == 2
    assert made["training_clips"] == 32 + 12
    assert made["calibration_clips"] == 12
    assert made["data_digest"] == dataset.digest
    held_out = evaluate(detector.score_clips(dataset.held_out), dataset.held_out)
    assert held_out.auc == pytest.approx(made["held_out_auc"], abs=1e-9)
    assert held_out.auc > 0.9


def test_members_differ_by_their_seed(detector: Detector) -> None:
    first, second = (member.state.model.codebook.codebook_KD for member in detector.members)
    assert not torch.equal(first, second)


def test_files_score_as_their_clips_do(detector: Detector, dataset: Dataset, recordings: Path) -> None:
    together = detector.score_clips(dataset.held_out)
    for index, name in list(enumerate(dataset.held_out.names))[::5]:
        alone = detector.score_file(recordings / "grinder" / "test" / name)
        assert alone.score == pytest.approx(together[index], abs=1e-4)
        assert alone.machine_id == dataset.held_out.machine_ids[index]


def test_each_calibration_clip_is_scored_by_the_others(detector: Detector, dataset: Dataset) -> None:
    held_out = dataset.held_out
    raw = raw_scores(detector.members, cut_clips(held_out, detector.stretch_frames), Windows.ALL)
    expected = []
    for machine_id in detector.ids:
        mine = raw[:, (np.array(held_out.machine_ids) == machine_id) & (held_out.labels == 0)]
        for left_out in range(mine.shape[1]):
            others = np.delete(mine, left_out, axis=1)
            expected.append(((mine[:, left_out] - others.mean(axis=1)) / others.std(axis=1)).mean())
    # 12 clips of two ids: too few of one for a p-value of 0.05, so both ids compare with all of them.
    assert detector.made["pooled_ids"] == list(detector.ids)
    for calibration in detector.calibration.values():
        assert np.array(calibration.scores) == pytest.approx(np.sort(expected), abs=1e-4)


def test_the_most_surprising_stretch_by_hand() -> None:
    surprise = np.array([np.nan, 0.0, 0.0, 0.0, 3.0, 8.0, 10.0, 6.0, 1.0, 0.0, 0.0, np.nan])
    assert most_surprising(surprise) == (5, 8)
    assert most_surprising(np.ones(4)) == (0, 4)


def test_frame_surprise_averages_patches_that_overlap() -> None:
    patches = np.ones((2, 8, 8))
    patches[1] *= 3
    frames = frame_surprise(patches, np.array([0, 32]), 100, Geometry())
    assert (frames[:32] == 8).all()
    assert (frames[32:64] == 16).all()
    assert (frames[64:96] == 24).all()
    assert np.isnan(frames[96:]).all()


def test_csv_lines(detector_path: Path, recordings: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    normal, faulty = (held_out_files(recordings, dataset, label) for label in (0, 1))
    assert score.main(["--model", str(detector_path), *normal, *faulty]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: id 00, 02: 5 % of normal recordings cannot be promised by 12 calibration")
    assert captured.err.count("\n") == 1
    rows = lines_of(captured.out)
    assert list(rows[0]) == list(score.COLUMNS)
    assert [row["file"] for row in rows] == [*normal, *faulty]
    scores = [float(row["score"]) for row in rows]
    assert max(scores[: len(normal)]) < np.median(scores[len(normal) :])
    assert all(0 < float(row["p_value"]) <= 1 for row in rows)
    # Most anomalies have one of the two smallest p-values that the twelve calibration clips of both ids allow.
    assert np.median([float(row["p_value"]) for row in rows[len(normal) :]]) <= 2 / 13 + 1e-3


@pytest.mark.parametrize(
    ("rate", "normal", "faulty"),
    [
        ("0.1", {"normal", "anomaly"}, {"anomaly", "normal"}),  # 12 calibration clips can promise one in 13
        ("1/day", {"normal", "unknown"}, {"unknown", "normal"}),
    ],
)
def test_verdicts_follow_the_alarm_rate(
    detector_path: Path,
    recordings: Path,
    dataset: Dataset,
    rate: str,
    normal: set[str],
    faulty: set[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [held_out_files(recordings, dataset, label) for label in (0, 1)]
    assert score.main(["--model", str(detector_path), "--alarm-rate", rate, *files[0], *files[1]]) == 0
    captured = capsys.readouterr()
    assert ("cannot be promised" in captured.err) == ("unknown" in faulty)
    rows = lines_of(captured.out)
    assert {row["status"] for row in rows} == {"ok"}
    verdicts = [row["verdict"] for row in rows]
    assert set(verdicts[: len(files[0])]) <= normal
    assert set(verdicts[len(files[0]) :]) <= faulty
    highest = 1 / 13 + 1e-4
    assert all((row["verdict"] == "normal") == (float(row["p_value"]) > highest) for row in rows)


@pytest.mark.parametrize("flags", [["--retrain", "--alarm-rate", "often"], ["--alarm-rate", "1/day"]])
def test_an_alarm_rate_that_makes_no_sense_is_refused_before_training(trained_path: Path, flags: list[str]) -> None:
    with pytest.raises(ConfigError, match="--alarm-rate"):
        best.main([str(trained_path), *flags])


def test_a_foreign_recording_alarms_however_long_it_is(detector: Detector) -> None:
    clips = (spectrogram(0, seed, faulty=True).T for seed in range(30, 36))
    foreign = np.tile(max(clips, key=lambda features_TF: detector.score_features(features_TF, "00").score), (60, 1))
    heard = detector.with_alarm_rate(AlarmRate.parse("0.1")).score_features(foreign, "00")
    assert heard.stretches == 60
    assert heard.p_value == pytest.approx(1 / 13)
    assert heard.verdict is Verdict.ANOMALY


@pytest.mark.parametrize(
    ("status", "make", "scored"),
    [
        ("silent", lambda noise: (16_000, np.zeros_like(noise)), False),
        ("short", lambda noise: (16_000, noise[:16_000]), False),
        ("short", lambda noise: (16_000, noise[: 512 * 70]), True),
        ("quiet", lambda noise: (16_000, noise * 1e-4), True),
        ("other_rate", lambda noise: (8_000, noise), True),
        ("clipped", lambda noise: (16_000, (noise * 5).clip(-1, 1)), True),
        ("ok", lambda noise: (16_000, noise), True),
    ],
)
def test_a_recording_that_cannot_be_compared_says_why(
    detector_path: Path, tmp_path: Path, status: str, make: object, scored: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = 0.3 * np.random.default_rng(0).normal(size=16_000 * 6).clip(-3, 3)
    rate, samples = make(noise)  # type: ignore[operator]
    soundfile.write(tmp_path / "a.wav", samples, rate)
    code = score.main(["--model", str(detector_path), "--machine-id", "00", str(tmp_path / "a.wav")])
    (row,) = lines_of(capsys.readouterr().out)
    assert row["status"] == status
    assert (row["score"] != "") == scored == (code == 0)
    judged = status in ("ok", "clipped")
    assert (row["p_value"] != "") == judged
    assert judged or row["verdict"] == "unknown"


def test_the_alarm_rate_is_kept_with_the_detector(detector: Detector, tmp_path: Path) -> None:
    detector.with_alarm_rate(AlarmRate.parse("20%")).save(tmp_path / "detector")
    loaded = Detector.load(tmp_path / "detector")
    assert str(loaded.alarm_rate) == "0.2"
    assert loaded.calibration == detector.calibration
    assert loaded.limits == detector.limits
    content = json.loads((tmp_path / "detector" / "detector.json").read_text())
    assert content["format"] == FORMAT
    assert content["thresholds"] == loaded.thresholds
    assert content["thresholds"]["00"] == detector.calibration["00"].scores[-2], "two of 13 are fewer than a fifth"


def test_the_span_holds_the_fault(detector_path: Path, recordings: Path, dataset: Dataset) -> None:
    detector = Detector.load(detector_path)
    hits = 0
    files = held_out_files(recordings, dataset, 1)
    for file in files:
        begin, end = detector.score_file(Path(file)).span_seconds
        assert 0 <= begin < end <= 160 * SECONDS_PER_FRAME + 1e-9
        middle = (begin + end) / 2 / SECONDS_PER_FRAME
        hits += FAULT_FRAMES.start <= middle <= FAULT_FRAMES.stop
    assert hits >= 0.75 * len(files)


def test_json_lines(
    detector_path: Path, recordings: Path, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    files = held_out_files(recordings, dataset, 1)[:2]
    assert score.main(["--model", str(detector_path), "--format", "json", *files]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(row) for row in rows] == [set(score.COLUMNS)] * 2
    assert isinstance(rows[0]["p_value"], float)
    assert rows[0]["machine_id"] == "00"


def test_names_from_standard_input(
    detector_path: Path,
    recordings: Path,
    dataset: Dataset,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = held_out_files(recordings, dataset, 0)[:3]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(files) + "\n\n"))
    assert score.main(["--model", str(detector_path), "-"]) == 0
    assert [row["file"] for row in lines_of(capsys.readouterr().out)] == files


@pytest.mark.parametrize(
    "written",
    [
        "a.wav\nb é.wav\n".encode(),
        "\n  \na.wav\n\nb é.wav".encode(),
        "a.wav\r\nb é.wav\r\n\r\n".encode(),
        "a.wav\r\nb é.wav".encode("utf-8-sig"),
        "a.wav\r\nb é.wav\r\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "a.wav\nb é.wav\n".encode("utf-16-be"),
    ],
    ids=["plain", "blank", "windows", "mark", "utf-16", "big-endian"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_lists_of_any_system_name_the_same_files(written: bytes, encoding: str) -> None:
    """File names are no text: the encoding of standard input does not matter."""
    stdin = io.TextIOWrapper(io.BytesIO(written), encoding=encoding)
    assert list(score._names(["first.wav", "-", "last.wav"], stdin)) == ["first.wav", "a.wav", "b é.wav", "last.wav"]


def test_a_name_that_is_no_text_arrives_as_it_is() -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"r\xe9c/a.wav\n"), encoding="utf-8", errors="strict")
    assert [os.fsencode(name) for name in score._names(["-"], stdin)] == [b"r\xe9c/a.wav"]


def test_a_line_comes_out_before_the_next_name_goes_in(detector_path: Path, recordings: Path, dataset: Dataset) -> None:
    """A pipe that stays open: each answer arrives while the program waits for the next name."""
    files = held_out_files(recordings, dataset, 0)[:2]
    command = [sys.executable, "-m", "trainable.score", "--model", str(detector_path), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == ",".join(score.COLUMNS)
        for file in files:
            process.stdin.write(file + "\n")
            process.stdin.flush()
            assert process.stdout.readline().startswith(file + ",")
        process.stdin.close()
        assert process.wait() == 0


def broken_files(folder: Path) -> list[Path]:
    (folder / "normal_id_00_empty.npy").write_bytes(b"")
    (folder / "normal_id_00_text.wav").write_text("no sound")
    np.save(folder / "normal_id_00_shape.npy", np.zeros((3, 3), dtype=np.float32))
    np.save(folder / "normal_id_00_nan.npy", np.full((64, 100), np.nan, dtype=np.float32))
    np.save(folder / "normal_id_77_unknown.npy", spectrogram(0, 1, faulty=False))
    np.save(folder / "nameless.npy", spectrogram(0, 1, faulty=False))
    (folder / "normal_id_00_folder.npy").mkdir()
    return [*sorted(folder.iterdir()), folder / "normal_id_00_absent.npy"]


def test_each_broken_file_is_one_line_and_the_others_are_scored(
    detector_path: Path, recordings: Path, dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = held_out_files(recordings, dataset, 0)[:2]
    broken = broken_files(tmp_path)
    assert score.main(["--model", str(detector_path), good[0], *map(str, broken), good[1]]) == 1
    captured = capsys.readouterr()
    rows = lines_of(captured.out)
    assert [row["file"] for row in rows] == [good[0], *map(str, broken), good[1]]  # one in, one out
    assert [bool(row["error"]) for row in rows] == [False, *[True] * len(broken), False]
    assert all(row["score"] == row["p_value"] == "" for row in rows[1:-1])
    assert all((row["verdict"], row["status"]) == ("unknown", "error") for row in rows[1:-1])
    _, *errors = captured.err.splitlines()  # the first is of the alarm rate
    assert len(errors) == len(broken)
    for path, error in zip(broken, errors, strict=True):
        assert error.startswith("error: ")
        assert error.startswith(f"error: {path}: ")
    assert errors[-1].endswith("normal_id_00_absent.npy: does not exist")


def test_a_broken_file_is_a_json_line_with_its_error(
    detector_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "normal_id_00_text.wav").write_text("no sound")
    assert score.main(["--model", str(detector_path), "--format", "json", str(tmp_path / "normal_id_00_text.wav")]) == 1
    row = json.loads(capsys.readouterr().out)
    assert list(row) == list(score.COLUMNS)
    assert row["score"] is None
    assert row["error"].startswith(str(tmp_path / "normal_id_00_text.wav"))


def test_a_clip_too_short_to_be_compared_is_refused(detector: Detector, tmp_path: Path) -> None:
    """Repeated until it fills a patch it would have the smallest p-value, whatever it is of."""
    np.save(tmp_path / "normal_id_00_0.npy", spectrogram(0, 3, faulty=False)[:, :63])
    np.save(tmp_path / "normal_id_00_1.npy", spectrogram(0, 3, faulty=False)[:, :64])
    with pytest.raises(DataError, match=r"normal_id_00_0.npy: lasts 63 frames \(2.02 s\); at least 64"):
        detector.score_file(tmp_path / "normal_id_00_0.npy")
    assert np.isfinite(detector.score_file(tmp_path / "normal_id_00_1.npy").score)


def test_a_machine_id_can_be_named(detector_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nameless.npy"
    np.save(path, spectrogram(1, 5, faulty=False))
    assert score.main(["--model", str(detector_path), "--machine-id", "02", str(path)]) == 0
    assert lines_of(capsys.readouterr().out)[0]["machine_id"] == "02"


def test_short_and_long_clips_are_scored(detector: Detector) -> None:
    long = np.tile(spectrogram(0, 3, faulty=False).T, (10, 1))
    assert np.isfinite(detector.score_features(long, "00").score)
    assert np.isfinite(detector.score_features(long[:64], "00").score)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (64, [(0, 64)]),
        (100, [(0, 100)]),
        (101, [(0, 100), (1, 101)]),
        (200, [(0, 100), (100, 200)]),
        (250, [(0, 100), (100, 200), (150, 250)]),
    ],
)
def test_stretches_by_hand(frames: int, expected: list[tuple[int, int]]) -> None:
    assert stretches(frames, 100) == expected


def test_a_long_recording_is_as_bad_as_its_worst_stretch(detector: Detector) -> None:
    """However long it is, no part goes unheard, and the span lies where the fault is."""
    assert detector.stretch_frames == 160
    clips = [spectrogram(0, seed, faulty=False).T for seed in range(20, 26)]
    quiet = detector.score_features(np.concatenate(clips), "00")
    alone = [detector.score_features(clip, "00") for clip in clips]
    assert quiet.stretches == 6
    assert quiet.score == pytest.approx(max(each.score for each in alone))
    assert quiet.p_value == pytest.approx(simes(np.array([each.p_value for each in alone])))
    for place in range(6):
        faulty = [spectrogram(0, 30, faulty=True).T if place == index else clip for index, clip in enumerate(clips)]
        heard = detector.score_features(np.concatenate(faulty), "00")
        assert heard.score > quiet.score
        middle = sum(heard.span_seconds) / 2 / SECONDS_PER_FRAME - 160 * place
        assert FAULT_FRAMES.start <= middle <= FAULT_FRAMES.stop


def test_a_fault_at_the_end_of_a_recording_that_is_no_multiple_is_heard(detector: Detector) -> None:
    # The most normal of some, so that no other stretch decides.
    pairs = [
        np.concatenate([spectrogram(0, seed + each, faulty=False).T for each in (0, 1)]) for seed in range(20, 40, 2)
    ]
    normal = min(pairs, key=lambda features_TF: detector.score_features(features_TF, "00").score)
    faulty = spectrogram(0, 50, faulty=True).T[:128]  # ends with its fault
    assert (
        detector.score_features(np.concatenate([normal, faulty]), "00").score
        > detector.score_features(np.concatenate([normal, normal[:128]]), "00").score
    )


def test_labelled_clips_are_cut_as_recordings_are(detector: Detector, dataset: Dataset) -> None:
    """Evaluation and calibration hear what `score_features` hears."""
    held_out = dataset.held_out
    assert cut_clips(held_out, 160).frames_TF is held_out.frames_TF
    joined = TestClips(
        held_out.frames_TF,
        held_out.offsets[::2],
        held_out.machine_ids[::2],
        held_out.names[::2],
        held_out.split,
        held_out.labels[::2],
    )
    cut = cut_clips(joined, 160)
    assert cut.owners.tolist() == np.repeat(np.arange(len(joined)), 2).tolist()
    assert cut.offsets.tolist() == held_out.offsets.tolist()
    pairs = detector.score_clips(held_out).reshape(-1, 2)  # neighbours are of one machine id
    assert held_out.machine_ids[::2] == held_out.machine_ids[1::2]
    assert detector.score_clips(joined) == pytest.approx(pairs.max(axis=1), abs=1e-6)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_memory_stays_constant_over_a_stream(detector: Detector, tmp_path: Path) -> None:
    """Eighty files after the first thirty take less memory than three of them would if they were kept."""
    clip = np.tile(spectrogram(0, 3, faulty=False), (1, 10))
    file = tmp_path / "normal_id_00_0.npy"
    np.save(file, clip)

    def run(count: int) -> int:
        with Path(os.devnull).open("w") as output:
            names = (str(file) for _ in range(count))
            tally = score.score_files(detector, names, as_json=True, machine_id=None, output=output, errors=output)
        assert tally == Tally(judged=count)
        gc.collect()
        return resident_bytes()

    before = run(30)
    tracemalloc.start()
    try:
        run(10)
        own_before, _ = tracemalloc.get_traced_memory()
        after = run(70)
        own_after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert after - before < 3 * clip.nbytes
    assert own_after - own_before < clip.nbytes


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: (path / "detector.json").unlink(), "cannot be read"),
        (lambda path: (path / "detector.json").write_text("{}"), "does not describe a detector"),
        (lambda path: (path / "member-0.pt").write_bytes(b"damaged"), "checksum"),
        (lambda path: (path / "member-1.pt").unlink(), "cannot be read"),
    ],
)
def test_a_damaged_detector_is_one_line(
    detector_path: Path, tmp_path: Path, damage: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copytree(detector_path, tmp_path / "detector")
    damage(path)  # type: ignore[operator]
    assert commandline.run(score.main, ["--model", str(path), "x.wav"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_a_detector_of_format_2_hears_what_it_was_calibrated_with(
    detector_path: Path, detector: Detector, tmp_path: Path
) -> None:
    path = shutil.copytree(detector_path, tmp_path / "detector")
    content = json.loads((path / "detector.json").read_text())
    for index in range(len(content["members"])):
        file = path / f"member-{index}.pt"
        member = torch.load(file, weights_only=True)
        (member["density"],) = member.pop("densities")
        assert member.pop("mapped") == 0
        torch.save(member, file)
        content["members"][index] = hashlib.sha256(file.read_bytes()).hexdigest()
    for name in ("windows", "alarm_rate", "thresholds", "lowest_rate_hz", "most_clipped", "digest"):
        del content[name]
    del content["norm"]["precision"]
    for entry in content["calibration"].values():
        for name in ("weights", "shortest_frames", "lowest_level_db"):
            del entry[name]
    (path / "detector.json").write_text(json.dumps({**content, "format": 2}))
    features = spectrogram(0, 0, faulty=False).T
    old = Detector.load(path).score_features(features, "00")
    assert old.verdict is Verdict.UNKNOWN, "it has no alarm rate"
    unrounded = replace(detector.norm, precision="float32")
    expected = replace(detector, windows=Windows.CONFIGURED, norm=unrounded).score_features(features, "00")
    assert (old.score, old.p_value, old.span_seconds) == (expected.score, expected.p_value, expected.span_seconds)


def test_models_with_several_density_models_score_as_each_pair_alone(dataset: Dataset, tmp_path: Path) -> None:
    """One model encodes a clip once for all its density models."""
    trial = Trial(PlannedTrial.whole_batch(TrialConfig.from_flat({"epochs": 1, "n_patches": 2})), dataset)
    trial.step()
    densities = ("mahalanobis", "grid_neighbours", "fused")
    together = build_detector([Member.of_trial(trial, densities)], dataset, dataset.held_out, FrontEndConfig())
    alone = [Member.of_trial(trial, [density]) for density in densities]
    expected = build_detector(alone, dataset, dataset.held_out, FrontEndConfig()).score_clips(dataset.held_out)
    assert together.score_clips(dataset.held_out) == pytest.approx(expected)
    together.save(tmp_path / "detector")
    loaded = Detector.load(tmp_path / "detector")
    assert [density.name for density in loaded.members[0].densities] == list(densities)
    assert loaded.members[0].surprise is loaded.members[0].densities[1], "the first that can locate a fault"
    assert loaded.score_clips(dataset.held_out) == pytest.approx(expected)


def test_density_models_are_fitted_to_windows_as_the_detector_hears_them(dataset: Dataset) -> None:
    """Where windows begin in their clips is told by the codes of coarse cells, so that others would seem odd."""
    flat = {"epochs": 1, "n_patches": 4, "stride": 24}
    trial = Trial(PlannedTrial.whole_batch(TrialConfig.from_flat(flat)), dataset)
    trial.step()
    member, train = Member.of_trial(trial, ["mahalanobis"]), dataset.train
    heard = member.hear(torch.from_numpy(train.frames_TF), train.offsets, train.machine_ids, Windows.ALL)
    expected = make_density(ScoreConfig(), name="mahalanobis").fit(
        replace(heard.codes, split=Split.TRAIN), trial.codebook()
    )
    for machine_id, group in expected.groups.items():
        torch.testing.assert_close(member.densities[0].groups[machine_id]["centre"], group["centre"])


def test_a_detector_of_a_later_format_is_refused(detector_path: Path, tmp_path: Path) -> None:
    path = shutil.copytree(detector_path, tmp_path / "detector")
    content = json.loads((path / "detector.json").read_text())
    (path / "detector.json").write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        Detector.load(path)


def test_an_unknown_machine_id_is_refused(detector: Detector) -> None:
    with pytest.raises(DataError, match="does not know machine id 09; it knows 00, 02"):
        detector.score_features(spectrogram(0, 0, faulty=False).T, "09")
