"""Which trained models a detector averages: pairs of a trial and a density model, by what judged the search.

The mean of several pairs detects more than the best of them, with labels (docs/search.md) and all the more without,
since what tells pseudo-anomalies apart need not tell faults apart (docs/no_labels.md). Standard library only, apart
from what the record needs.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from trainable.config import DensityName
from trainable.record import TrialEnd, TrialRecord, best_first
from trainable.units import counted

MEMBERS = 8
"""Pairs that a detector averages: more than fewer of them detect, and as much as more (docs/search.md)."""
LEADERS = 8
"""Trials whose pairs are ranked, those with the highest values; their checkpoints are kept."""
LEAST_SHARE = 0.25
"""Share of its epochs that a trial must have trained for its pairs to be ranked, stopped or not (docs/search.md)."""
COMPETING_ENDS = frozenset({TrialEnd.COMPLETED, TrialEnd.PRUNED})
"""Endings of trials whose pairs are ranked."""
FEW_TRIALS = 5
"""Trials below which the pairs are hardly a choice."""
SATURATED_AUC, SATURATED_SHARE = 0.98, 0.25
"""A family that more than this share of the trials hears at this AUC no longer ranks them."""


@dataclass(frozen=True)
class Pair:
    """One density model on one training."""

    trial: int
    density: DensityName
    pseudo_auc: float | None
    """Mean over the families; None where only labels judge."""
    auc_by_family: dict[str, float]
    validation_auc: float | None
    """None where no label judges."""
    rank: float
    """Mean of its ranks among all pairs, from 1."""


def rank_pairs(records: Iterable[TrialRecord]) -> list[Pair]:
    """Every pair of a trial that competes (`competing`) and a density model of its last epoch, the best first.

    Each family ranks all pairs by its AUC, equal ones sharing their mean rank; the mean of the ranks orders them. A
    mean of AUCs would let the family decide on which trials differ most. Where labels judge too, their rank and the
    families' mean rank count equally.
    """
    last = {record.number: record.epochs[-1] for record in competing(records)}
    keys = [
        (number, density)
        for number, report in last.items()
        for density in (report.pseudo_auc_by_density or report.auc_by_density)
    ]
    pseudo = [last[number].pseudo_auc_by_density.get(density, {}) for number, density in keys]
    labelled = [last[number].auc_by_density.get(density) for number, density in keys]
    by_family = [
        _ranks([aucs[family] for aucs in pseudo]) for family in sorted({name for aucs in pseudo for name in aucs})
    ]
    by_labels = _ranks([auc for auc in labelled if auc is not None])
    judges = [[fmean(ranks) for ranks in zip(*by_family, strict=True)]] if by_family else []
    judges += [by_labels] if by_labels and len(by_labels) == len(keys) else []
    pairs = [
        Pair(number, density, fmean(aucs.values()) if aucs else None, dict(aucs), auc, fmean(ranks))
        for (number, density), aucs, auc, ranks in zip(keys, pseudo, labelled, zip(*judges, strict=True), strict=True)
    ]
    return sorted(pairs, key=lambda pair: (pair.rank, pair.trial, pair.density))


def choose_members(records: Iterable[TrialRecord], count: int = MEMBERS) -> list[Pair]:
    """The best `count` pairs of the best `LEADERS` trials; fewer where there are fewer."""
    best = sorted(competing(records), key=lambda record: best_first(record.epochs[-1].value, record.number))
    return rank_pairs(best[:LEADERS])[:count]


def least_epochs(max_epochs: int) -> int:
    """Epochs that a trial of so many must have trained for its pairs to be ranked."""
    return math.ceil(LEAST_SHARE * max_epochs)


def competing(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that did not fail and trained long enough, stopped by ASHA or not, whose reports are there."""
    return [
        each
        for each in records
        if each.outcome is not None
        and each.epochs
        and each.outcome.end in COMPETING_ENDS
        and each.outcome.epochs >= least_epochs(each.start.config.phase.epochs)
    ]


def ranking_warnings(records: Iterable[TrialRecord]) -> list[str]:
    """What makes the choice worth less, one sentence each."""
    trials = [each for each in competing(records) if each.epochs[-1].pseudo_auc_by_density]
    warnings = []
    if len(trials) < FEW_TRIALS:
        warnings.append(
            f"only {counted(len(trials), 'trial')} trained long enough to be ranked; the best of fewer than "
            f"{FEW_TRIALS} is hardly a choice: search more"
        )
    aucs: dict[str, list[float]] = {}
    for trial in trials:
        for family, auc in trial.epochs[-1].pseudo_auc_by_density[trial.start.config.score.density].items():
            aucs.setdefault(family, []).append(auc)
    for family, values in aucs.items():
        share = sum(value >= SATURATED_AUC for value in values) / len(values)
        if share > SATURATED_SHARE:
            warnings.append(
                f"{share:.0%} of the trials hear {family} with an AUC of {SATURATED_AUC} or more: on these "
                "recordings it hardly ranks them"
            )
    return warnings


def _ranks(values: list[float]) -> list[float]:
    """Rank of each value, 1 for the highest; equal values share the mean of their ranks."""
    ordered = sorted(values, reverse=True)
    first: dict[float, int] = {}
    count: dict[float, int] = {}
    for place, value in enumerate(ordered, start=1):
        first.setdefault(value, place)
        count[value] = count.get(value, 0) + 1
    return [first[value] + (count[value] - 1) / 2 for value in values]
