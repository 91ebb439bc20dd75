"""What more trials of a search are expected to bring, from what those before brought.

A search hands over its best `LEADERS` trials, so their mean value is what more trials raise. How much the last trials
raised it is known from the values alone: over all orders in which the trials might have come, it is the mean now less
the expected mean of as many fewer trials. If each trial is worth as much before it runs as any other, later ones raise
it less than earlier ones, since there is more to exceed: what the last trials brought is the most to expect of as many
new ones. A sampler that only now finds the good region may bring more.

Dodge et al. 2019, "Show Your Work", equation 4, and Tang et al. 2020, "Showing Your Work Doesn't Always Work", whose
estimator without replacement this is, of the best few in place of the best one.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import hypergeom

from trainable.detection.ranking import LEADERS

MORE = 10
"""Trials whose gain is told."""


def expected_gain(competing: Sequence[float], others: int, more: int = MORE) -> float | None:
    """The most that `more` further trials are expected to raise the mean value of the best `LEADERS`.

    Parameters
    ----------
    competing
        Values of the trials that may be among those best, stopped or not.
    others
        Number of trials that ended otherwise; they count as the lowest of the competing ones.

    Returns
    -------
    float or None
        At least 0; None while fewer than `LEADERS` compete, or would be left without `more` of the trials.
    """
    trials = len(competing) + others
    if len(competing) < LEADERS or trials - more < LEADERS:
        return None
    values = np.sort(np.array([*competing, *[min(competing)] * others]))[::-1]
    return float(max(0.0, values[:LEADERS].mean() - _expected_mean(values, trials - more)))


def gain_text(gain: float) -> str:
    """``10 more trials are expected to raise the mean value of the best 8 by at most 0.0042``."""
    return f"{MORE} more trials are expected to raise the mean value of the best {LEADERS} by at most {gain:.4f}"


def _expected_mean(values: np.ndarray, drawn: int) -> float:
    """Expected mean of the `LEADERS` highest among `drawn` of the values, which fall, drawn without replacement."""
    trials = len(values)
    higher = np.arange(trials)
    # A value counts if it is drawn and fewer than LEADERS of those above it are.
    counts = drawn / trials * hypergeom.cdf(LEADERS - 1, trials - 1, higher, drawn - 1)
    return float(values @ counts / LEADERS)
