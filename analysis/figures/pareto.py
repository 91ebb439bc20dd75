"""Cost of detection: AUC against memory, against time, and all three, with the trials that nothing beats."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.memory import memory_limits, memory_unit
from analysis.front import beaten, memory_cost, unbeaten
from analysis.style import (
    BLACK,
    END_COLOURS,
    END_MARKERS,
    SMALL_FONT,
    auc_axis,
    axis_label,
    last_epoch_label,
    legend_below,
    message_figure,
    new_figure,
    styled,
)
from trainable.config import Objective
from trainable.record import TrialEnd
from trainable.units import counted


@styled
def auc_against_memory(
    trials: pd.DataFrame, *, budget_bytes: int | None, measure: str = Objective.LABELS.measure
) -> Figure:
    """Value (`measure`) at the last epoch against peak GPU memory, with the front of the completed trials."""
    cost, how = memory_cost(trials)
    unit, name = memory_unit(float(cost.max()))
    return _front(
        trials,
        cost / unit,
        against="memory",
        xlabel=f"{how} of GPU memory ({name})",
        limit=budget_bytes / unit if budget_bytes else None,
        missing="No trial has a measured or predicted memory peak.",
        measure=measure,
    )


@styled
def auc_against_time(trials: pd.DataFrame, *, measure: str = Objective.LABELS.measure) -> Figure:
    """Value (`measure`) at the last epoch against the median time of an epoch."""
    return _front(
        trials,
        trials["epoch_seconds"],
        against="time",
        xlabel="median seconds an epoch",
        limit=None,
        missing="No trial has finished an epoch yet.",
        measure=measure,
    )


@styled
def memory_against_time(trials: pd.DataFrame, *, measure: str = Objective.LABELS.measure) -> Figure:
    """Peak memory against seconds an epoch of completed trials, coloured by their value (`measure`), with those that
    nothing beats in all three."""
    title = "Value, memory and time"
    completed = trials[trials["end"] == TrialEnd.COMPLETED.value].dropna(subset=["final_auc", "epoch_seconds"])
    if not len(completed):
        return message_figure(title, "No trial has completed yet.")
    cost, how = memory_cost(trials)
    completed = completed[cost[completed.index].notna()]
    if not len(completed):
        return message_figure(title, "No completed trial has a measured or predicted memory peak.")
    unit, name = memory_unit(float(cost[completed.index].max()))
    memory, front = cost[completed.index] / unit, unbeaten(completed)
    figure = new_figure()
    axes = figure.subplots()
    points = axes.scatter(completed["epoch_seconds"], memory, c=completed["final_auc"], s=28, cmap="viridis")
    axes.plot(front["epoch_seconds"], memory[front.index], "o", color=BLACK, label="front", **_RING)
    axes.set(
        title=f"{title}:\n{counted(len(front), 'trial')} that nothing beats in all three",
        xlabel="median seconds an epoch",
        ylabel=axis_label(f"{how} of GPU memory ({name})"),
        ylim=memory_limits(float(memory.min()), float(memory.max())),
    )
    figure.colorbar(points, ax=axes, label=last_epoch_label(measure))
    axes.ticklabel_format(useOffset=False)
    legend_below(figure, axes)
    return figure


_RING: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.1}
"""Around the points of a front."""


def _front(
    trials: pd.DataFrame,
    cost: pd.Series,
    *,
    against: str,
    xlabel: str,
    limit: float | None,
    missing: str,
    measure: str,
) -> Figure:
    title = f"{'Pseudo-AUC' if measure == Objective.NORMAL_ONLY.measure else 'AUC'} against {against}"
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
    # A stopped trial's AUC is from an early epoch, so it cannot be compared with a final one.
    completed = scored[scored["end"] == TrialEnd.COMPLETED.value]
    among = completed if len(completed) else scored
    front = among[~beaten(np.stack([among["cost"], -among["final_auc"]], axis=1))].sort_values("cost")
    what = "completed" if len(completed) else "none completed yet"
    axes.step(front["cost"], front["final_auc"], "-o", where="post", color=BLACK, label=f"front ({what})", **_RING)
    low, high = float(scored["cost"].min()), float(scored["cost"].max())
    if limit is not None and limit <= 2 * high:
        high = max(high, limit)
        axes.axvline(limit, color=BLACK, linestyle=":", linewidth=1.2, label="budget")
    axes.set(
        title=f"{title}:\n{counted(len(front), 'trial')} that nothing beats in both",
        xlabel=xlabel,
        ylabel=last_epoch_label(measure),
        xlim=memory_limits(low, high),
    )
    auc_axis(axes, scored["final_auc"])
    _name(axes, front)
    axes.ticklabel_format(axis="x", useOffset=False)
    legend_below(figure, axes, columns=3)
    return figure


def _name(axes: Axes, front: pd.DataFrame) -> None:
    """Labels points with trial numbers unless labels overlap; starts with the last point, which is the best."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    taken: list[tuple[float, float]] = []
    for number, row in front[::-1].iterrows():
        x, y = (row["cost"] - left) / (right - left), (row["final_auc"] - bottom) / (top - bottom)
        if all(abs(x - u) > 0.1 or abs(y - v) > 0.08 for u, v in taken):
            taken.append((x, y))
            place = (row["cost"], row["final_auc"]), (-6, -12)
            axes.annotate(str(number), *place, textcoords="offset points", fontsize=SMALL_FONT, ha="right")
