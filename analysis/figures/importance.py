"""Bars that show which parameters mattered, with a note."""

from matplotlib.figure import Figure

from analysis.importance import Importances
from analysis.style import BLUE, NORMAL_SIZE, message_figure, new_figure, note_below, styled


@styled
def importance_bars(found: Importances) -> Figure:
    """Importance of each parameter, the highest on top."""
    title = "Which parameters mattered"
    if not found.shares:
        return message_figure(title, found.note)
    figure = new_figure((NORMAL_SIZE[0], 1.6 + 0.28 * len(found.shares)))
    axes = figure.subplots()
    bars = axes.barh(list(found.shares), [100 * share for share in found.shares.values()], color=BLUE)
    axes.bar_label(bars, fmt="%.0f", padding=4)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(title=title, xlabel="share of importance (%), PED-ANOVA")
    axes.margins(x=0.1)
    note_below(figure, found.note)
    return figure
