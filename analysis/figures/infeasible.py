"""Does the sampler learn what fits? The share of over-budget proposals as the search goes on."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.style import GREY, ORANGE, message_figure, new_figure, styled
from trainable.record import TrialEnd


def infeasible_share(trials: pd.DataFrame, window: int) -> pd.Series:
    """Share (0 … 1) of over-budget trials among the last `window`, by trial number; shorter at the beginning."""
    over = (trials["end"] == TrialEnd.OVER_BUDGET.value).astype(float)
    return over.rolling(window, min_periods=1).mean()


@styled
def infeasible_over_time(trials: pd.DataFrame, *, budget_text: str) -> Figure:
    """Rolling share of over-budget proposals; a tick below for each of them."""
    title = "Proposals that did not fit the memory budget"
    over = trials[trials["end"] == TrialEnd.OVER_BUDGET.value]
    if not len(over):
        return message_figure(title, f"None of {len(trials)} proposals needed more than the budget ({budget_text}).")
    window = max(5, min(25, len(trials) // 4))
    share = infeasible_share(trials, window)
    figure = new_figure()
    axes = figure.subplots()
    axes.plot(share.index, 100 * share, color=ORANGE, label=f"of the last {window} proposals")
    overall = 100 * len(over) / len(trials)
    axes.axhline(overall, color=GREY, linestyle="--", linewidth=1, label=f"of all {len(trials)}: {overall:.0f} %")
    axes.plot(over.index, [-3] * len(over), "|", color=ORANGE, markersize=6, rasterized=len(over) > 300)
    axes.set(title=title, xlabel="trial", ylabel="over budget (%)", ylim=(-6, 104))
    axes.legend(loc="upper right")
    return figure
