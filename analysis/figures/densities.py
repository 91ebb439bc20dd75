"""Many density models on one training: the AUC of each, and of errors that serve for comparison only."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.style import BLUE, GREY, NORMAL_SIZE, ORANGE, message_figure, new_figure, note_below, styled


@styled
def density_comparison(densities: pd.DataFrame, *, optimised: str, epoch: int) -> Figure:
    """Bars of the AUC at one epoch of one trial; a panel each for validation AUC and pseudo-AUC where both judge.

    Parameters
    ----------
    densities
        One trial's rows of `RunResults.densities`.
    optimised
        The density model that the trial's value is of.
    """
    title = f"The same codes, other scores\n(epoch {epoch})"
    there = densities[densities["epoch"] == epoch].sort_values("auc", ascending=False)
    if not len(there):
        return message_figure(title, "The trial recorded no other scores.")
    parts = [(str(measure), part) for measure, part in there.groupby("measure", sort=False)]
    figure = new_figure((NORMAL_SIZE[0], 1.0 + sum(0.3 + 0.3 * len(part) for _, part in parts)))
    heights = [1 + len(part) for _, part in parts]
    grid = figure.subplots(len(parts), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, (measure, part) in zip(grid.flat, parts, strict=True):
        _bars(axes, part, optimised=optimised, measure=measure)
    grid.flat[0].set_title(title)
    note = f"Blue: {optimised.replace('_', ' ')}, which the search optimised."
    note_below(figure, note + (" * for comparison only, never optimised." if there["comparison"].any() else ""))
    return figure


def _bars(axes: Axes, densities: pd.DataFrame, *, optimised: str, measure: str) -> None:
    names = [
        str(name).replace("_", " ") + (" *" if compared else "")
        for name, compared in zip(densities["density"], densities["comparison"], strict=True)
    ]
    colours = [
        BLUE if name == optimised else GREY if compared else ORANGE
        for name, compared in zip(densities["density"], densities["comparison"], strict=True)
    ]
    bars = axes.barh(names, densities["auc"], color=colours)
    axes.bar_label(bars, fmt="%.3f", padding=4)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel=measure)
    # Ticks end at 1; the space beyond is for the numbers.
    axes.set_xlim(low := min(0.4, float(densities["auc"].min()) - 0.02), 1.0 + 0.25 * (1.0 - low))
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= 1.0])
    axes.set_xlim(low, 1.0 + 0.25 * (1.0 - low))
