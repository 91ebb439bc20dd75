"""A Gaussian on one vector of numbers a clip, per machine id."""

from abc import abstractmethod

import numpy as np
from sklearn.covariance import ledoit_wolf

from trainable.data.clips import ClipSet, TrainClips
from trainable.yardsticks.base import Yardstick, members_by_id, refuse_unheard


class GaussianYardstick(Yardstick):
    """Squared Mahalanobis distance, with a Ledoit–Wolf covariance (2004), from the mean of the id's normal clips."""

    def __init__(self) -> None:
        self._fitted: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    @abstractmethod
    def features(self, frames_TF: np.ndarray) -> np.ndarray:
        """What is measured of one clip, float64 (features,), from its normalised log-mels, float64 (T, 64)."""

    def _fit(self, clips: TrainClips) -> None:
        features = self._features(clips)
        self._fitted = {
            machine_id: (features[members].mean(axis=0), _precision(features[members]))
            for machine_id, members in members_by_id(clips).items()
        }

    def score_samples(self, clips: ClipSet) -> np.ndarray:
        refuse_unheard(clips, tuple(self._fitted))
        features = self._features(clips)
        scores = np.empty(len(clips))
        for machine_id, members in members_by_id(clips).items():
            centre, precision = self._fitted[machine_id]
            gaps = features[members] - centre
            scores[members] = np.einsum("ij,jk,ik->i", gaps, precision, gaps)
        return scores

    def _features(self, clips: ClipSet) -> np.ndarray:
        # Clip by clip: all frames of a DCASE machine type in float64 would need gigabytes.
        ends = zip(clips.offsets[:-1], clips.offsets[1:], strict=True)
        return np.stack([self.features(clips.frames_TF[begin:end].astype(np.float64)) for begin, end in ends])


def _precision(features: np.ndarray) -> np.ndarray:
    # One clip has no covariance: every direction counts equally. Equal clips have none either: hence the ridge.
    covariance = ledoit_wolf(features)[0] if len(features) > 1 else np.eye(features.shape[1])
    ridge = 1e-9 * (1 + covariance.diagonal().mean())
    return np.asarray(np.linalg.inv(covariance + ridge * np.eye(len(covariance))))
