"""Which parameters mattered, as bars, with the note that belongs to them."""

from matplotlib.figure import Figure

from analysis.importance import Importances
from analysis.style import BLUE, message_figure, new_figure, styled, with_note


@styled
def importance_bars(found: Importances) -> Figure:
    """Share of each parameter, the most important on top."""
    title = "Which parameters mattered"
    if not found.shares:
        return message_figure(title, found.note)
    figure = new_figure((6.4, 1.6 + 0.28 * len(found.shares)))
    axes = figure.subplots()
    bars = axes.barh(list(found.shares), [100 * share for share in found.shares.values()], color=BLUE)
    axes.bar_label(bars, fmt="%.0f", padding=4)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(title=title, xlabel=with_note("share of importance (%), PED-ANOVA", found.note))
    axes.margins(x=0.1)
    return figure
