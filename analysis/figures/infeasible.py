"""Does the sampler learn what fits? The share of its candidates over budget, in the course of the search."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.style import GREY, ORANGE, integer_axis, legend_below, message_figure, new_figure, styled
from trainable.record import TrialEnd


def candidates(trials: pd.DataFrame) -> pd.DataFrame:
    """Counts for each trial the candidates that were ``tried`` and those ``rejected`` as over budget.

    For a trial that started, all candidates but the last were rejected; for one over budget, all were. If the study
    has no counts (an older run, or no study), each proposal counts as one candidate.
    """
    tried = trials["draws"].fillna(1.0)
    over = (trials["end"] == TrialEnd.OVER_BUDGET.value).astype(float)
    return pd.DataFrame({"tried": tried, "rejected": tried - 1 + over})


def infeasible_share(trials: pd.DataFrame, window: int) -> pd.Series:
    """Share (0 … 1) of rejected candidates over the last `window` trials, or over fewer at the beginning."""
    sums = candidates(trials).rolling(window, min_periods=1).sum()
    return sums["rejected"] / sums["tried"]


def infeasible_text(trials: pd.DataFrame, *, budget_text: str) -> str:
    """Describes the share of rejected candidates in a sentence."""
    if budget_text == "none":
        return "No budget was set, so every proposal counts as fitting."
    table = candidates(trials)
    tried, rejected = int(table["tried"].sum()), int(table["rejected"].sum())
    if not rejected:
        return f"All {tried:,} candidates that the sampler tried fit {budget_text}."
    text = f"Of {tried:,} candidates that the sampler tried, {rejected:,} ({rejected / tried:.0%}) "
    text += f"did not fit {budget_text} and cost no training"
    quarter = len(trials) // 4
    if quarter >= 5:
        first, last = (part["rejected"].sum() / part["tried"].sum() for part in (table[:quarter], table[-quarter:]))
        text += f"; {first:.0%} in the first quarter of the search, {last:.0%} in the last"
    return text + "."


@styled
def infeasible_over_time(trials: pd.DataFrame, *, budget_text: str) -> Figure:
    """Rolling share of candidates over budget, with a tick below for each trial that was recorded as over budget."""
    title = "Candidates that did not fit the memory budget"
    if budget_text == "none" or not candidates(trials)["rejected"].any():
        return message_figure(title, infeasible_text(trials, budget_text=budget_text))
    table = candidates(trials)
    window = max(5, min(25, len(trials) // 4))
    share = infeasible_share(trials, window)
    figure = new_figure()
    axes = figure.subplots()
    axes.plot(share.index, 100 * share, color=ORANGE, label=f"for the last {window} proposals")
    overall = 100 * table["rejected"].sum() / table["tried"].sum()
    axes.axhline(
        overall, color=GREY, linestyle="--", linewidth=1, label=f"of all {table['tried'].sum():,.0f}: {overall:.0f} %"
    )
    over = trials[trials["end"] == TrialEnd.OVER_BUDGET.value]
    if len(over):
        axes.plot(
            over.index, [-3] * len(over), "|", color=ORANGE, markersize=6, label="none fitted",
            rasterized=len(over) > 300,
        )  # fmt: skip
    axes.set(title=title, xlabel="trial", ylabel="candidates over budget (%)", ylim=(-6, 104))
    integer_axis(axes)
    legend_below(figure, axes, columns=2)
    return figure
