"""Pseudo-AUC by family: whether the families agree about what is good."""

from collections.abc import Collection

import pandas as pd
from matplotlib.figure import Figure

from analysis.style import (
    BLUE,
    GREY,
    NORMAL_SIZE,
    SKY,
    SMALL_FONT,
    VERMILION,
    legend_below,
    message_figure,
    new_figure,
    styled,
)

TITLE = "Pseudo-AUC by family"


@styled
def family_aucs(
    pairs: pd.DataFrame, *, members: Collection[tuple[int, str]], optimised: Collection[tuple[int, str]] = ()
) -> Figure:
    """Every pair of a trial and a density model at its AUC of one family against that of the next; members are named.

    Parameters
    ----------
    pairs
        Rows of `RunResults.families` at each trial's last epoch.
    members
        (trial, density model) of the pairs that a detector averages.
    optimised
        (trial, density model) of the pairs whose pseudo-AUC is a trial's own.
    """
    if not len(pairs):
        return message_figure(TITLE, "No trial with a pseudo-AUC has trained long enough yet.")
    wide = pairs.pivot(index=["number", "density"], columns="family", values="auc")
    names = [str(name) for name in wide.columns]
    if len(names) < 2:
        return message_figure(TITLE, f"There is one family only, {names[0]}; the table has its AUCs.")
    kinds = [
        (~(wide.index.isin(list(members)) | wide.index.isin(list(optimised))), "other density models", ".", GREY, 14),
        (wide.index.isin(list(optimised)) & ~wide.index.isin(list(members)), "the trial's own", "o", SKY, 22),
        (wide.index.isin(list(members)), "averaged by the detector", "D", VERMILION, 36),
    ]
    figure = new_figure((NORMAL_SIZE[0] * (len(names) - 1), 4.2))
    grid = figure.subplots(1, len(names) - 1, squeeze=False)
    for axes, x, y in zip(grid.flat, names, names[1:], strict=False):
        for chosen, label, marker, colour, size in kinds:
            part = wide[chosen]
            if len(part):
                many = len(part) > 300
                axes.scatter(part[x], part[y], s=size, marker=marker, color=colour, label=label, rasterized=many)
        for number, density in wide.index[wide.index.isin(list(members))]:
            place = wide.loc[(number, density)]
            axes.annotate(str(number), (place[x], place[y]), (5, 4), textcoords="offset points", fontsize=SMALL_FONT)
        axes.axvline(0.5, color=BLUE, linewidth=0.9, linestyle=":")
        axes.axhline(0.5, color=BLUE, linewidth=0.9, linestyle=":")
        axes.set(xlabel=f"AUC of {x}", ylabel=f"AUC of {y}")
    grid.flat[0].set_title(f"{TITLE}; numbers are trials")
    legend_below(figure, grid.flat[0], columns=2)
    return figure
