"""Differences of measurements that were made with the same seeds."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student


def difference(values: Sequence[float], base: Sequence[float]) -> str:
    """Formats the mean of paired differences with its 95 % interval."""
    gaps = np.array(values) - np.array(base)
    if len(gaps) < 2:
        return f"{gaps.mean():+.3f}"
    half = student.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return f"{gaps.mean():+.3f} ± {half:.3f}"
