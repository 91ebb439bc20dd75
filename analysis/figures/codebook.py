"""Use of the codebook: by normal training clips at the end, and over the epochs."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.style import BLUE, GREY, PURPLE, WIDE, integer_axis, legend_under, panels, plain_log, styled


def usage_shares(codes_XM: np.ndarray, num_codes: int) -> np.ndarray:
    """Share of positions that have each code, float64 (M codebooks, K codes of each), every row summing to 1.

    Parameters
    ----------
    codes_XM
        Code indices, int (…, M), those of codebook m being m · K … (m + 1) · K − 1.
    num_codes
        Codes of all codebooks together, M · K.
    """
    counts = np.bincount(codes_XM.ravel(), minlength=num_codes).astype(float).reshape(codes_XM.shape[-1], -1)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True).clip(min=1.0))


def perplexity(shares: np.ndarray) -> float:
    """exp of the entropy of the shares: the number of equally used codes with that entropy."""
    used = shares[shares > 0]
    return float(np.exp(-(used * np.log(used)).sum()))


@styled
def codebook_usage(shares_MK: np.ndarray, epochs: pd.DataFrame) -> Figure:
    """Codes sorted by their frequency in normal clips (left); dead codes and perplexity over training (right).

    Several codebooks lie over each other, the later the lighter; perplexity and dead codes are their mean.

    Parameters
    ----------
    shares_MK
        Share of each code in each codebook, from `usage_shares`.
    epochs
        The same trial's rows of `RunResults.epochs`.
    """
    figure, (usage, history) = panels(1, 2, (WIDE, 3.9))
    n_books, n_codes = shares_MK.shape
    for index, shares in enumerate(shares_MK):
        ordered = np.sort(shares)[::-1]
        ranks = np.arange(1, n_codes + 1)[ordered > 0]
        percent = 100 * ordered[ordered > 0]
        if n_books == 1:
            usage.fill_between(ranks, percent, step="mid", color=BLUE, alpha=0.75, linewidth=0)
        else:
            usage.step(ranks, percent, where="mid", color=BLUE, alpha=1 - 0.8 * index / n_books, label=f"{index + 1}")
    usage.axhline(100 / n_codes, color=GREY, linestyle="--", linewidth=1, label="if all codes were used equally")
    usage.set_yscale("log")
    spread = " ".join(f"{perplexity(shares):.0f}" for shares in shares_MK)
    usage.set(
        title=f"{(shares_MK > 0).sum()} of {shares_MK.size} codes used, perplexity {spread}",
        xlabel="code, by how often it is used" + ("" if n_books == 1 else ", in each codebook"),
        ylabel="share of positions (%)",
        xlim=(0, n_codes + 1),
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
