"""How the search improved: every trial's value, the best so far, and all curves in one picture."""

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis.results import FAILED
from analysis.style import (
    BLACK,
    BLUE,
    END_COLOURS,
    END_MARKERS,
    GREY,
    auc_axis,
    axis_label,
    integer_axis,
    last_epoch_label,
    legend_below,
    message_figure,
    new_figure,
    styled,
)
from trainable.config import Objective
from trainable.record import TrialEnd


@styled
def search_progress(trials: pd.DataFrame, *, measure: str = Objective.LABELS.measure) -> Figure:
    """Value (`measure`) of each trial at its last epoch, by number, and the best so far.

    The best follows the rule for the winner, a completed trial. Until one has completed, the highest AUC so far is
    dotted; the line may fall when the first trial completes.
    """
    scored = trials.dropna(subset=["final_auc"])
    if not len(scored):
        return message_figure("Progress of the search", "No trial has finished an epoch yet.")
    figure = new_figure()
    axes = figure.subplots()
    for end, part in scored.groupby("end"):
        axes.scatter(
            part.index,
            part["final_auc"],
            s=26 if len(scored) < 200 else 10,
            color=END_COLOURS[str(end)],
            marker=END_MARKERS[str(end)],
            label=f"{str(end).replace('_', ' ')} ({len(part)})",
            rasterized=len(scored) > 300,
        )
    completed = scored[scored["end"] == TrialEnd.COMPLETED.value]
    before = scored[scored.index <= completed.index[0]] if len(completed) else scored
    before = before[~before["end"].isin(FAILED)]
    if len(before) > 1 or not len(completed):
        highest = before["final_auc"].cummax()
        axes.step(highest.index, highest, ":", where="post", color=GREY, linewidth=1.3, label="highest so far")
    if len(completed):
        best = completed["final_auc"].cummax()
        best.loc[scored.index[-1]] = best.iloc[-1]
        axes.step(best.index, best, where="post", color=BLACK, linewidth=1.3, label="best completed")
    axes.axhline(0.5, color=GREY, linewidth=0.9, linestyle=":")
    axes.set(title="Progress of the search", xlabel="trial", ylabel=last_epoch_label(measure))
    auc_axis(axes, [0.5, *scored["final_auc"]])
    integer_axis(axes)
    legend_below(figure, axes, columns=3)
    return figure


@styled
def all_curves(
    epochs: pd.DataFrame,
    trials: pd.DataFrame,
    *,
    highlight: int | None = None,
    measure: str = Objective.LABELS.measure,
) -> Figure:
    """Value (`measure`) of every trial over its epochs, by its ending, with one trial highlighted."""
    if not len(epochs):
        return message_figure("All trials", "No trial has finished an epoch yet.")
    figure = new_figure()
    axes = figure.subplots()
    ends = dict(zip(trials.index, trials["end"].astype(str), strict=True))
    curves: dict[str, list[np.ndarray]] = {}
    for number, part in epochs.groupby("number"):
        end = ends[number]
        curves.setdefault(end, []).append(part[["epoch", "value"]].to_numpy(dtype=float))
    crowded = epochs["number"].nunique() > 60
    for end, lines in curves.items():
        axes.add_collection(
            LineCollection(
                lines,
                colors=END_COLOURS[end],
                linewidths=0.5 if crowded else 1.1,
                alpha=0.35 if crowded else 0.8,
                rasterized=crowded,
            )
        )
        # A trial of one epoch is a point: a line with one vertex would be invisible.
        points = np.array([line[0] for line in lines if len(line) == 1])
        if len(points):
            axes.scatter(points[:, 0], points[:, 1], s=9, color=END_COLOURS[end], rasterized=crowded)
        label = f"{end.replace('_', ' ')} ({len(lines)})"
        style = "." if len(points) == len(lines) else "-"
        axes.plot([], [], style, color=END_COLOURS[end], label=label)
    if highlight is not None:
        winner = epochs[epochs["number"] == highlight]
        # No ending has this colour; the white edge sets it off from the curves below.
        (line,) = axes.plot(
            winner["epoch"],
            winner["value"],
            color=BLUE,
            linewidth=2.6,
            marker="o" if len(winner) == 1 else "",
            label=f"trial {highlight}",
        )
        line.set_path_effects([patheffects.withStroke(linewidth=4.6, foreground="white")])
    axes.autoscale_view()
    axes.axhline(0.5, color=GREY, linewidth=0.9, linestyle=":")
    axes.set(title="Every trial's curve", xlabel="epoch", ylabel=axis_label(measure))
    auc_axis(axes, [0.5, *epochs["value"]])
    integer_axis(axes)
    legend_below(figure, axes, columns=3)
    return figure
