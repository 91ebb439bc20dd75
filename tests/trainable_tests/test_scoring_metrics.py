"""AUC and pAUC against scikit-learn's and by hand; intervals; the evaluation protocol."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from trainable.config import ScoreConfig
from trainable.data.clips import Split, TestClips
from trainable.errors import DataError, NonFiniteError
from trainable.scoring.codes import ClipCodes
from trainable.scoring.combined import Combined
from trainable.scoring.evaluate import all_scores, evaluate, evaluate_codes, fitted_densities, report_scores
from trainable.scoring.mahalanobis import Mahalanobis
from trainable.scoring.metrics import (
    auc,
    auc_interval,
    bootstrap_aucs,
    mean_auc,
    pauc,
    percentile_interval,
    score_interval,
)
from trainable.scoring.neighbours import ShiftedNeighbours
from trainable.scoring.registry import cheap_densities, make_density

LABELS = np.array([0, 0, 1, 1, 0, 1, 0, 1])
IDS = ("00", "00", "00", "00", "02", "02", "02", "02")


def labelled_clips(ids: tuple[str, ...], labels: np.ndarray) -> TestClips:
    n = len(ids)
    return TestClips(
        frames_TF=np.zeros((64 * n, 64), np.float32),
        offsets=64 * np.arange(n + 1, dtype=np.int64),
        machine_ids=ids,
        names=tuple(f"{('normal', 'anomaly')[labels[i]]}_id_{ids[i]}_{i:08d}.wav" for i in range(n)),
        split=Split.VALIDATION,
        labels=labels,
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=60),  # few values: many ties
    st.integers(0, 2**32 - 1),
)
def test_both_equal_scikit_learn_s(values: list[int], seed: int) -> None:
    scores = np.array(values, dtype=float)
    labels = np.random.default_rng(seed).integers(0, 2, len(scores))
    labels[:2] = 0, 1
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert pauc(labels, scores) == pytest.approx(roc_auc_score(labels, scores, max_fpr=0.1), abs=1e-12)


def test_auc_by_hand() -> None:
    # Anomalies 3 and 1 against normals 2 and 1: wins 2 + (0 + ½) of 4.
    assert auc(np.array([1, 1, 0, 0]), np.array([3.0, 1.0, 2.0, 1.0])) == 2.5 / 4


def test_pauc_by_hand() -> None:
    """20 normals, 4 anomalies, of which 2 are above all normals: area 0.05 of 0.1, standardised."""
    labels = np.repeat([0, 1], [20, 4])
    scores = np.concatenate([np.arange(20.0), [30.0, 31.0, -1.0, -2.0]])
    area, least, most = 0.5 * 0.1, 0.1**2 / 2, 0.1
    assert pauc(labels, scores) == pytest.approx(0.5 * (1 + (area - least) / (most - least)))


def test_mean_is_over_ids_and_not_over_clips() -> None:
    scores = np.array([0.0, 1.0, 2.0, 3.0, 5.0, 1.0, 6.0, 2.0])
    assert mean_auc(LABELS, scores, IDS) == 0.5  # 1 for id 00, 0 for id 02
    # A constant added to one id's scores changes nothing.
    assert mean_auc(LABELS, scores + np.repeat([0, 100], 4), IDS) == 0.5


@pytest.mark.parametrize("label", [0, 1])
def test_an_id_of_one_label_is_a_data_error(label: int) -> None:
    labels = LABELS.copy()
    labels[4:] = label
    with pytest.raises(DataError, match="machine id 02 has test clips of one label only"):
        mean_auc(labels, np.arange(8.0), IDS)
    with pytest.raises(DataError, match="machine id 02"):
        evaluate(np.arange(8.0), labelled_clips(IDS, labels))


def test_interval_holds_the_auc_and_follows_its_seed() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile(np.repeat([0, 1], 50), 4)
    ids = tuple(np.repeat(["00", "02", "04", "06"], 100).tolist())
    scores = rng.standard_normal(400) + labels
    interval = auc_interval(labels, scores, ids, seed=3, resamples=300)
    assert interval == auc_interval(labels, scores, ids, seed=3, resamples=300)
    assert interval != auc_interval(labels, scores, ids, seed=4, resamples=300)
    low, high = interval
    assert low < mean_auc(labels, scores, ids) < high
    # Standard error of an AUC of 0.76 with 50 + 50 clips (Hanley and McNeil 1982) is 0.048; of four averaged, 0.024.
    assert high - low == pytest.approx(4 * 0.024, rel=0.15)


def test_resamples_are_those_of_drawing_clip_by_clip() -> None:
    """The weights of win counts give the same spread as drawing clips and computing AUC anew."""
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 20)
    scores = np.round(rng.standard_normal(40) + labels, 1)
    low, high = percentile_interval(bootstrap_aucs(labels, scores, ("00",) * 40, resamples=4000))
    drawn = [
        roc_auc_score(labels, np.concatenate([rng.choice(scores[:20], 20), rng.choice(scores[20:], 20)]))
        for _ in range(1000)
    ]
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.02)


def test_an_interval_is_the_central_share_of_1000_resamples() -> None:
    assert percentile_interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert percentile_interval(np.arange(101.0), 0.5) == pytest.approx((25.0, 75.0))
    scores = np.array([0.0, 2.0, 1.0, 3.0, 0.0, 1.0, 2.0, 1.0])
    assert bootstrap_aucs(LABELS, scores, IDS).shape == (1000,)
    drawn = bootstrap_aucs(LABELS, scores, IDS, seed=2, resamples=300)
    bootstrap = np.quantile(drawn, [0.1, 0.9])
    score = score_interval(mean_auc(LABELS, scores, IDS), np.array([2, 2]), np.array([2, 2]), coverage=0.8)
    both = auc_interval(LABELS, scores, IDS, seed=2, resamples=300, coverage=0.8)
    assert both == pytest.approx((min(bootstrap[0], score[0]), max(bootstrap[1], score[1])))


def test_resamples_of_equal_scores_are_chance() -> None:
    np.testing.assert_allclose(bootstrap_aucs(LABELS, np.ones(8), IDS), 0.5)


Z = 1.959963984540054


@pytest.mark.parametrize("ids", [1, 4])
def test_one_pair_of_clips_an_id_is_a_coin(ids: int) -> None:
    """An AUC of one pair is 0 or 1, so their mean is a proportion: Wilson's interval, at 1 from 1 / (1 + z²/n)."""
    one = np.ones(ids)
    for mean in (0.0, 0.25, 0.75, 1.0):
        centre, half = mean + Z**2 / (2 * ids), Z * np.sqrt(mean * (1 - mean) / ids + (Z / (2 * ids)) ** 2)
        wilson = np.array([centre - half, centre + half]) / (1 + Z**2 / ids)
        assert score_interval(mean, one, one) == pytest.approx(tuple(wilson), abs=1e-9)
    labels, names = np.tile([0, 1], ids), tuple(np.repeat([f"{each:02d}" for each in range(ids)], 2).tolist())
    assert auc_interval(labels, labels.astype(float), names) == pytest.approx((1 / (1 + Z**2 / ids), 1.0))
    assert auc_interval(labels, 1.0 - labels, names) == pytest.approx((0.0, 1 - 1 / (1 + Z**2 / ids)))


def test_more_clips_or_ids_say_more_of_a_perfect_detector() -> None:
    lows = [score_interval(1.0, np.full(ids, n), np.full(ids, n))[0] for ids in (1, 4) for n in (1, 2, 10, 100)]
    assert lows[:4] == sorted(lows[:4])
    assert lows[4:] == sorted(lows[4:])
    assert all(four > one for one, four in zip(lows[:4], lows[4:], strict=True))
    assert lows[3] > 0.97


def test_the_limits_are_where_their_own_variance_puts_them() -> None:
    """Worked for 4 + 2 clips: z² V(θ) is the squared distance; swapping the classes or the scale changes nothing."""
    low, high = score_interval(0.75, np.array([2]), np.array([4]))
    for limit in (low, high):
        pair = limit * (1 - limit)
        exponential = pair * (1 + 2 * ((1 - limit) / (2 - limit) + limit / (1 + limit))) / 8
        assert (0.75 - limit) ** 2 == pytest.approx(Z**2 * (0.6 * pair / 2 + 0.4 * exponential), abs=1e-9)
    assert score_interval(0.75, np.array([4]), np.array([2])) == (low, high)
    assert score_interval(0.25, np.array([2]), np.array([4])) == pytest.approx((1 - high, 1 - low))


def test_with_many_clips_the_interval_is_nearly_the_bootstrap_s() -> None:
    rng = np.random.default_rng(5)
    labels = np.tile(np.repeat([0, 1], 125), 4)
    ids = tuple(np.repeat(["00", "02", "04", "06"], 250).tolist())
    scores = rng.standard_normal(1000) + 1.8 * labels
    bootstrap = percentile_interval(bootstrap_aucs(labels, scores, ids))
    interval = auc_interval(labels, scores, ids)
    assert interval == pytest.approx(bootstrap, abs=0.004)
    assert interval[0] <= bootstrap[0] < bootstrap[1] <= interval[1]


def test_evaluation_keeps_names_scores_and_ids_together() -> None:
    clips = labelled_clips(IDS, LABELS)
    evaluation = evaluate(np.array([0.0, 1.0, 2.0, 3.0, 5.0, 1.0, 6.0, 2.0]), clips)
    assert evaluation.auc_by_id == {"00": 1.0, "02": 0.0}
    assert evaluation.auc == 0.5
    assert evaluation.pauc == pytest.approx(np.mean(list(evaluation.pauc_by_id.values())))
    assert evaluation.pauc_by_id == {"00": 1.0, "02": pytest.approx(0.5 * (1 - 0.005 / 0.095))}
    assert evaluation.names == clips.names
    assert evaluation.machine_ids == IDS
    np.testing.assert_array_equal(evaluation.labels, LABELS)
    np.testing.assert_array_equal(evaluation.scores, [0.0, 1.0, 2.0, 3.0, 5.0, 1.0, 6.0, 2.0])
    assert evaluation.interval[0] <= evaluation.auc <= evaluation.interval[1]
    assert (evaluation.clips.normal, evaluation.clips.anomalous) == (4, 4)
    assert evaluation.text.endswith("; 4 normal, 4 anomalous clips)")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_no_number_ends_the_trial(value: float) -> None:
    scores = np.arange(8.0)
    scores[3] = value
    with pytest.raises(NonFiniteError):
        evaluate(scores, labelled_clips(IDS, LABELS))


def random_codes(n_clips: int, ids: tuple[str, ...], split: Split, *, seed: int, highest: int = 8) -> ClipCodes:
    codes = torch.randint(highest, (n_clips, 2, 8, 8, 1), generator=torch.Generator().manual_seed(seed))
    return ClipCodes(codes, torch.zeros(n_clips, 2, dtype=torch.int64), ids, split)


class Expensive(Combined):
    """A combination with a member that no epoch reports alone."""

    name = "expensive"  # type: ignore[assignment]
    kinds = (Mahalanobis, ShiftedNeighbours)


def test_a_combination_of_models_that_are_not_reported_scores_by_itself() -> None:
    ids = ("00", "02") * 10
    train = random_codes(20, ids, Split.TRAIN, seed=0)
    test = random_codes(20, ids, Split.VALIDATION, seed=1)
    codebook_KD = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    own = Expensive(ScoreConfig()).fit(train, codebook_KD)
    densities = fitted_densities(ScoreConfig(), train, codebook_KD, seed=0) | {own.name: own}
    np.testing.assert_array_equal(all_scores(densities, test)[own.name], own.score_samples(test))


def test_one_pass_reports_the_configured_model_and_every_cheap_one() -> None:
    ids = tuple(f"0{2 * (index % 2)}" for index in range(20))
    train = random_codes(20, ids, Split.TRAIN, seed=0)
    labels = np.repeat([0, 1], 10)
    test = random_codes(20, ids, Split.VALIDATION, seed=1)
    test.codes_BPHWM[10:] += 4
    clips = labelled_clips(ids, labels)
    codebook_KD = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    config = ScoreConfig(density="histogram_neighbours")
    comparison = {"reconstruction_error": labels.astype(float), "quantization_error": -labels.astype(float)}
    densities = fitted_densities(config, train, codebook_KD, seed=0)
    report = report_scores(densities, config.density, labelled=(test, clips), pseudo=None, comparison=comparison)
    assert report.evaluation is not None
    assert report.pseudo_auc_by_density == {}
    assert set(report.auc_by_density) == set(cheap_densities())
    assert report.auc_by_density["histogram_neighbours"] == report.evaluation.auc
    assert report.comparison_auc == {"reconstruction_error": 1.0, "quantization_error": 0.0}
    alone = evaluate_codes(config, train, test, clips, codebook_KD, seed=0)
    np.testing.assert_array_equal(alone.scores, report.evaluation.scores)
    for name, reported in report.auc_by_density.items():
        only = make_density(config, name=name, seed=0).fit(train, codebook_KD)  # type: ignore[arg-type]
        assert reported == pytest.approx(mean_auc(labels, only.score_samples(test), ids)), name
    assert report.auc_by_density["counts"] > 0.9, "half of an anomalous clip's codes were never heard"
