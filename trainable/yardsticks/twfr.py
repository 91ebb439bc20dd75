"""What the loudest moments of each mel bin tell."""

from typing import ClassVar

import numpy as np

from trainable.errors import ConfigError
from trainable.yardsticks.gaussian import GaussianYardstick

DECAY = 0.95
"""Default r: about the loudest 20 frames of a bin count. Guan et al. choose r per machine type."""


class TWFR(GaussianYardstick):
    """Time-weighted frequency representation (Guan et al. 2023), with one Gaussian where they fit a mixture.

    Each mel bin's frames are sorted, the loudest first, and averaged with weights r^k / Σ r^k (global weighted ranking
    pooling): r = 1 is the mean over time, r = 0 the maximum.
    """

    name: ClassVar[str] = "twfr"
    title: ClassVar[str] = "TWFR + Gaussian"

    def __init__(self, *, decay: float = DECAY):
        if not 0 <= decay <= 1:
            raise ConfigError(f"the decay of TWFR is {decay}; it must be from 0 to 1")
        super().__init__()
        self.decay = decay

    def features(self, frames_TF: np.ndarray) -> np.ndarray:
        """Weighted mean of each bin's sorted frames, (64,)."""
        weights_T = self.decay ** np.arange(len(frames_TF))
        return np.asarray(weights_T @ np.sort(frames_TF, axis=0)[::-1] / weights_T.sum())
