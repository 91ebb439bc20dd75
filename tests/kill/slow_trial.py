"""Trials for kill tests: a synthetic curve with a short wait, real checkpoints, and a log of every epoch trained."""

import os
import time
from pathlib import Path

from tests.search_tests.synthetic import SyntheticTrial
from trainable.record import EpochReport, TrialStart

EPOCH_SECONDS = 0.05


class SlowTrial(SyntheticTrial):
    """Appends ``number epoch pid`` to the file of `log_path` whenever it has trained an epoch."""

    def __init__(self, start: TrialStart, log_path: str):
        super().__init__(start)
        self._log_path = log_path

    def step(self) -> EpochReport:
        time.sleep(EPOCH_SECONDS)
        report = super().step()
        with Path(self._log_path).open("a") as log:
            log.write(f"{self.start.number} {report.epoch} {os.getpid()}\n")
        return report

    def save(self, folder: Path) -> Path:
        path = super().save(folder)
        os.sync()
        return path


class SlowTrials:
    """Makes them; travels to Ray's workers."""

    def __init__(self, log_path: str):
        self._log_path = log_path

    def __call__(self, start: TrialStart) -> SlowTrial:
        return SlowTrial(start, self._log_path)
