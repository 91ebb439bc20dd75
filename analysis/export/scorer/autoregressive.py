"""A causal network over the code grid: its graph is an ONNX model, its weights are the group's arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .density import Arrays, PositionDensity
from .networks import Network


class Autoregressive(PositionDensity):
    """−log p of each position's codes given the positions before it."""

    def __init__(self, entry: Mapping[str, Any], arrays: Arrays, folder: Path):
        super().__init__(entry, arrays)
        self.network = Network(folder / entry["network"])

    def positions(self, codes_PHWM: np.ndarray, machine_id: str) -> np.ndarray:
        return self.network(codes=codes_PHWM, **self.groups[self.group_of(machine_id)])
