"""The trials that nothing beats in value, memory and time at once, and how well their time was predicted."""

import numpy as np
import pandas as pd

from trainable.record import TrialEnd
from trainable.units import counted

GOALS = ("final_auc", "predicted_bytes", "epoch_seconds")
"""Columns of `RunResults.trials`: the first is better if higher, the others if lower."""


def unbeaten(trials: pd.DataFrame) -> pd.DataFrame:
    """The completed trials that no other one beats, the highest value first.

    A trial beats another if it is at least as good in value, predicted memory and seconds an epoch, and better in one:
    values to three decimals, costs to two significant digits, since smaller differences are worth no choice.
    """
    if not len(trials):
        return trials
    completed = trials[trials["end"] == TrialEnd.COMPLETED.value].dropna(subset=list(GOALS))
    value, *costs = (completed[name].to_numpy(dtype=float) for name in GOALS)
    costs_NG = np.stack([-value.round(3), *map(_two_digits, costs)], axis=1)
    return completed[~beaten(costs_NG)].sort_values("final_auc", ascending=False)


def beaten(costs_NG: np.ndarray) -> np.ndarray:
    """Which of N points another one beats in its G costs (lower is better): no worse in any, and better in one."""
    no_worse_NN = (costs_NG[:, None] <= costs_NG[None]).all(axis=-1)
    better_NN = (costs_NG[:, None] < costs_NG[None]).any(axis=-1)
    return np.asarray((no_worse_NN & better_NN).any(axis=0))


def _two_digits(costs: np.ndarray) -> np.ndarray:
    return np.array([float(f"{cost:.2g}") for cost in costs])


def front_text(trials: pd.DataFrame, measure: str) -> str:
    """One line for a terminal; empty where no trial has completed."""
    numbers = [str(number) for number in sorted(unbeaten(trials).index)]
    if not numbers:
        return ""
    if len(numbers) == 1:
        return f"Trial {numbers[0]} is the best completed one in {measure}, memory and time at once."
    return (
        f"No other completed trial is better in {measure}, memory and time at once than one of the trials "
        f"{', '.join(numbers[:-1])} and {numbers[-1]}; the report shows what each costs."
    )


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
