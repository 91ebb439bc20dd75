"""How many faults a detector finds at a rate of false alarms fixed beforehand: what an AUC means in practice."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import floor
from statistics import NormalDist
from typing import Any

import numpy as np

from trainable.scoring.metrics import groups_by_id, percentile_interval

RATES = (0.01, 0.05, 0.1)
"""Rates of false alarms, the lowest first; the first for which there are enough normal clips is used."""
FALSE_ALARMS = 2
"""Normal clips of each machine id that must be expected above its threshold: one alone would set it by chance."""
RESAMPLES = 1000


@dataclass(frozen=True)
class FaultsFound:
    """The share of anomalous clips that raise an alarm."""

    false_alarm_rate: float
    """The highest share of normal clips that may raise one, 0 … 1."""
    share: float
    """0 … 1."""
    interval: tuple[float, float]
    """95 % interval of `share`."""

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any] | None) -> "FaultsFound | None":
        """Reads an entry of a summary; None if it is missing, as in runs of earlier versions."""
        if saved is None:
            return None
        low, high = saved["interval"]
        return cls(saved["false_alarm_rate"], saved["share"], (low, high))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "interval": list(self.interval)}

    @property
    def text(self) -> str:
        """``about 8 of 10 faults (7 to 9) at one false alarm in 20 normal recordings``."""
        low, high = (10 * end for end in self.interval)
        found = f"about {10 * self.share:.0f} of 10 faults ({floor(low + 0.5)} to {floor(high + 0.5)})"
        return f"{found} at one false alarm in {1 / self.false_alarm_rate:.0f} normal recordings"


def faults_found(labels: np.ndarray, scores: np.ndarray, ids: tuple[str, ...]) -> FaultsFound | None:
    """The share of faults above thresholds that normal clips of the same machine id set; the mean over ids.

    A threshold is the conformal one: of n normal clips at most rate · (n + 1) − 1 lie at or above it, so that a further
    normal clip like them raises an alarm with at most that probability (Vovk, Gammerman and Shafer 2005). The interval
    redraws normal and anomalous clips, and is widened to hold Wilson's (1927) of the anomalous ones.

    Parameters
    ----------
    labels, scores, ids
        Per clip: 0 normal or 1 anomalous, score (higher = more anomalous), machine id.

    Returns
    -------
    FaultsFound
        None if a machine id has too few normal clips for the highest of `RATES`.
    """
    groups = [
        (scores[members][labels[members] == 0], scores[members][labels[members] == 1])
        for members in groups_by_id(ids, labels).values()
    ]
    fewest = min(len(normal) for normal, _ in groups)
    rate = next((rate for rate in RATES if rate * (fewest + 1) >= FALSE_ALARMS), None)
    if rate is None:
        return None
    share = float(np.mean([_share(normal, anomalous, rate) for normal, anomalous in groups]))
    rng = np.random.default_rng(0)
    drawn = [
        float(np.mean([_share(rng.choice(n, len(n)), rng.choice(a, len(a)), rate) for n, a in groups]))
        for _ in range(RESAMPLES)
    ]
    bootstrap = percentile_interval(np.array(drawn))
    wilson = _wilson(share, sum(len(anomalous) for _, anomalous in groups))
    return FaultsFound(rate, share, (min(bootstrap[0], wilson[0]), max(bootstrap[1], wilson[1])))


def _share(normal: np.ndarray, anomalous: np.ndarray, rate: float) -> float:
    """Share of anomalous scores above the threshold that the normal scores set."""
    # An alarm needs (1 + normal scores at or above) / (n + 1) <= rate.
    allowed = floor(rate * (len(normal) + 1) + 1e-9) - 1
    threshold = np.sort(normal)[-1 - allowed]
    return float((anomalous > threshold).mean())


def _wilson(share: float, count: int, coverage: float = 0.95) -> tuple[float, float]:
    z2 = NormalDist().inv_cdf((1 + coverage) / 2) ** 2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (z2 * (share * (1 - share) / count + z2 / (4 * count**2))) ** 0.5 / (1 + z2 / count)
    return centre - half, centre + half
