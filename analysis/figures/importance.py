"""Bars that show which parameters mattered, with their uncertainty and what chance alone gives."""

import numpy as np
from matplotlib.figure import Figure

from analysis.importance import Importances
from analysis.style import BLACK, BLUE, NORMAL_SIZE, SKY, VERMILION, legend_below, message_figure, new_figure, styled


@styled
def importance_bars(found: Importances) -> Figure:
    """Importance of each parameter, the highest on top; what chance alone may give is pale."""
    title = "Which parameters mattered"
    if not found.shares:
        return message_figure(title, found.note)
    figure = new_figure((NORMAL_SIZE[0], 1.9 + 0.3 * len(found.shares)))
    axes = figure.subplots()
    names = list(found.shares)
    percent = 100 * np.array([found.shares[name] for name in names])
    ends = 100 * np.array([found.intervals[name] for name in names])
    beyond = [name in found.beyond_chance for name in names]
    axes.barh(names, percent, color=[BLUE if each else SKY for each in beyond], alpha=0.85)
    axes.errorbar(
        percent,
        names,
        xerr=np.abs(ends.T - percent),
        fmt="none",
        ecolor=BLACK,
        elinewidth=1,
        capsize=3,
        label="over halves of the trials (90 %)",
    )
    chance = 100 * np.array([found.chance[name] for name in names])
    axes.plot(chance, names, "|", color=VERMILION, markersize=15, markeredgewidth=2, label="chance alone stays below")
    for row, (share, end) in enumerate(zip(percent, np.maximum(ends[:, 1], chance), strict=True)):
        axes.annotate(f"{share:.0f}", (end, row), (5, 0), textcoords="offset points", va="center")
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(title=title, xlabel="share of importance (%), PED-ANOVA", xlim=(0, 112))
    axes.set_xticks(range(0, 101, 20))
    legend_below(figure, axes, columns=1)
    return figure
