"""A detector beside the yardsticks: same clips, paired resamples, words that say who detects more."""

import json

import numpy as np
import pytest

from trainable.config import TrialConfig
from trainable.data.clips import ClipSet
from trainable.data.load import Dataset
from trainable.errors import DataError
from trainable.scoring.clip_counts import ClipCounts
from trainable.scoring.evaluate import evaluate
from trainable.scoring.metrics import bootstrap_aucs, percentile_interval
from trainable.yardsticks.comparison import NOT_MEASURED, Comparison, compare
from trainable.yardsticks.log_mel import LogMelMahalanobis

CONFIG = TrialConfig.from_flat({"n_patches": 4})
AUCS = {"log_mel_mahalanobis": 0.849, "twfr": 0.87, "pca_codes": 0.775}


BEST = "the best of which (TWFR + Gaussian) has an AUC of 0.870 on the same held-out clips"


@pytest.mark.parametrize(
    ("auc", "interval", "words"),
    [
        (0.92, (0.01, 0.09), f"beats the yardsticks, {BEST} (difference +0.050, 95 % interval +0.010 … +0.090)"),
        (
            0.88,
            (-0.02, 0.04),
            f"does not beat the yardsticks, {BEST} (difference +0.010, 95 % interval -0.020 … +0.040): "
            "these clips cannot tell which detects more",
        ),
        (
            0.80,
            (-0.11, -0.03),
            f"does not beat the yardsticks, {BEST} (difference -0.070, 95 % interval -0.110 … -0.030): it detects less",
        ),
    ],
)
def test_what_is_said_of_a_detector(auc: float, interval: tuple[float, float], words: str) -> None:
    comparison = Comparison(AUCS, auc, interval)
    assert comparison.best == "twfr"
    assert comparison.beaten == (interval[0] > 0)
    assert comparison.verdict == words


@pytest.mark.parametrize("interval", [(0.01, 0.09), (-0.09, -0.01)])
def test_few_clips_tell_no_difference(interval: tuple[float, float]) -> None:
    comparison = Comparison(AUCS, 0.92, interval, ClipCounts(3, 80))
    assert not comparison.beaten
    assert comparison.verdict == (
        f"may or may not beat the yardsticks, {BEST} (difference +0.050): "
        "too few clips to tell, 3 normal, 80 anomalous clips"
    )
    assert comparison.to_dict()["beats_yardsticks"] is None
    assert Comparison(AUCS, 0.92, interval, ClipCounts(10, 10)).beaten == (interval[0] > 0)


def test_a_summary_gives_back_what_was_written() -> None:
    comparison = Comparison(AUCS, 0.92, (0.01, 0.09))
    saved = {"held_out_auc": 0.92, **comparison.to_dict()}
    assert saved["beats_yardsticks"] is True
    assert Comparison.from_dict(json.loads(json.dumps(saved))) == comparison
    counted = Comparison(AUCS, 0.92, (0.01, 0.09), ClipCounts(80, 60))
    saved["held_out_clips"] = {"normal": 80, "anomalous": 60}
    assert Comparison.from_dict(json.loads(json.dumps(saved))) == counted


@pytest.mark.parametrize("best", [{}, {"held_out_auc": 0.9}, {"held_out_auc": 0.9, **NOT_MEASURED}])
def test_a_summary_without_yardsticks_has_no_comparison(best: dict[str, object]) -> None:
    assert Comparison.from_dict(best) is None


def test_differences_are_paired_with_the_best_yardstick_on_the_same_clips(tiny_dataset: Dataset) -> None:
    clips = tiny_dataset.held_out
    scores = np.random.default_rng(0).standard_normal(len(clips)) + clips.labels
    comparison = compare(CONFIG, tiny_dataset, evaluate(scores, clips))
    assert comparison is not None
    assert list(comparison.aucs) == ["log_mel_mahalanobis", "twfr", "pca_codes"]
    alone = LogMelMahalanobis().fit(tiny_dataset.train).score_samples(clips)
    assert comparison.aucs["log_mel_mahalanobis"] == evaluate(alone, clips).auc
    assert comparison.clips == ClipCounts.of(clips.labels)
    assert comparison == compare(CONFIG, tiny_dataset, evaluate(scores, clips)), "the same every time"


def test_a_detector_that_is_a_yardstick_does_not_beat_itself(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainable.yardsticks.comparison.CHEAP", (LogMelMahalanobis,))
    clips = tiny_dataset.held_out
    scores = LogMelMahalanobis().fit(tiny_dataset.train).score_samples(clips)
    comparison = compare(CONFIG, tiny_dataset, evaluate(scores, clips))
    assert comparison is not None
    assert comparison.gain_interval == (0.0, 0.0)
    assert not comparison.beaten
    perfect = clips.labels.astype(np.float64)
    expected = percentile_interval(1 - bootstrap_aucs(clips.labels, scores, clips.machine_ids))
    found = compare(CONFIG, tiny_dataset, evaluate(perfect, clips))
    assert found is not None
    assert found.gain_interval == pytest.approx(expected)


def test_a_yardstick_that_fails_is_a_warning(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: LogMelMahalanobis, clips: ClipSet) -> np.ndarray:
        raise DataError("no such clips")

    monkeypatch.setattr(LogMelMahalanobis, "score_samples", broken)
    scores = tiny_dataset.held_out.labels.astype(np.float64)
    assert compare(CONFIG, tiny_dataset, evaluate(scores, tiny_dataset.held_out)) is None
    assert "no yardsticks to compare with: log_mel_mahalanobis: no such clips" in caplog.text
