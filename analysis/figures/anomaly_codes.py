"""Which codes anomalies use that normal clips do not."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.codebook import usage_shares
from analysis.style import BLUE, GREY, VERMILION, WIDE, legend_under, panels, plain_log, styled

PSEUDO_COUNT = 0.5
"""Added to each code's count, so that a code absent from one kind has a finite ratio (Haldane's correction)."""


def code_contrast(codes_BXM: np.ndarray, labels_B: np.ndarray, num_codes: int) -> pd.DataFrame:
    """How much more often anomalies use each code than normal clips do.

    Parameters
    ----------
    codes_BXM
        Code indices of each clip, int64 (clips, …, M codebooks).
    labels_B
        0 normal, 1 anomaly.
    num_codes
        Codes of all codebooks together.

    Returns
    -------
    DataFrame
        Most anomalous first: ``normal`` and ``anomaly`` (shares of positions) and ``log2_ratio``, indexed by the
        code's name: ``17``, or ``2·17`` in the second of several codebooks.
    """
    n_books = codes_BXM.shape[-1]
    shares, smoothed = [], []
    for label in (0, 1):
        part = codes_BXM[labels_B == label]
        shares.append(usage_shares(part, num_codes).ravel())
        counts_MK = np.bincount(part.ravel(), minlength=num_codes).reshape(n_books, -1) + PSEUDO_COUNT
        smoothed.append((counts_MK / counts_MK.sum(axis=1, keepdims=True)).ravel())
    size = num_codes // n_books
    names = [str(code) if n_books == 1 else f"{code // size + 1}·{code % size}" for code in range(num_codes)]
    table = pd.DataFrame(
        {"normal": shares[0], "anomaly": shares[1], "log2_ratio": np.log2(smoothed[1] / smoothed[0])}, index=names
    )
    table.index.name = "code"
    return table.sort_values("log2_ratio", ascending=False, kind="stable")


@styled
def anomaly_codes(contrast: pd.DataFrame, *, most: int = 10) -> Figure:
    """How often both kinds of clips use each code (left), and the codes furthest apart (right)."""
    figure, (plane, bars) = panels(1, 2, (WIDE, 4.6))
    used = contrast[(contrast["normal"] > 0) | (contrast["anomaly"] > 0)]
    floor = 100 * float(min(used["normal"][used["normal"] > 0].min(), used["anomaly"][used["anomaly"] > 0].min())) / 2
    x, y = (100 * used["normal"]).clip(lower=floor), (100 * used["anomaly"]).clip(lower=floor)
    anomalous = used["log2_ratio"] > 1
    plane.scatter(x[~anomalous], y[~anomalous], s=14, color=BLUE, label="others", rasterized=len(used) > 1000)
    if anomalous.any():
        plane.scatter(x[anomalous], y[anomalous], s=18, color=VERMILION, marker="^", label="> 2× more in anomalies")
    line = [floor, float(max(x.max(), y.max()))]
    plane.plot(line, line, color=GREY, linewidth=1, linestyle="--")
    plane.set_xscale("log")
    plane.set_yscale("log")
    plain_log(plane)
    plane.xaxis.set_major_formatter(plane.yaxis.get_major_formatter())
    plane.set(title="Codes used", xlabel="share in normal clips (%)", ylabel="share in anomalies (%)")
    legend_under(plane)
    # A code that occurred a handful of times has an extreme ratio by chance, so more frequent codes come first.
    often = used[(used["normal"] + used["anomaly"]) >= 0.2 * contrast["normal"].mean()]
    chosen = pd.concat([often.head(most), often.tail(most)])
    chosen = chosen[~chosen.index.duplicated()]
    colours = [VERMILION if ratio > 0 else BLUE for ratio in chosen["log2_ratio"]]
    bars.barh([f"code {code}" for code in chosen.index], chosen["log2_ratio"], color=colours)
    bars.invert_yaxis()
    bars.tick_params(axis="y", labelsize=8)
    bars.grid(axis="y", visible=False)
    bars.axvline(0, color=GREY, linewidth=1)
    bars.set(title="Furthest apart", xlabel="log₂ (share in anomalies / share in normal)")
    return figure
