"""Predicted against measured peaks, and the plans that the budget led to."""

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
    SMALL_FONT,
    integer_axis,
    legend_below,
    message_figure,
    new_figure,
    styled,
)
from trainable.units import GIB, MIB, format_bytes


def memory_unit(*sizes: float) -> tuple[int, str]:
    """Bytes and name of the unit for an axis of such sizes: GiB from 2 GiB on."""
    return (GIB, "GiB") if max(sizes, default=0.0) >= 2 * GIB else (MIB, "MiB")


def comparable_prediction(trials: pd.DataFrame) -> tuple[pd.Series, str]:
    """Returns the predicted bytes to compare with the allocator's own peak, and their description.

    The allocator counts the memory it handed out; the whole prediction includes the CUDA context and libraries too.
    Runs that did not record the former are judged by the latter, which is larger.
    """
    allocated = trials["predicted_allocated_bytes"]
    if (allocated > 0).any():
        return allocated, "predicted for the allocator"
    return trials["predicted_bytes"], "predicted with CUDA's own share"


@styled
def predicted_against_measured(trials: pd.DataFrame, *, budget_bytes: int | None) -> Figure:
    """Predicted peak of each trial's plan against the peak that the CUDA allocator measured.

    Beside it, where the driver told: the prediction for the whole process against the driver's count.
    """
    title = "Predicted against measured memory"
    expected, how = comparable_prediction(trials)
    both = trials[(expected > 0) & (trials["peak_bytes"] > 0)]
    if not len(both):
        return message_figure(
            title, "Nothing was measured: the trials ran on a CPU, where peaks are predicted for the GPU only."
        )
    unit, name = memory_unit(float(both["peak_bytes"].max()), float(expected[both.index].max()))
    predicted, measured = expected[both.index] / unit, both["peak_bytes"] / unit
    error = (measured / predicted - 1).to_numpy()
    figure = new_figure((4.8, 4.4))
    axes = figure.subplots()
    whole = both[both["driver_bytes"] > 0]
    of_processes = whole[["predicted_bytes", "driver_bytes"]] / unit
    top = 1.08 * float(max(predicted.max(), measured.max(), of_processes.to_numpy().max(initial=0.0)))
    axes.plot([0, top], [0, top], color=GREY, linewidth=1, linestyle="--", label="equal")
    above = (measured > predicted).to_numpy()
    if not above.all():
        axes.scatter(predicted[~above], measured[~above], s=24, color=BLUE, label=f"at or below ({(~above).sum()})")
    if above.any():
        axes.scatter(predicted[above], measured[above], s=28, color=ORANGE, marker="^", label=f"above ({above.sum()})")
    if len(whole):
        axes.scatter(
            of_processes["predicted_bytes"],
            of_processes["driver_bytes"],
            s=24,
            facecolors="none",
            edgecolors=BLACK,
            linewidths=0.7,
            marker="s",
            label="whole process, by the driver",
        )
    if budget_bytes and budget_bytes / unit <= 1.5 * top:
        axes.axhline(budget_bytes / unit, color=BLACK, linewidth=1.2, linestyle=":")
        axes.annotate(
            f"budget {format_bytes(budget_bytes)}",
            (0, budget_bytes / unit),
            (4, 4),
            textcoords="offset points",
            fontsize=SMALL_FONT,
        )
    axes.set(
        title=f"{title}:\nmedian error {np.median(error):+.1%}, largest {error.max():+.1%}",
        xlabel=f"peak {how} ({name})",
        ylabel=f"measured peak of the allocator ({name})",
        xlim=(0, top),
    )
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right")
    return figure


@styled
def memory_by_plan(trials: pd.DataFrame, *, budget_bytes: int | None) -> Figure:
    """Predicted peak of every proposal, by its ending: shows how the budget shaped the plans."""
    title = "Predicted memory of every proposal"
    known = trials[trials["predicted_bytes"] > 0]
    if not len(known):
        return message_figure(title, "No memory was predicted in this run.")
    figure = new_figure()
    axes = figure.subplots()
    low, high = float(known["predicted_bytes"].min()), float(known["predicted_bytes"].max())
    unit, name = memory_unit(high)
    for end, part in known.groupby("end"):
        axes.scatter(
            part.index,
            part["predicted_bytes"] / unit,
            s=26 if len(known) < 200 else 10,
            color=END_COLOURS[str(end)],
            marker=END_MARKERS[str(end)],
            label=str(end).replace("_", " "),
            rasterized=len(known) > 300,
        )
    split = known[known["recompute"].astype(bool)]
    crowded = len(known) >= 200
    if len(split):
        axes.scatter(
            split.index,
            split["predicted_bytes"] / unit,
            s=26 if crowded else 70,
            facecolors="none",
            edgecolors=GREY,
            linewidths=0.4 if crowded else 0.8,
            label="with recomputation",
            rasterized=len(split) > 300,
        )
    if budget_bytes:
        axes.axhline(budget_bytes / unit, color=BLACK, linewidth=1.2, linestyle=":", label="budget")
        low, high = min(low, budget_bytes), max(high, budget_bytes)
    if high > 30 * low:
        axes.set_yscale("log")
    else:
        axes.set_ylim(*memory_limits(low / unit, high / unit))
        axes.ticklabel_format(axis="y", useOffset=False)
    axes.set(title=title, xlabel="trial", ylabel=f"predicted peak ({name})")
    integer_axis(axes)
    legend_below(figure, axes, columns=3)
    return figure


def memory_limits(low: float, high: float) -> tuple[float, float]:
    """Limits of an axis of costs: from 0 unless all values lie close together, with room at the far end."""
    spread = high - low
    if spread < 0.3 * high:
        room = max(0.15 * spread, 0.02 * high)
        return low - room, high + room
    return 0.0, high + 0.06 * high
