"""What judges a training: labelled clips, pseudo-anomalies, or both; chosen from what the recordings hold."""

from collections.abc import Mapping

from trainable.config import Objective, ObjectiveName
from trainable.normal_only.held_back import FEW

FEW_ANOMALIES = 6
"""Labelled anomalies of a machine id, half of them held out, below which labels alone choose worse than together with
pseudo-anomalies (docs/no_labels.md)."""


def choose_objective(
    asked: ObjectiveName, anomalies_by_id: Mapping[str, int], held_back_by_id: Mapping[str, int]
) -> Objective:
    """The objective that was asked for, or for ``auto`` what the recordings allow.

    Without labelled anomalies ``normal-only``; with fewer than `FEW_ANOMALIES` of some machine id ``both``, if enough
    clips of each id can be held back; otherwise ``labels``.

    Parameters
    ----------
    anomalies_by_id
        Labelled anomalies of each machine id that has an AUC.
    held_back_by_id
        Normal clips of each machine id that could be held back.
    """
    if asked != "auto":
        return Objective(asked)
    if not anomalies_by_id:
        return Objective.NORMAL_ONLY
    few = min(anomalies_by_id.values()) < FEW_ANOMALIES
    enough = bool(held_back_by_id) and min(held_back_by_id.values()) >= FEW
    return Objective.BOTH if few and enough else Objective.LABELS
