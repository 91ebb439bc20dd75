"""The trials that nothing beats in value, memory and time at once, and how well their time was predicted."""

import numpy as np
import pandas as pd

from trainable.record import TrialEnd
from trainable.units import counted

FRONT_ROWS = 12
"""Trials of the front that are listed, the highest value first; the rest are counted."""


def memory_cost(trials: pd.DataFrame) -> tuple[pd.Series, str]:
    """Peak bytes of each trial, and whether they are measured (if any trial used a GPU) or predicted."""
    if (trials["peak_bytes"] > 0).any():
        return trials["peak_bytes"].where(trials["peak_bytes"] > 0), "measured peak"
    return trials["predicted_bytes"].where(trials["predicted_bytes"] > 0), "predicted peak"


def unbeaten(trials: pd.DataFrame) -> pd.DataFrame:
    """The completed trials that no other one beats, the highest value first.

    A trial beats another if it is at least as good in value, memory and seconds an epoch, and better in one: values
    to three decimals, costs to two significant digits, since smaller differences are worth no choice. An unknown memory
    is worse than any that is known.
    """
    if not len(trials):
        return trials
    completed = trials[trials["end"] == TrialEnd.COMPLETED.value].dropna(subset=["final_auc", "epoch_seconds"])
    memory = memory_cost(trials)[0][completed.index].fillna(np.inf)
    costs_NG = np.stack(
        [-completed["final_auc"].round(3), _two_digits(memory), _two_digits(completed["epoch_seconds"])], axis=1
    )
    return completed[~beaten(costs_NG)].sort_values("final_auc", ascending=False)


def beaten(costs_NG: np.ndarray) -> np.ndarray:
    """Which of N points another one beats in its G costs (lower is better): no worse in any, and better in one.

    In sorted order no point beats an earlier one, so each is compared with the front of those before it only.
    """
    beaten_N = np.zeros(len(costs_NG), dtype=bool)
    front_NG, size = np.empty_like(costs_NG), 0
    for index in np.lexsort(costs_NG.T[::-1]):
        front_FG = front_NG[:size]
        no_worse_F = (front_FG <= costs_NG[index]).all(axis=1)
        beaten_N[index] = (front_FG[no_worse_F] < costs_NG[index]).any()
        if not beaten_N[index]:
            front_NG[size] = costs_NG[index]
            size += 1
    return beaten_N


def _two_digits(costs: pd.Series) -> np.ndarray:
    return np.array([float(f"{cost:.2g}") for cost in costs])


def front_text(trials: pd.DataFrame, measure: str) -> str:
    """One line for a terminal; empty where no trial has completed."""
    front = unbeaten(trials)
    numbers = [str(number) for number in sorted(front.index[:FRONT_ROWS])]
    if not numbers:
        return ""
    if len(numbers) == 1:
        return f"Trial {numbers[0]} is the best completed one in {measure}, memory and time at once."
    start = f"No other completed trial is better in {measure}, memory and time at once than one of"
    names = f"{', '.join(numbers[:-1])} and {numbers[-1]}"
    if len(front) > FRONT_ROWS:
        first = f"each of the first {FRONT_ROWS} by {measure}"
        return f"{start} {len(front):,}; the report shows what {first} costs: {names}."
    return f"{start} the trials {names}; the report shows what each costs."


def time_text(trials: pd.DataFrame) -> str:
    """How well predicted and measured seconds an epoch agree; empty where nothing was predicted."""
    both = trials[["predicted_epoch_seconds", "epoch_seconds"]].dropna() if len(trials) else trials
    if not len(both):
        return ""
    ratios = both["epoch_seconds"] / both["predicted_epoch_seconds"]
    parts = [f"measured ÷ predicted is {ratios.median():.2f} in the median"]
    if len(both) > 1:
        parts.append(f"{ratios.min():.2f} … {ratios.max():.2f}")
    if len(both) > 2 and (both.nunique() > 1).all():
        rank = both["predicted_epoch_seconds"].corr(both["epoch_seconds"], method="spearman")
        parts.append(f"rank correlation {rank:.2f}")
    return f"The time of an epoch was predicted for {counted(len(both), 'trial')} before it began: {', '.join(parts)}."
