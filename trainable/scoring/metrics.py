"""AUC and partial AUC as DCASE 2020 Task 2 computes them, and bootstrap intervals."""

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


def groups_by_id(ids: tuple[str, ...], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Indices of each machine id's clips. Raises DataError if an id has only normal or only anomalous clips."""
    names = np.array(ids)
    groups = {str(machine_id): np.flatnonzero(names == machine_id) for machine_id in sorted(set(ids))}
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


def bootstrap_interval(
    labels: np.ndarray,
    scores: np.ndarray,
    ids: tuple[str, ...],
    *,
    seed: int = 0,
    resamples: int = 1000,
    coverage: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of the mean AUC (see `bootstrap_aucs`)."""
    return percentile_interval(bootstrap_aucs(labels, scores, ids, seed=seed, resamples=resamples), coverage)
