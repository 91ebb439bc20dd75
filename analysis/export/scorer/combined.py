"""Density models by name, and those that combine others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .autoregressive import Autoregressive
from .counts import Bigram, RowCounts
from .density import Arrays, Density
from .errors import DetectorError
from .moments import CoarseCrossMahalanobis, CoarseMahalanobis, CrossMahalanobis, Interpolation, Mahalanobis
from .neighbours import GridNeighbours, HistogramNeighbours, ShiftedNeighbours


class Combined(Density):
    """Mean of the members' scores, each in its own standard deviations on unseen normal clips."""

    def __init__(self, entry: Mapping[str, Any], arrays: Arrays, folder: Path):
        super().__init__(entry, arrays)
        self.members = [density_of(member, arrays, folder) for member in entry["members"]]

    def score(self, codes_PHWM: np.ndarray, machine_id: str) -> float:
        group = self.groups[self.group_of(machine_id)]
        raw = np.array([member.score(codes_PHWM, machine_id) for member in self.members])
        return float(((raw - group["centres"]) / group["scales"]).mean())


FORMULAS: dict[str, type[Density]] = {
    "counts": RowCounts,
    "kernel_counts": RowCounts,
    "bigram": Bigram,
    "histogram_neighbours": HistogramNeighbours,
    "grid_neighbours": GridNeighbours,
    "shifted_neighbours": ShiftedNeighbours,
    "mahalanobis": Mahalanobis,
    "cross_mahalanobis": CrossMahalanobis,
    "coarse_mahalanobis": CoarseMahalanobis,
    "coarse_cross_mahalanobis": CoarseCrossMahalanobis,
    "interpolation": Interpolation,
}
OF_PARTS: dict[str, type[Autoregressive] | type[Combined]] = {
    "autoregressive": Autoregressive,
    "combined": Combined,
    "fused": Combined,
}
"""Models that need other files or other models."""


def density_of(entry: Mapping[str, Any], arrays: Arrays, folder: Path) -> Density:
    """The density model that an entry of ``detector.json`` describes. Raises DetectorError if it is unknown."""
    name = entry["name"]
    if name in FORMULAS:
        return FORMULAS[name](entry, arrays)
    if name in OF_PARTS:
        return OF_PARTS[name](entry, arrays, folder)
    raise DetectorError(f"detector.json: this scorer knows no density model {name!r}; export the detector again")
