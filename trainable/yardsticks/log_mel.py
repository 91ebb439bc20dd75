"""What a covariance matrix finds."""

from typing import ClassVar

import numpy as np

from trainable.yardsticks.gaussian import GaussianYardstick


class LogMelMahalanobis(GaussianYardstick):
    """Mahalanobis distance of the mean and deviation of each log-mel bin over time."""

    name: ClassVar[str] = "log_mel_mahalanobis"
    title: ClassVar[str] = "log-mel Mahalanobis"

    def features(self, frames_TF: np.ndarray) -> np.ndarray:
        """Means, then deviations, (128,)."""
        return np.concatenate([frames_TF.mean(axis=0), frames_TF.std(axis=0)])
