"""Many density models on one training: the validation AUC of each, and of errors that serve for comparison only."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.style import BLUE, GREY, NORMAL_SIZE, ORANGE, message_figure, new_figure, note_below, styled


@styled
def density_comparison(densities: pd.DataFrame, *, optimised: str, epoch: int) -> Figure:
    """Bars of the AUC at one epoch of one trial.

    Parameters
    ----------
    densities
        One trial's rows of `RunResults.densities`.
    optimised
        The density model whose AUC the search maximised.
    """
    title = f"The same codes, other scores\n(epoch {epoch})"
    there = densities[densities["epoch"] == epoch].sort_values("auc", ascending=False)
    if not len(there):
        return message_figure(title, "The trial recorded no other scores.")
    figure = new_figure((NORMAL_SIZE[0], 1.3 + 0.3 * len(there)))
    axes = figure.subplots()
    names = [
        str(name).replace("_", " ") + (" *" if compared else "")
        for name, compared in zip(there["density"], there["comparison"], strict=True)
    ]
    colours = [
        BLUE if name == optimised else GREY if compared else ORANGE
        for name, compared in zip(there["density"], there["comparison"], strict=True)
    ]
    bars = axes.barh(names, there["auc"], color=colours)
    axes.bar_label(bars, fmt="%.3f", padding=4)
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(title=title, xlabel="validation AUC")
    # Ticks end at 1; the space beyond is for the numbers.
    axes.set_xlim(low := min(0.4, float(there["auc"].min()) - 0.02), 1.0 + 0.25 * (1.0 - low))
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= 1.0])
    axes.set_xlim(low, 1.0 + 0.25 * (1.0 - low))
    note = f"Blue: {optimised.replace('_', ' ')}, which the search optimised."
    note_below(figure, note + (" * for comparison only, never optimised." if there["comparison"].any() else ""))
    return figure
