"""p-values of recordings of any length, alarm rates and what they promise, windows, statuses of recordings."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainable.data.check import Storage
from trainable.data.windows import Windows, choose_windows, covering_passes, scored_starts
from trainable.detection.alarm import AlarmRate, Promise, Tally, shortfalls
from trainable.detection.calibration import Calibration, calibrated, simes
from trainable.detection.recorded import Limits, Status
from trainable.errors import ConfigError, DataError

CALIBRATION = Calibration((0.0,), (1.0,), (1.0, 2.0, 2.0, 4.0), shortest_frames=300, lowest_level_db=-60.0)


# ---- p-values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scores", [(0.5,), (0.5, 0.6)])
def test_a_calibration_without_pairs_is_refused(scores: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a centre and a scale above 0 of each pair"):
        Calibration((), (), scores)


def test_copies_among_calibration_clips_leave_scores_of_their_size() -> None:
    scores_N = calibrated(np.array([[1.0, 1.0, 1.2]]), np.arange(3))[2]
    assert np.abs(scores_N).max() < 1000
    assert scores_N.argmax() == 2


def test_p_values_by_hand() -> None:
    assert CALIBRATION.p_value([5.0]) == 1 / 5 == CALIBRATION.least_p  # none as high
    assert CALIBRATION.p_value([4.0]) == 2 / 5  # one as high
    assert CALIBRATION.p_value([2.0]) == 4 / 5
    assert CALIBRATION.p_value([-1.0]) == 1.0
    assert Calibration((1.0, 10.0), (2.0, 5.0), (0.0,)).standardise([5.0, 5.0]) == pytest.approx((2.0 - 1.0) / 2)


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": ()},
        {"scores": (2.0, 1.0)},
        {"scores": (float("nan"),)},
        {"scales_M": (0.0,)},
        {"centres_M": (float("inf"),)},
        {"weights": (1.0,)},
    ],
)
def test_a_calibration_that_would_never_alarm_is_refused(damage: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="a calibration needs finite ascending scores"):
        replace(CALIBRATION, **damage)


def test_a_recording_that_is_foreign_throughout_has_the_least_p_value_whatever_its_length() -> None:
    assert CALIBRATION.p_value([9.0] * 60) == pytest.approx(CALIBRATION.least_p)
    assert CALIBRATION.p_value([9.0, 0.0, 0.0]) == pytest.approx(3 / 5), "one of three stretches, by Bonferroni"
    assert CALIBRATION.p_value([9.0, 9.0, 0.0]) == pytest.approx(3 / 2 / 5)
    assert simes(np.full(7, 0.3)) == pytest.approx(0.3), "exact for stretches that are all alike"


def test_a_calibration_recording_counts_once_however_many_stretches_it_has() -> None:
    weighed = Calibration((0.0,), (1.0,), (1.0, 2.0, 3.0, 4.0), weights=(1.0, 1 / 3, 1 / 3, 1 / 3))
    assert weighed.recordings == 2
    assert weighed.p_value([2.5]) == pytest.approx((1 + 2 / 3) / 3)
    assert weighed.least_p == pytest.approx(1 / 3)


@pytest.mark.parametrize("stretches", [1, 10])
@pytest.mark.parametrize("share_of_recording", [0.0, 0.9])
def test_false_alarms_of_normal_recordings_keep_to_the_p_value(stretches: int, share_of_recording: float) -> None:
    """Recordings whose stretches are independent, and others whose stretches are nearly alike."""
    rng = np.random.default_rng(0)
    own, shared = np.sqrt(1 - share_of_recording), np.sqrt(share_of_recording)
    p_values = []
    for _ in range(2000):
        calibration = Calibration((0.0,), (1.0,), tuple(np.sort(rng.normal(size=99))))
        p_values.append(calibration.p_value((own * rng.normal(size=stretches) + shared * rng.normal()).tolist()))
    for level in (0.05, 0.1, 0.2):
        assert np.mean(np.array(p_values) <= level + 1e-12) < level + 4 * np.sqrt(level * (1 - level) / 2000)


# ---- alarm rates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept", "share_of_10_s"),
    [
        ("0.01", "0.01", 0.01),
        ("1%", "0.01", 0.01),
        ("1/day", "1/day", 10 / 86_400),
        ("2.5 / hour", "2.5/hour", 2.5 / 360),
        ("1/Week", "1/week", 10 / 604_800),
        ("0.001%", "1e-05", 1e-5),
        ("1.2e+03/hour", "1200/hour", 1200 / 360),
        ("0.99999999999999", "0.99999999999999", 0.99999999999999),
    ],
)
def test_rates_are_read_and_kept(text: str, kept: str, share_of_10_s: float) -> None:
    rate = AlarmRate.parse(text)
    assert str(rate) == kept
    assert AlarmRate.parse(kept) == rate
    assert rate.share(10.0) == pytest.approx(share_of_10_s)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "often",
        "1",
        "0",
        "1.5",
        "100%",
        "0/day",
        "1/year",
        "-1/day",
        "1/day/day",
        "nan",
        "1e-10",
        f"0.{'0' * 310}1/day",
        f"{'9' * 400}/day",
    ],
)
def test_what_is_no_rate_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--alarm-rate .*1/day"):
        AlarmRate.parse(text)


def test_the_threshold_is_the_lowest_score_that_keeps_the_rate() -> None:
    calibration = Calibration((0.0,), (1.0,), tuple(float(score) for score in range(1, 100)))
    assert calibration.threshold(0.05) == 95.0
    assert calibration.stretch_p_values(np.array([95.0, 95.1])).tolist() == [0.06, 0.05]
    assert calibration.threshold(0.01) == 99.0
    assert calibration.threshold(0.009) is None
    assert CALIBRATION.threshold(0.4) == 2.0, "of equal scores none is above the others"


def test_a_rate_per_time_counts_stretches_and_a_share_counts_recordings() -> None:
    per_time, share = AlarmRate.parse("36/hour"), AlarmRate.parse("0.1")
    assert per_time.share(10.0) == pytest.approx(share.share(10.0))
    one_of_ten = {"p_value": 1.0, "lowest_p": 0.1, "stretches": 10, "seconds": 100.0}
    assert per_time.alarms(**one_of_ten)
    assert not share.alarms(**one_of_ten)
    assert not per_time.alarms(**{**one_of_ten, "seconds": 50.0}), "half the time, half the false alarms"


def test_more_alarms_than_normal_recordings_raise_are_said_and_fewer_are_chance() -> None:
    rate = AlarmRate.parse("0.05")
    told = Tally(judged=100, alarms=40).too_many_text(rate, calibration=100)
    assert told.startswith(
        "40 of 100 recordings alarm; of normal ones like those it is calibrated with, about 5 would."
    )
    assert "--retrain --allow-changes" in told
    assert Tally(judged=100, alarms=40).too_many_text(AlarmRate.parse("1/day"), 100) == ""
    assert Tally(judged=5, alarms=4).too_many_text(rate, 100) == "", "few are looked at one by one"
    rng = np.random.default_rng(0)
    said = 0
    for _ in range(1000):
        threshold = np.sort(rng.random(19))[-1]
        alarms = int((rng.random(200) > threshold).sum())
        said += bool(Tally(judged=200, alarms=alarms).too_many_text(rate, calibration=19))
    assert said < 40, "whatever the calibration"


def test_what_cannot_be_promised_is_said_with_what_can() -> None:
    promise = Promise(AlarmRate.parse("1/day"), recordings=20, stretch_seconds=10.0)
    assert not promise.kept
    assert promise.least_per_hour == pytest.approx(360 / 21)
    (line,) = shortfalls({"00": promise, "02": promise, "04": replace(promise, recordings=8639)})
    assert line.startswith("id 00, 02: 1/day cannot be promised by 20 calibration recordings of 10 s")
    assert "--alarm-rate 17.2/hour" in line
    assert "8,639 normal recordings, 24 hours" in line
    assert replace(promise, rate=AlarmRate.parse("17.2/hour")).kept, "what it says can be asked for"
    assert replace(promise, recordings=8639).kept
    assert not replace(promise, recordings=8638).kept


# ---- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [64, 65, 127, 128, 129, 313, 18_750])
@pytest.mark.parametrize("count", [1, 4, 10])
def test_windows_cover_every_frame(length: int, count: int) -> None:
    starts_RP = covering_passes(length, count, 64)
    assert starts_RP.shape[1] == count
    assert len(starts_RP) == -(-length // (64 * count)), "no more passes than it takes"
    heard = np.zeros(length, dtype=bool)
    for start in starts_RP.ravel().tolist():
        assert start + 64 <= length
        heard[start : start + 64] = True
    assert heard.all()


def test_a_stretch_scores_the_mean_of_its_passes() -> None:
    passes = choose_windows(np.array([0, 64, 264, 364]), Windows.ALL, count=2, stride=16, patch_frames=64)
    assert passes.owners_X.tolist() == [0, 1, 1, 2]
    assert passes.starts_XP.tolist() == [[0, 0], [64, 154], [109, 200], [264, 300]]
    assert passes.means(np.array([[1.0, 2.0, 4.0, 8.0]])).tolist() == [[1.0, 3.0, 8.0]]


def test_density_models_are_fitted_to_one_pass_of_each_stretch_by_turns() -> None:
    offsets = 200 * np.arange(7)
    offsets[-1] -= 100  # the last stretch is short enough for one pass
    passes = choose_windows(offsets, Windows.ALL, count=2, stride=16, patch_frames=64)
    one_each = passes.one_each()
    assert one_each.owners_X.tolist() == list(range(6))
    within = one_each.starts_XP - torch.from_numpy(offsets[:-1])[:, None]
    assert within.tolist() == [[0, 90], [0, 90], [45, 136], [45, 136], [0, 90], [0, 36]]


def test_a_search_scores_windows_at_the_stride_or_those_that_a_detector_is_fitted_to() -> None:
    offsets = 200 * np.arange(7)
    windows = {"count": 2, "stride": 16, "patch_frames": 64}
    fitted = choose_windows(offsets, Windows.ALL, **windows).one_each()
    assert torch.equal(scored_starts(offsets, "cover", **windows), fitted.starts_XP)
    at_stride = scored_starts(offsets, "stride", **windows) - torch.from_numpy(offsets[:-1])[:, None]
    assert at_stride.tolist() == [[0, 128]] * 6


# ---- how a recording was recorded ------------------------------------------------------------------------------------

NORMAL = Storage(rate=16_000, channels=1, bits=16, seconds=10, peak=0.5, clipped=0.0, level=-55.0)


@pytest.mark.parametrize(
    ("changed", "frames", "status"),
    [
        ({}, 313, Status.OK),
        ({"rate": 48_000}, 313, Status.OK),
        ({"rate": float("nan")}, 313, Status.OK),
        ({"level": -79.0}, 313, Status.OK),
        ({"level": -81.0}, 313, Status.QUIET),
        ({"rate": 8_000}, 313, Status.OTHER_RATE),
        ({"clipped": 0.02}, 313, Status.CLIPPED),
        ({"level": -81.0}, 149, Status.SHORT),
    ],
)
def test_statuses(changed: dict[str, float], frames: int, status: Status) -> None:
    assert Limits(16_000).status(replace(NORMAL, **changed), frames, CALIBRATION) is status


def test_only_what_can_be_compared_is_judged() -> None:
    assert [status for status in Status if status.judged] == [Status.CLIPPED, Status.OK]


@pytest.mark.parametrize("windows", Windows)
def test_no_window_reaches_out_of_its_stretch(windows: Windows) -> None:
    with pytest.raises(DataError, match="a clip of 50 frames is shorter than the model's patches of 64"):
        choose_windows(np.array([0, 100, 150]), windows, count=4, stride=8, patch_frames=64)
