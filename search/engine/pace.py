"""Seconds an epoch of a trial: predicted from its work, calibrated by the epochs of this search."""

from collections import deque
from collections.abc import Iterable
from statistics import median

from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.memory.predict import DataSizes
from trainable.record import EpochReport, TrialRecord
from trainable.timing.speed import Speed
from trainable.timing.work import epoch_work

RECENT = 200
"""Epochs that calibrate a prediction."""


class Pace:
    """Predicts the epochs of one search: one data set, one kind of device.

    Parameters
    ----------
    speed
        Of the device. If it was measured, even the first trial has a prediction.
    """

    def __init__(self, data: DataSizes, speed: Speed):
        self._data, self._speed = data, speed
        self._first: deque[float] = deque(maxlen=RECENT)
        self._later: deque[float] = deque(maxlen=RECENT)
        """Measured ÷ estimated. Libraries set themselves up in a trial's first epoch, and its codebook starts: it
        counts only as long as there is no other."""

    def estimate(self, config: TrialConfig, plan: ExecutionPlan | None = None) -> float:
        """Seconds an epoch by the device's speed alone, without a plan those of the whole batch at once.

        It depends on no epoch, so a search resumed on the same kind of device gets it again.
        """
        return self._speed.seconds(epoch_work(config, self._data, plan)).alone

    def predict(self, config: TrialConfig, plan: ExecutionPlan) -> float | None:
        """Seconds an epoch; None as long as the speed is not known."""
        ratios = self._later or self._first
        if not ratios and not self._speed.measured:
            return None
        return self.estimate(config, plan) * (median(ratios) if ratios else 1.0)

    def learn(self, config: TrialConfig, report: EpochReport) -> None:
        """Adds a trial's next epoch; one of a version that did not record its plan tells nothing."""
        if report.plan is None:
            return
        ratios = self._first if report.epoch == 1 else self._later
        ratios.append(report.epoch_seconds / self.estimate(config, report.plan))

    def learn_from(self, records: Iterable[TrialRecord]) -> None:
        """Adds the epochs of trials from before a resume."""
        for record in records:
            for report in record.epochs:
                self.learn(record.start.config, report)
