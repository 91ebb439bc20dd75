"""Use of the codebook: by normal training clips at the end, and over the epochs."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.style import BLUE, GREY, PURPLE, integer_axis, legend_under, panels, plain_log, styled


def usage_shares(codes: np.ndarray, num_embeddings: int) -> np.ndarray:
    """Share of positions that have each code, float64 (K,), summing to 1."""
    counts: np.ndarray = np.bincount(codes.ravel(), minlength=num_embeddings).astype(float)
    return np.asarray(counts / max(counts.sum(), 1.0))


def perplexity(shares: np.ndarray) -> float:
    """exp of the entropy of the shares: the number of equally used codes with that entropy."""
    used = shares[shares > 0]
    return float(np.exp(-(used * np.log(used)).sum()))


@styled
def codebook_usage(shares: np.ndarray, epochs: pd.DataFrame) -> Figure:
    """Codes sorted by their frequency in normal clips (left); dead codes and perplexity over training (right).

    Parameters
    ----------
    shares
        Share of each code, from `usage_shares`.
    epochs
        The same trial's rows of `RunResults.epochs`.
    """
    figure, (usage, history) = panels(1, 2, (8.6, 3.9))
    ordered = np.sort(shares)[::-1]
    ranks = np.arange(1, len(ordered) + 1)
    used = ordered > 0
    usage.fill_between(ranks[used], 100 * ordered[used], step="mid", color=BLUE, alpha=0.75, linewidth=0)
    usage.axhline(100 / len(ordered), color=GREY, linestyle="--", linewidth=1, label="if all codes were used equally")
    usage.set_yscale("log")
    usage.set(
        title=f"{used.sum()} of {len(ordered)} codes used, perplexity {perplexity(shares):.0f}",
        xlabel="code, by how often it is used",
        ylabel="share of positions (%)",
        xlim=(0, len(ordered) + 1),
    )
    plain_log(usage)
    legend_under(usage)
    marker = "." if len(epochs) < 40 else ""
    history.plot(epochs["epoch"], epochs["perplexity"], color=BLUE, marker=marker, label="perplexity (left)")
    history.set(title="During training", xlabel="epoch", ylabel="perplexity (codes)")
    history.set_ylim(0, max(1.0, 1.1 * float(epochs["perplexity"].max())))
    dead = history.twinx()
    share = 100 * epochs["dead_code_share"]
    dead.plot(epochs["epoch"], share, "--", color=PURPLE, marker=marker, label="dead codes (right)")
    dead.set(ylabel="dead codes (%)", ylim=(-3, 103))  # a line at 0 % lies above the axis, not on it
    dead.grid(False)
    dead.spines["right"].set_visible(True)
    integer_axis(history)
    legend_under(history, [*history.get_lines(), *dead.get_lines()])
    return figure
