"""Driver of kill tests: ``python -m tests.kill.driver`` is ``python -m search.run`` that writes down what it trains.

Trials, checkpoints, study and command line are the real ones. Each epoch that a trial has trained is appended, as
``number epoch pid``, to the file that the environment's KILL_LOG names, before it is reported. The first trial that
trains a second epoch while KILL_HOARD names a file that is not there makes that file and takes `HOARD_BYTES` of memory.
"""

import os
import sys
import time
from dataclasses import dataclass, field

import numpy as np

import search.session
from search.run import main
from search.runners.factory import TrialFactory
from trainable.commandline import run
from trainable.record import EpochReport, TrialStart
from trainable.trial import Trial

HOARD_BYTES = 4 * 2**30


def log_path() -> str:
    return os.environ["KILL_LOG"]


def hoard(path: str, number: int) -> None:
    """Takes memory and waits for what happens, once in all processes; the file names the trial."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return
    os.write(file, str(number).encode())
    os.close(file)
    taken = np.ones(HOARD_BYTES, dtype=np.uint8)
    time.sleep(120)
    del taken


@dataclass(frozen=True)
class LoggedFactory(TrialFactory):
    """Makes real trials; travels to Ray's workers as the real factory does."""

    log: str = field(default_factory=log_path)
    hoard: str = field(default_factory=lambda: os.environ.get("KILL_HOARD", ""))

    def __call__(self, start: TrialStart) -> Trial:
        trial = super().__call__(start)
        step = trial.step

        def logged() -> EpochReport:
            report = step()
            line = f"{start.number} {report.epoch} {os.getpid()}\n".encode()
            log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, line)
            os.close(log)
            if self.hoard and report.epoch == 2:
                hoard(self.hoard, start.number)
            return report

        trial.step = logged  # type: ignore[method-assign]
        return trial


if __name__ == "__main__":
    from tests.kill import driver

    # By the name that workers import it by, and not as __main__.
    search.session.TrialFactory = driver.LoggedFactory  # type: ignore[misc]
    sys.exit(run(main))
