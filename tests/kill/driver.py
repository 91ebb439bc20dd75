"""Driver of kill tests: ``python -m tests.kill.driver`` is ``python -m search.run`` that writes down what it trains.

Trials, checkpoints, study and command line are the real ones. Each epoch that a trial has trained is appended, as
``number epoch pid``, to the file that the environment's KILL_LOG names, before it is reported.
"""

import os
import sys
from dataclasses import dataclass, field

import search.session
from search.run import main
from search.runners.factory import TrialFactory
from trainable.commandline import run
from trainable.record import EpochReport, TrialStart
from trainable.trial import Trial


def log_path() -> str:
    return os.environ["KILL_LOG"]


@dataclass(frozen=True)
class LoggedFactory(TrialFactory):
    """Makes real trials; travels to Ray's workers as the real factory does."""

    log: str = field(default_factory=log_path)

    def __call__(self, start: TrialStart) -> Trial:
        trial = super().__call__(start)
        step = trial.step

        def logged() -> EpochReport:
            report = step()
            line = f"{start.number} {report.epoch} {os.getpid()}\n".encode()
            log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(log, line)
            os.close(log)
            return report

        trial.step = logged  # type: ignore[method-assign]
        return trial


if __name__ == "__main__":
    from tests.kill import driver

    # By the name that workers import it by, and not as __main__.
    search.session.TrialFactory = driver.LoggedFactory  # type: ignore[misc]
    sys.exit(run(main))
