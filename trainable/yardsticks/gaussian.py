"""A Gaussian on one vector of numbers a clip, per machine id."""

from abc import abstractmethod

import numpy as np
import torch

from trainable.data.clips import ClipSet, TrainClips
from trainable.scoring.gaussian import gaussian_of, mahalanobis_distances
from trainable.scoring.metrics import members_by_id
from trainable.yardsticks.base import Yardstick, refuse_unheard


class GaussianYardstick(Yardstick):
    """Mahalanobis distance, with a Ledoit–Wolf covariance (2004), from the mean of the id's normal clips, squared and
    divided by the number of dimensions."""

    def __init__(self) -> None:
        self._fitted: dict[str, dict[str, torch.Tensor]] = {}

    @abstractmethod
    def features(self, frames_TF: np.ndarray) -> np.ndarray:
        """What is measured of one clip, float64 (features,), from its normalised log-mels, float64 (T, 64)."""

    def _fit(self, clips: TrainClips) -> None:
        features = torch.from_numpy(self._features(clips))
        self._fitted = {
            machine_id: gaussian_of(features[members])
            for machine_id, members in members_by_id(clips.machine_ids).items()
        }

    def score_samples(self, clips: ClipSet) -> np.ndarray:
        refuse_unheard(clips, tuple(self._fitted))
        features = torch.from_numpy(self._features(clips))
        scores = np.empty(len(clips))
        for machine_id, members in members_by_id(clips.machine_ids).items():
            scores[members] = mahalanobis_distances(self._fitted[machine_id], features[members]).numpy()
        return scores

    def _features(self, clips: ClipSet) -> np.ndarray:
        # Clip by clip: all frames of a DCASE machine type in float64 would need gigabytes.
        ends = zip(clips.offsets[:-1], clips.offsets[1:], strict=True)
        return np.stack([self.features(clips.frames_TF[begin:end].astype(np.float64)) for begin, end in ends])
