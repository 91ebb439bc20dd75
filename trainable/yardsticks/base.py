"""What every yardstick is: fitted to normal training clips, it scores any clips."""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np

from trainable.config import TrialConfig
from trainable.data.clips import ClipSet, TrainClips
from trainable.errors import DataError, DataLeakError


class Yardstick(ABC):
    """A detector that is only compared with."""

    name: ClassVar[str]
    """Its key in ``summary.json``."""
    title: ClassVar[str]
    """What tables call it."""
    trained: ClassVar[bool] = False
    """Whether it trains a network, for minutes; the others take seconds."""

    @classmethod
    def beside(cls, config: TrialConfig) -> Self:
        """The one to compare a detector of this configuration with: the same seed, the same windows of a clip."""
        return cls()

    def fit(self, clips: TrainClips) -> Self:
        """Learns what normal clips are. Raises DataLeakError for anything but training clips."""
        if not isinstance(clips, TrainClips):
            raise DataLeakError(
                f"a yardstick was given {clips.split} clips to fit; it may be fitted to train clips only"
            )
        self._fit(clips)
        return self

    @abstractmethod
    def _fit(self, clips: TrainClips) -> None: ...

    @abstractmethod
    def score_samples(self, clips: ClipSet) -> np.ndarray:
        """Anomaly scores, float64 (clips,): HIGHER = MORE ANOMALOUS.

        Raises DataError for a machine id without training clips, where the yardstick models each id apart.
        """


def refuse_unheard(clips: ClipSet, known: tuple[str, ...]) -> None:
    """Raises DataError if a clip's machine id is not among those of the training clips."""
    for machine_id in sorted(set(clips.machine_ids)):
        if machine_id not in known:
            raise DataError(f"machine id {machine_id} has no training clips; the known ids are {', '.join(known)}")
