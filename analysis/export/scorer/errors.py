"""What can be wrong with a detector's folder and with a recording. Message = what, where, what to do, in one line."""

from .printable import printable


class ScorerError(Exception):
    """Base of both; its message is one line that any terminal may show, whatever names it holds."""

    def __str__(self) -> str:
        return printable(" ".join(super().__str__().splitlines()))


class DetectorError(ScorerError):
    """The folder holds no exported detector, or a damaged one."""


class RecordingError(ScorerError):
    """A recording is missing or unusable; `status` is what its line says."""

    status = "error"


class SilentError(RecordingError):
    """Every sample of a recording is zero."""

    status = "silent"


class ShortError(RecordingError):
    """A recording is shorter than a patch."""

    status = "short"
