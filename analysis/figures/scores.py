"""Anomaly scores of normal and anomalous clips, one panel per machine id."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.style import BLUE, VERMILION, panels, styled


@styled
def score_histograms(
    scores: np.ndarray, labels: np.ndarray, ids: tuple[str, ...], auc_by_id: dict[str, float], *, title: str
) -> Figure:
    """Histograms per machine id, with its AUC.

    Parameters
    ----------
    scores, labels
        Per clip: score (higher = more anomalous) and 0 normal, 1 anomaly.
    ids
        Machine id of each clip.
    """
    names = sorted(set(ids))
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure, axes_list = panels(rows, columns, (8.0 if columns > 1 else 6.4, 0.9 + 2.1 * rows))
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    clip_ids = np.array(ids)
    for axes, machine_id in zip(axes_list, names, strict=False):
        mine = clip_ids == machine_id
        bins = np.histogram_bin_edges(scores[mine], bins=18).tolist()
        for label, colour, word, hatch in ((0, BLUE, "normal", ""), (1, VERMILION, "anomaly", "//")):
            part = scores[mine & (labels == label)]
            axes.hist(part, bins=bins, color=colour, alpha=0.55, hatch=hatch, label=f"{word} ({len(part)})")
        axes.set_title(f"id {machine_id}: AUC {auc_by_id[machine_id]:.3f}", fontweight="normal")
        axes.set(xlabel="anomaly score", ylabel="clips")
        axes.set_ylim(top=1.4 * axes.get_ylim()[1])  # room for the legend above the bars
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.legend(loc="upper right", ncols=2)
    for axes in axes_list[len(names) :]:
        axes.set_axis_off()
    return figure
