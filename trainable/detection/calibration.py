"""Scores of normal recordings that no model was trained on, and the p-values that they give.

M pairs of a model and a density model, N stretches of calibration recordings, m stretches of a recording.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np

from trainable.detection.alarm import ROUNDING
from trainable.scoring.combined import smallest_scale
from trainable.typed import Count, Finite, Positive, Within

ENOUGH_CLIPS = 19
"""Calibration recordings of a machine id from which a p-value of 0.05 can be reached: 1/(n + 1)."""


@dataclass(frozen=True)
class Calibration:
    """What normal recordings of a machine id score."""

    centres_M: tuple[Finite, ...]
    """Mean score of each pair of a model and a density model."""
    scales_M: tuple[Positive, ...]
    scores: tuple[Finite, ...]
    """Ensemble scores of normal stretches (whole clips if none is longer than the training clips), ascending, each in
    centres and scales of the other clips; of all machine ids where this one has fewer than `ENOUGH_CLIPS`."""
    weights: tuple[Annotated[float, Within(above=0.0, high=1.0)], ...] | None = None
    """What each of the scores counts: 1/k of a recording of k stretches. None = 1 each, as before format 4."""
    shortest_frames: Count | None = None
    """Frames of the shortest of the id's recordings; None = not known, as before format 4."""
    lowest_level_db: Finite | None = None
    """Mean log-mel of the quietest of the id's recordings; None = not known, as before format 4."""

    def __post_init__(self) -> None:
        """Raises ValueError for what no calibration can be: a damaged detector would never alarm, or always."""
        weights = (1.0,) * len(self.scores) if self.weights is None else self.weights
        same = 0 < len(self.centres_M) == len(self.scales_M) and 0 < len(self.scores) == len(weights)
        finite = np.isfinite([*self.centres_M, *self.scales_M, *self.scores, *weights]).all()
        if not same or not finite or min([*self.scales_M, *weights]) <= 0 or list(self.scores) != sorted(self.scores):
            raise ValueError(
                "a calibration needs finite ascending scores, and a centre and a scale above 0 of each pair"
            )

    def standardise(self, raw_M: Sequence[float]) -> float:
        """The ensemble's score from the pairs' scores."""
        return float(np.mean([(r - c) / s for r, c, s in zip(raw_M, self.centres_M, self.scales_M, strict=True)]))

    @cached_property
    def recordings(self) -> float:
        """Recordings that the scores are of."""
        return float(self._weight_from[0])

    @cached_property
    def _weight_from(self) -> np.ndarray:
        """Sum of the weights of each score and those above it, and 0 behind the last, float64 (N + 1,)."""
        weights = np.ones(len(self.scores)) if self.weights is None else np.array(self.weights)
        # Rounded: a recording's k parts of 1/k are one recording.
        return np.append(np.cumsum(weights[::-1])[::-1], 0.0).round(9)

    @property
    def least_p(self) -> float:
        """The smallest p-value that any recording can get."""
        return 1.0 / (1.0 + self.recordings)

    @property
    def highest(self) -> float:
        """The highest score of a normal stretch."""
        return self.scores[-1]

    def stretch_p_values(self, scores_m: np.ndarray) -> np.ndarray:
        """Conformal p-value of each of some stretches, (1 + weight of the scores at least as high) / (1 + recordings).

        Valid for a stretch drawn from a recording that is as normal as the calibration recordings and recorded as they
        were, however alike the stretches of a recording are (Vovk et al. 2005; for recordings of several stretches Lee,
        Barber and Willett, "Distribution-free inference with hierarchical data", 2023, theorem 1); exact for one pair
        of a model and a density model.
        """
        above = self._weight_from[np.searchsorted(self.scores, scores_m, side="left")]
        return (1.0 + above) / (1.0 + self.recordings)

    def p_value(self, scores_m: Sequence[float]) -> float:
        """p-value of a recording from the scores of its stretches, `least_p` … 1.

        Of one stretch its conformal p-value, of several Simes' combination of theirs, see `simes`.
        """
        return simes(self.stretch_p_values(np.asarray(scores_m)))

    def threshold(self, share: float) -> float | None:
        """The score above which a stretch has a p-value of at most `share`; None if none is that small."""
        behind = np.searchsorted(self.scores, self.scores, side="right")
        p_above = (1.0 + self._weight_from[behind]) / (1.0 + self.recordings)
        small_enough = np.flatnonzero(p_above <= share * ROUNDING)
        return self.scores[small_enough[0]] if len(small_enough) else None


def simes(p_values_m: np.ndarray) -> float:
    """One p-value for all of m: min over k of m/k times the k-th smallest (R. J. Simes, Biometrika 73, 1986).

    A recording that is foreign throughout keeps the p-value of a single stretch, where all stretches are alike it is
    exact, and one foreign stretch among m costs a factor m, as it does by Bonferroni. It is valid if the p-values are
    positively dependent (Benjamini & Yekutieli 2001), as conformal p-values of one calibration set and independent
    stretches are (Bates, Candès, Lei, Romano & Sesia, "Testing for outliers with conformal p-values", 2023). That
    stretches of one recording are alike is not in that proof; whatever their dependence, p is at most
    1 + 1/2 + … + 1/m times too small (Hommel 1983), and `benchmarks.long_recordings` counts its false alarms.
    """
    ascending = np.sort(p_values_m)
    return float((ascending * len(ascending) / np.arange(1, len(ascending) + 1)).min())


def calibrated(raw_MN: np.ndarray, owners_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre and scale of each pair (M,), and the ensemble score of each stretch (N,) by those of the other clips.

    A stretch that helped to set its own centre and scale would score less than a new one. Of two clips, each alone has
    no scale: theirs are not left out.
    """
    scores_N = np.empty(raw_MN.shape[1])
    owners = np.unique(owners_N)
    for owner in owners:
        mine = owners_N == owner
        rest_MN = raw_MN[:, ~mine] if len(owners) > 2 else raw_MN
        centres, scales = _location(rest_MN)
        scores_N[mine] = ((raw_MN[:, mine] - centres[:, None]) / scales[:, None]).mean(axis=0)
    return *_location(raw_MN), scores_N


def _location(raw_MN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each pair's scores, (M,) each."""
    centres = raw_MN.mean(axis=1)
    return centres, np.maximum(raw_MN.std(axis=1), smallest_scale(centres))
