"""How severe a family's pseudo-anomalies are: such that a covariance of log-mel statistics hears them now and then.

Pseudo-anomalies that every training hears, or none, rank nothing. α is raised until log-mel Mahalanobis, fitted to the
clips that training sees, reaches the family's target AUC on the held-back clips. A family that it cannot hear has no
target, and one severity for all recordings.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainable.normal_only.families import Family

STEPS = 14
"""Severities tried, geometrically spaced."""


@dataclass(frozen=True)
class Severity:
    """The severity found for a family."""

    family: str
    alpha: float
    reference_auc: float
    """AUC of log-mel Mahalanobis at that severity, mean over machine ids."""
    reached: bool
    """Whether the family's target AUC was reached, if it has one; otherwise `alpha` is the largest."""


def find_severity(family: Family, reference_auc: Callable[[float], float]) -> Severity:
    """The severity at which the reference reaches the family's target, between two tried ones on the logarithm of α.

    Parameters
    ----------
    reference_auc
        The reference's AUC at a severity. Its running maximum counts: an AUC that falls again crosses once.
    """
    if family.target_auc is None:
        alpha = family.severities[1]
        return Severity(family.name, alpha, reference_auc(alpha), True)
    before, last = 0.0, 0.0
    best = 0.5
    for alpha in np.geomspace(*family.severities, STEPS).tolist():
        found = reference_auc(alpha)
        if found >= family.target_auc:
            if before == 0.0:  # the mildest is as audible as it is to be
                return Severity(family.name, alpha, found, True)
            share = (family.target_auc - best) / (found - best)
            alpha = float(before * (alpha / before) ** share)
            return Severity(family.name, alpha, reference_auc(alpha), True)
        before, last, best = alpha, found, max(best, found)
    return Severity(family.name, before, last, False)
