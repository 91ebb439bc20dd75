"""Was the promise kept? Predicted against measured peaks, and which plans the budget led to."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.style import (
    BLACK,
    BLUE,
    END_COLOURS,
    END_MARKERS,
    GREY,
    ORANGE,
    legend_below,
    message_figure,
    new_figure,
    styled,
)
from trainable.units import GIB, format_bytes


@styled
def predicted_against_measured(trials: pd.DataFrame, *, budget_bytes: int | None) -> Figure:
    """Predicted peak of each trial's plan against what the CUDA allocator measured."""
    title = "Predicted against measured memory"
    both = trials[(trials["predicted_bytes"] > 0) & (trials["peak_bytes"] > 0)]
    if not len(both):
        return message_figure(
            title, "Nothing was measured: the trials ran on a CPU, where peaks are predicted for the GPU only."
        )
    predicted, measured = both["predicted_bytes"] / GIB, both["peak_bytes"] / GIB
    error = (measured / predicted - 1).to_numpy()
    figure = new_figure((5.6, 4.6))
    axes = figure.subplots()
    top = 1.08 * float(max(predicted.max(), measured.max()))
    axes.plot([0, top], [0, top], color=GREY, linewidth=1, linestyle="--", label="equal")
    above = (measured > predicted).to_numpy()
    axes.scatter(predicted[~above], measured[~above], s=24, color=BLUE, label=f"at or below ({(~above).sum()})")
    axes.scatter(predicted[above], measured[above], s=28, color=ORANGE, marker="^", label=f"above ({above.sum()})")
    if budget_bytes:
        axes.axhline(budget_bytes / GIB, color=BLACK, linewidth=1.2, linestyle=":")
        axes.annotate(
            f"budget {format_bytes(budget_bytes)}",
            (0, budget_bytes / GIB),
            (4, 4),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set(
        title=f"{title}:\nmedian error {np.median(error):+.1%}, largest {error.max():+.1%}",
        xlabel="predicted peak (GiB)",
        ylabel="measured peak (GiB)",
        xlim=(0, top),
    )
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")
    return figure


@styled
def memory_by_plan(trials: pd.DataFrame, *, budget_bytes: int | None) -> Figure:
    """Predicted peak of every proposal, by the micro-batch of its plan: what the budget made of it."""
    title = "Predicted memory of every proposal"
    known = trials[trials["predicted_bytes"] > 0]
    if not len(known):
        return message_figure(title, "No memory was predicted in this run.")
    figure = new_figure()
    axes = figure.subplots()
    for end, part in known.groupby("end"):
        axes.scatter(
            part.index,
            part["predicted_bytes"] / GIB,
            s=26 if len(known) < 200 else 10,
            color=END_COLOURS[str(end)],
            marker=END_MARKERS[str(end)],
            label=str(end).replace("_", " "),
            rasterized=len(known) > 300,
        )
    split = known[known["recompute"].astype(bool)]
    crowded = len(known) >= 200
    axes.scatter(
        split.index,
        split["predicted_bytes"] / GIB,
        s=26 if crowded else 70,
        facecolors="none",
        edgecolors=GREY,
        linewidths=0.4 if crowded else 0.8,
        label="with recomputation",
        rasterized=len(split) > 300,
    )
    if budget_bytes:
        axes.axhline(budget_bytes / GIB, color=BLACK, linewidth=1.2, linestyle=":", label="budget")
    if known["predicted_bytes"].max() > 30 * known["predicted_bytes"].min():
        axes.set_yscale("log")
    axes.set(title=title, xlabel="trial", ylabel="predicted peak (GiB)")
    legend_below(figure, axes)
    return figure
