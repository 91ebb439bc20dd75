"""The errors a user can cause. Message = what, where, what to do; command lines print them as one line."""

import signal

from trainable.printable import printable


class ProjectError(Exception):
    """Base of every error that bad input causes; `exit_status` is what the command line returns."""

    exit_status = 2

    def __str__(self) -> str:
        """The message in one line that any terminal may show, whatever names and values it contains."""
        return printable(" ".join(super().__str__().splitlines()))


class ConfigError(ProjectError):
    """A configuration value is unknown, of the wrong type or out of range."""


class SpaceError(ProjectError):
    """A space file cannot be read as a search space."""


class DataError(ProjectError):
    """Recordings, features or normalisation statistics are missing or unusable."""


class SilentError(DataError):
    """Every sample of a recording is zero."""


class ShortError(DataError):
    """A recording is too short to be scored."""


class DataLeakError(ProjectError):
    """Test clips were passed to something that may only see training clips."""


class BudgetError(ProjectError):
    """No execution plan fits the memory budget, or the budget itself makes no sense."""


class CheckpointError(ProjectError):
    """A checkpoint is missing, damaged, or from another configuration."""


class OtherConfigError(CheckpointError):
    """A checkpoint is intact, but from another configuration; the one before it would be too."""


class RunError(ProjectError):
    """A run's folder cannot be created, read or resumed."""


class NonFiniteError(Exception):
    """A trial's loss became NaN or infinite: a way for a trial to end, not a user's mistake."""


class OutputError(ProjectError):
    """Standard output cannot be written any more."""

    def __init__(self, reason: str, *, reader_gone: bool):
        super().__init__(f"standard output cannot be written: {reason}")
        self.reader_gone = reader_gone
        """Whether what read it has ended, as ``head`` does when it has seen enough."""
        self.exit_status = 128 + signal.SIGPIPE if reader_gone else 1
