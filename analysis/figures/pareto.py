"""What detection costs: AUC against memory and against time, with the trials that nothing beats in both."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.style import BLACK, END_COLOURS, END_MARKERS, legend_below, message_figure, new_figure, styled
from trainable.units import GIB


def pareto_front(cost: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Which points no other point beats in both, bool (n,): lower cost and higher gain are better.

    Of points equal in both the first is kept.
    """
    order = np.lexsort((-gain, cost))
    front = np.zeros(len(cost), dtype=bool)
    best = -np.inf
    for index in order:
        if gain[index] > best:
            front[index] = True
            best = gain[index]
    return front


def memory_cost(trials: pd.DataFrame) -> tuple[pd.Series, str]:
    """Peak bytes of each trial and how they are known: measured where any GPU was, else predicted."""
    if (trials["peak_bytes"] > 0).any():
        return trials["peak_bytes"].where(trials["peak_bytes"] > 0), "measured peak"
    return trials["predicted_bytes"].where(trials["predicted_bytes"] > 0), "predicted peak"


@styled
def auc_against_memory(trials: pd.DataFrame, *, budget_bytes: int | None) -> Figure:
    """Validation AUC at the last epoch against peak GPU memory."""
    cost, how = memory_cost(trials)
    return _front(
        trials,
        cost / GIB,
        title="AUC against memory",
        xlabel=f"{how} of GPU memory (GiB)",
        limit=budget_bytes / GIB if budget_bytes else None,
        missing="No trial has a measured or predicted memory peak.",
    )


@styled
def auc_against_time(trials: pd.DataFrame) -> Figure:
    """Validation AUC at the last epoch against the median time of an epoch."""
    return _front(
        trials,
        trials["epoch_seconds"],
        title="AUC against time",
        xlabel="median seconds an epoch",
        limit=None,
        missing="No trial has finished an epoch yet.",
    )


def _front(
    trials: pd.DataFrame, cost: pd.Series, *, title: str, xlabel: str, limit: float | None, missing: str
) -> Figure:
    scored = trials.assign(cost=cost).dropna(subset=["final_auc", "cost"])
    if not len(scored):
        return message_figure(title, missing)
    figure = new_figure()
    axes = figure.subplots()
    for end, part in scored.groupby("end"):
        axes.scatter(
            part["cost"],
            part["final_auc"],
            s=28 if len(scored) < 200 else 10,
            color=END_COLOURS[str(end)],
            marker=END_MARKERS[str(end)],
            alpha=0.85,
            label=str(end).replace("_", " "),
            rasterized=len(scored) > 300,
        )
    front = scored[pareto_front(scored["cost"].to_numpy(), scored["final_auc"].to_numpy())].sort_values("cost")
    axes.step(front["cost"], front["final_auc"], where="post", color=BLACK, linewidth=1.2, label="best for the cost")
    named = front.iloc[np.unique(np.linspace(0, len(front) - 1, 4).astype(int))]
    for number, row in named.iterrows():
        axes.annotate(str(number), (row["cost"], row["final_auc"]), (3, 4), textcoords="offset points", fontsize=8)
    if limit is not None:
        axes.axvline(limit, color=BLACK, linestyle=":", linewidth=1.2)
        axes.annotate("budget", (limit, 0), (-4, 4), ("data", "axes fraction"), "offset points", ha="right", fontsize=8)
    axes.set(
        title=f"{title} ({len(front)} trials that nothing beats in both)",
        xlabel=xlabel,
        ylabel="validation AUC at the last epoch",
    )
    axes.set_xlim(left=0)
    legend_below(figure, axes)
    return figure
