"""AUC and partial AUC as DCASE 2020 Task 2 computes them, and intervals that are honest for few clips."""

from statistics import NormalDist

import numpy as np
from sklearn.metrics import roc_auc_score

from trainable.errors import DataError

MAX_FPR = 0.1
"""The official evaluator's partial AUC: false-positive rates up to 0.1, standardised (McClish 1989)."""


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: P(anomaly scores higher than normal), ties counting half."""
    anomalous, normal = scores[labels == 1], scores[labels == 0]
    ordered = np.sort(normal)
    below = np.searchsorted(ordered, anomalous, side="left")
    not_above = np.searchsorted(ordered, anomalous, side="right")
    return float((below + not_above).mean() / (2 * len(normal)))


def pauc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Standardised partial AUC up to a false-positive rate of 0.1; 0.5 is chance."""
    return float(roc_auc_score(labels, scores, max_fpr=MAX_FPR))


def members_by_id(ids: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Indices of each machine id's clips."""
    names = np.array(ids)
    return {machine_id: np.flatnonzero(names == machine_id) for machine_id in sorted(set(ids))}


def groups_by_id(ids: tuple[str, ...], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Indices of each machine id's clips. Raises DataError if an id has only normal or only anomalous clips."""
    groups = members_by_id(ids)
    for machine_id, members in groups.items():
        if len(set(labels[members].tolist())) < 2:
            raise DataError(
                f"machine id {machine_id} has test clips of one label only; an AUC needs normal and anomalous"
            )
    return groups


def mean_auc(labels: np.ndarray, scores: np.ndarray, ids: tuple[str, ...]) -> float:
    """AUC per machine id, then averaged."""
    return float(np.mean([auc(labels[m], scores[m]) for m in groups_by_id(ids, labels).values()]))


def bootstrap_aucs(
    labels: np.ndarray, scores: np.ndarray, ids: tuple[str, ...], *, seed: int = 0, resamples: int = 1000
) -> np.ndarray:
    """Mean AUC over ids of each resample, clips redrawn within each machine id and label (Efron 1979).

    Float64 (resamples,). The same seed draws the same clips, so that two detectors' resamples may be compared in pairs.
    """
    rng = np.random.default_rng(seed)
    total = np.zeros(resamples)
    groups = groups_by_id(ids, labels)
    for members in groups.values():
        anomalous, normal = (scores[members][labels[members] == label] for label in (1, 0))
        wins = (anomalous[:, None] > normal) + 0.5 * (anomalous[:, None] == normal)
        # A resample is a weight for each clip; its AUC is the weighted mean of the same win matrix.
        weights = [
            rng.multinomial(len(part), np.full(len(part), 1 / len(part)), resamples) for part in (anomalous, normal)
        ]
        total += ((weights[0] @ wins) * weights[1]).sum(axis=1) / (len(anomalous) * len(normal))
    return total / len(groups)


def percentile_interval(values: np.ndarray, coverage: float = 0.95) -> tuple[float, float]:
    """The central `coverage` of values."""
    tail = (1 - coverage) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def auc_interval(
    labels: np.ndarray,
    scores: np.ndarray,
    ids: tuple[str, ...],
    *,
    seed: int = 0,
    resamples: int = 1000,
    coverage: float = 0.95,
) -> tuple[float, float]:
    """Interval of the mean AUC: percentiles of `bootstrap_aucs`, widened to hold the `score_interval`.

    Where classes are separated or small a bootstrap redraws what it has seen and is too short, down to a point at an
    AUC of 1; the other knows nothing of the scores but their AUC, and is honest there. With hundreds of clips they
    nearly agree. ``benchmarks/auc_intervals.py`` measures how often each holds the true AUC.
    """
    bootstrap = percentile_interval(bootstrap_aucs(labels, scores, ids, seed=seed, resamples=resamples), coverage)
    labels_by_id = [labels[members] for members in groups_by_id(ids, labels).values()]
    anomalous_I, normal_I = (np.array([(each == label).sum() for each in labels_by_id]) for label in (1, 0))
    score = score_interval(mean_auc(labels, scores, ids), anomalous_I, normal_I, coverage)
    return min(bootstrap[0], score[0]), max(bootstrap[1], score[1])


def score_interval(
    mean: float, anomalous_I: np.ndarray, normal_I: np.ndarray, coverage: float = 0.95
) -> tuple[float, float]:
    """The AUCs that a mean AUC is not too far from, each judged by the variance that it would have itself.

    The limits solve (mean − θ)² = z² · V(θ), as Wilson's do for a proportion and Newcombe's method 5 for one AUC
    (Newcombe 2006, Statistics in Medicine 25:559, of the methods for small samples that Feng et al. 2017, Statistical
    Methods in Medical Research 26:2603, compare). For the mean over ids V is that of the ids' AUCs, all θ, averaged;
    if they differ, their variance is less.

    Parameters
    ----------
    anomalous_I, normal_I
        Numbers of clips of each machine id.
    """
    z = NormalDist().inv_cdf((1 + coverage) / 2)

    def limit(end: float) -> float:
        outside, inside = end, mean
        for _ in range(BISECTIONS):
            middle = (outside + inside) / 2
            variance = _variance_by_id(middle, anomalous_I, normal_I).sum() / len(normal_I) ** 2
            if (mean - middle) ** 2 > z**2 * variance:
                outside = middle
            else:
                inside = middle
        return (outside + inside) / 2

    # At 0 and 1 the variance is 0, so that a mean of 0 or 1 is its own limit.
    return limit(0.0), limit(1.0)


SHAPE_CLIPS = 3
"""How many clips' worth the largest possible variance weighs beside the usual one: 3 bring every case of
``benchmarks/results/auc_intervals.csv`` with more than one clip of a kind to about 93 % or more."""
BISECTIONS = 40


def _variance_by_id(auc: float, anomalous_I: np.ndarray, normal_I: np.ndarray) -> np.ndarray:
    """Variance of each id's AUC if the true one is `auc`.

    That of exponential scores (Hanley and McNeil 1982) with Newcombe's symmetric weights. It is too small where
    anomalies scatter more than normal clips, as they do, and few clips cannot tell; so the less there are, the more it
    is drawn to the largest possible, auc · (1 − auc) / min(clips) (Birnbaum and Klose 1957).
    """
    pair, fewest_I, average_I = auc * (1 - auc), np.minimum(anomalous_I, normal_I), (anomalous_I + normal_I) / 2
    shared = (1 - auc) / (2 - auc) + auc / (1 + auc)
    exponential_I = pair * (1 + (average_I - 1) * shared) / (anomalous_I * normal_I)
    weight_I = SHAPE_CLIPS / (SHAPE_CLIPS + fewest_I)
    return weight_I * pair / fewest_I + (1 - weight_I) * exponential_I
