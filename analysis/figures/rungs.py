"""ASHA's rungs: how many trials trained each epoch, where trials were stopped, and what that saved."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.pruning import PruningSavings, pruning_savings, survivors
from analysis.style import BLUE, GREY, ORANGE, SMALL_FONT, integer_axis, new_figure, styled, whole_numbers
from trainable.units import duration_text


@styled
def asha_rungs(trials: pd.DataFrame, max_epochs: int) -> Figure:
    """Trials that trained each epoch (steps) and trials stopped after it (bars)."""
    table = survivors(trials, max_epochs)
    figure = new_figure()
    axes = figure.subplots()
    axes.fill_between(table.index, table["trained"], step="mid", color=BLUE, alpha=0.18, linewidth=0)
    axes.step(table.index, table["trained"], where="mid", color=BLUE, label="trained this epoch")
    stopped = table[table["stopped"] > 0]
    if len(stopped):
        bars = axes.bar(stopped.index, stopped["stopped"], width=0.5, color=ORANGE, label="stopped by ASHA after it")
        axes.bar_label(bars, padding=2, fontsize=SMALL_FONT)
    left = table[table["unfinished"] > 0]
    if len(left):
        label = "unfinished when the search ended"
        bars = axes.bar(left.index, left["unfinished"], width=0.5, bottom=left["stopped"], color=GREY, label=label)
        axes.bar_label(bars, [str(count) for count in left["unfinished"]], padding=2, fontsize=SMALL_FONT)
    axes.set_ylim(0, max(1.0, 1.12 * float(table["trained"].max())))
    axes.set(
        title=_title(pruning_savings(trials, max_epochs)),
        xlabel="epoch",
        ylabel="trials",
    )
    integer_axis(axes)
    axes.yaxis.set_major_locator(whole_numbers())
    axes.legend(loc="upper right")
    return figure


def _title(saved: PruningSavings) -> str:
    if not saved.pruned:
        return "ASHA stopped no trial early"
    epochs = f"{saved.saved_epochs:,} of {saved.saved_epochs + saved.trained_epochs:,} epochs"
    return f"ASHA saved {epochs} ({saved.saved_share:.0%}),\n{duration_text(3600 * saved.saved_hours)} of training"
