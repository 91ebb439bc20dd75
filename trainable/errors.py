"""The errors a user can cause. Message = what, where, what to do; command lines print them as one line."""


class ProjectError(Exception):
    """Base of every error that bad input causes; `exit_status` is what the command line returns."""

    exit_status = 2

    def __str__(self) -> str:
        """The message in one line, even if the names and values in it contain line breaks."""
        return " ".join(super().__str__().splitlines())


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
