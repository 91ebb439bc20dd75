"""From scores to p-values, and from p-values to a verdict: the one place that knows how."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

QUIETER_DB = 20.0
"""A recording this much quieter than every normal one is not judged."""
CLIPPED_SHARE = 0.01
"""Of a recording's samples at full scale: up to this it is as good as any."""
UNIT_SECONDS = {"minute": 60.0, "hour": 3600.0, "day": 86_400.0, "week": 604_800.0}
_RATE = re.compile(r"\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]{1,3})?)\s*(?:(%)|/\s*([a-z]+))?\s*")
_LEAST, _MOST = 1e-9, 1e9
_ROUNDING = 1 + 1e-9
"""A p-value that equals the asked rate but for its last digits alarms."""


@dataclass(frozen=True)
class Calibration:
    """Scores of normal recordings that no model was trained on."""

    centres_M: np.ndarray
    """Mean score of each pair of a model and a density model."""
    scales_M: np.ndarray
    scores_N: np.ndarray
    """Scores of normal stretches, ascending."""
    weights_N: np.ndarray
    """Share that each has in its recording."""
    shortest_frames: int | None
    """Of the shortest of these recordings; None = not known."""
    lowest_level_db: float | None
    """Mean log-mel of the quietest."""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Calibration":
        """Reads an entry of ``detector.json``."""
        scores_N = np.asarray(entry["scores"], dtype=np.float64)
        weights = entry.get("weights")
        weights_N = np.ones(len(scores_N)) if weights is None else np.asarray(weights, dtype=np.float64)
        if not 0 < len(scores_N) == len(weights_N) or len(entry["centres_M"]) != len(entry["scales_M"]):
            raise ValueError("a calibration whose lists are empty or differ in length")
        if not all(np.isfinite(scores_N)) or not min(*entry["scales_M"], *weights_N) > 0:
            raise ValueError("a calibration that holds no scores")
        return cls(
            np.asarray(entry["centres_M"], dtype=np.float64),
            np.asarray(entry["scales_M"], dtype=np.float64),
            scores_N,
            weights_N,
            entry.get("shortest_frames"),
            entry.get("lowest_level_db"),
        )

    def standardised(self, raw_M: np.ndarray) -> float:
        """A stretch's score: the mean of the pairs' scores, each in its own standard deviations."""
        return float(((raw_M - self.centres_M) / self.scales_M).mean())

    def promises(self, share: float) -> bool:
        """Whether so small a share of alarms can be promised: p-values begin at 1 / (recordings + 1)."""
        return 1 / (1 + round(float(self.weights_N.sum()), 9)) <= share * _ROUNDING

    def p_values(self, scores_S: np.ndarray) -> np.ndarray:
        """Conformal p-value of each stretch: share of normal recordings that score as high, counting itself."""
        # Rounded: a recording's k parts of 1/k are one recording.
        from_here_N = np.append(np.cumsum(self.weights_N[::-1])[::-1], 0.0).round(9)
        at_least_S = from_here_N[np.searchsorted(self.scores_N, scores_S, side="left")]
        return (1 + at_least_S) / (1 + from_here_N[0])


def combined_p(p_S: np.ndarray) -> float:
    """One p-value of a recording's stretches, by Simes (1986): the smallest of m / k times the k-th smallest."""
    return float((np.sort(p_S) * len(p_S) / np.arange(1, len(p_S) + 1)).min())


@dataclass(frozen=True)
class AlarmRate:
    """False alarms that may be: a share of normal recordings, or a number per time of normal sound."""

    number: float
    unit_seconds: float | None
    """Of the time; None for a share."""

    @classmethod
    def parse(cls, text: str) -> "AlarmRate":
        """The rate of ``0.05``, ``1%`` or ``2/day``. Raises ValueError for anything else."""
        found = _RATE.fullmatch(text.lower())
        number, percent, unit = ("", None, None) if found is None else found.groups()
        if found is None or (unit and unit not in UNIT_SECONDS):
            raise ValueError(f"{text[:40]!r} is no alarm rate; give one such as 0.01 or 1/day")
        value = float(number) / (100 if percent else 1)
        if not _LEAST <= value <= _MOST or (not unit and value >= 1):
            raise ValueError(
                f"{text[:40]!r} is no alarm rate; a share lies between {_LEAST:g} and 1, a number per time between "
                f"{_LEAST:g} and {_MOST:g}"
            )
        return cls(value, UNIT_SECONDS[unit] if unit else None)

    def share(self, seconds: float) -> float:
        """Share of normal stretches of so many seconds that may raise an alarm."""
        return self.number if self.unit_seconds is None else self.number * seconds / self.unit_seconds

    def alarms(self, p_S: np.ndarray, seconds: float) -> bool:
        """Whether a recording of so many seconds alarms, by the p-values of its stretches."""
        if self.unit_seconds is None:
            return combined_p(p_S) <= self.number * _ROUNDING
        return float(p_S.min()) <= self.share(seconds / len(p_S)) * _ROUNDING


def verdict_of(rate: AlarmRate | None, calibration: Calibration, scores_S: np.ndarray, seconds: float) -> str:
    """``anomaly``, ``normal``, or ``unknown`` where no rate was asked for or too few normal recordings are known."""
    if rate is None:
        return "unknown"
    if rate.alarms(calibration.p_values(scores_S), seconds):
        return "anomaly"
    return "unknown" if scores_S.max() > calibration.scores_N.max() else "normal"
