"""ROC curves per machine id, with the region of the pAUC."""

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from analysis.style import CYCLE, GREY, YELLOW, new_figure, styled
from trainable.scoring.metrics import MAX_FPR, auc, pauc


@styled
def roc_curves(scores: np.ndarray, labels: np.ndarray, ids: tuple[str, ...], *, title: str) -> Figure:
    """One curve per machine id; false-positive rates up to 0.1 are shaded."""
    figure = new_figure((4.8, 4.4))
    axes = figure.subplots()
    axes.axvspan(0, MAX_FPR, color=YELLOW, alpha=0.35, linewidth=0, label=f"pAUC: false alarms ≤ {MAX_FPR:.0%}")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    clip_ids = np.array(ids)
    styles = ("-", "--", "-.", ":")
    for index, machine_id in enumerate(sorted(set(ids))):
        mine = clip_ids == machine_id
        fpr, tpr, _ = roc_curve(labels[mine], scores[mine])
        area, partial = auc(labels[mine], scores[mine]), pauc(labels[mine], scores[mine])
        axes.plot(
            fpr,
            tpr,
            color=CYCLE[index % len(CYCLE)],
            linestyle=styles[index // len(CYCLE) % len(styles)],
            label=f"id {machine_id}: AUC {area:.3f}, pAUC {partial:.3f}",
        )
    axes.set(
        title=title,
        xlabel="false-positive rate (normal called anomalous)",
        ylabel="true-positive rate (anomalies found)",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
    )
    axes.legend(loc="lower right")
    return figure
