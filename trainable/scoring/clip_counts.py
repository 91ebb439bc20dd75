"""How many clips an AUC rests on, and how it is written beside its interval."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from trainable.units import counted

FEW_CLIPS = 10
"""With fewer clips of a kind, over all machine ids, the interval of an AUC of 0.9 is wider than 0.34 on one machine id,
and a bootstrap calls equal detectors different in up to 17 of 100 comparisons with three clips of a kind and machine
id, in 60 with one (``benchmarks/results/auc_intervals.csv``)."""


@dataclass(frozen=True)
class ClipCounts:
    """Labelled clips that judge, over all machine ids."""

    normal: int
    anomalous: int

    @classmethod
    def of(cls, labels: np.ndarray) -> "ClipCounts":
        """Counts labels, 1 for anomalous."""
        anomalous = int(labels.sum())
        return cls(len(labels) - anomalous, anomalous)

    @classmethod
    def from_dict(cls, counts: Mapping[str, int] | None) -> "ClipCounts | None":
        """Reads an entry of a summary; None if it is missing, as in runs of earlier versions."""
        return None if counts is None else cls(counts["normal"], counts["anomalous"])

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @property
    def few(self) -> bool:
        """Whether a kind has fewer than `FEW_CLIPS`."""
        return min(self.normal, self.anomalous) < FEW_CLIPS

    @property
    def text(self) -> str:
        """``80 normal, 80 anomalous clips``."""
        return f"{self.normal:,} normal, {counted(self.anomalous, 'anomalous clip')}"

    @property
    def warning(self) -> str:
        """``only 3 anomalous clips judge: the interval says little; add some``; empty if there are enough."""
        scarce = {kind: count for kind, count in self.to_dict().items() if count < FEW_CLIPS}
        if not scarce:
            return ""
        shown = " and ".join(f"{count} {kind}" for kind, count in scarce.items())
        judge = "clip judges" if list(scarce.values()) == [1] else "clips judge"
        return f"only {shown} {judge}: the interval says little; add some"


def auc_text(auc: float, interval: tuple[float, float] | None, clips: ClipCounts | None) -> str:
    """``0.941 (95 % interval 0.910 … 0.970; 80 normal, 80 anomalous clips)``, without what is not known."""
    if interval is None:
        return f"{auc:.3f}"
    return f"{auc:.3f} ({interval_text(interval, clips)})"


def interval_text(interval: tuple[float, float], clips: ClipCounts | None) -> str:
    """``95 % interval 0.910 … 0.970; 80 normal, 80 anomalous clips``."""
    low, high = interval
    return f"95 % interval {low:.3f} … {high:.3f}" + ("" if clips is None else f"; {clips.text}")
