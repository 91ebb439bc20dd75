"""Does the sampler learn what fits? The share of its candidates that did not fit the budget, as the search goes on."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.style import GREY, ORANGE, integer_axis, legend_below, message_figure, new_figure, styled
from trainable.record import TrialEnd


def candidates(trials: pd.DataFrame) -> pd.DataFrame:
    """Per trial the candidates ``asked`` about and those ``rejected``, that is over budget.

    Of a trial that started all but the last did not fit, of one over budget all. Where the study did not keep how many
    there were (an older run, or none), each proposal counts as one.
    """
    asked = trials["draws"].fillna(1.0)
    over = (trials["end"] == TrialEnd.OVER_BUDGET.value).astype(float)
    return pd.DataFrame({"asked": asked, "rejected": asked - 1 + over})


def infeasible_share(trials: pd.DataFrame, window: int) -> pd.Series:
    """Share (0 … 1) of rejected candidates among those of the last `window` trials; of fewer at the beginning."""
    sums = candidates(trials).rolling(window, min_periods=1).sum()
    return sums["rejected"] / sums["asked"]


def infeasible_text(trials: pd.DataFrame, *, budget_text: str) -> str:
    """The same in a sentence."""
    if budget_text == "none":
        return "No budget was set, so every proposal counts as fitting."
    table = candidates(trials)
    asked, rejected = int(table["asked"].sum()), int(table["rejected"].sum())
    if not rejected:
        return f"All of the {asked:,} candidates that the sampler asked about fit {budget_text}."
    text = f"Of {asked:,} candidates that the sampler asked about {rejected:,} ({rejected / asked:.0%}) "
    text += f"did not fit {budget_text} and cost no training"
    quarter = len(trials) // 4
    if quarter >= 5:
        first, last = (part["rejected"].sum() / part["asked"].sum() for part in (table[:quarter], table[-quarter:]))
        text += f"; {first:.0%} in the first quarter of the search, {last:.0%} in the last"
    return text + "."


@styled
def infeasible_over_time(trials: pd.DataFrame, *, budget_text: str) -> Figure:
    """Rolling share of candidates over budget; a tick below for each trial that was recorded as over budget."""
    title = "Candidates that did not fit the memory budget"
    if budget_text == "none" or not candidates(trials)["rejected"].any():
        return message_figure(title, infeasible_text(trials, budget_text=budget_text))
    table = candidates(trials)
    window = max(5, min(25, len(trials) // 4))
    share = infeasible_share(trials, window)
    figure = new_figure()
    axes = figure.subplots()
    axes.plot(share.index, 100 * share, color=ORANGE, label=f"for the last {window} proposals")
    overall = 100 * table["rejected"].sum() / table["asked"].sum()
    axes.axhline(
        overall, color=GREY, linestyle="--", linewidth=1, label=f"of all {table['asked'].sum():,.0f}: {overall:.0f} %"
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
