"""What an error of a trial means: an ending of its own, a place that cannot be written, or a crash."""

import errno

from trainable.device.out_of_memory import is_out_of_memory
from trainable.errors import BudgetError, CheckpointError, NonFiniteError, RunError
from trainable.record import TrialEnd

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def ending_of(error: BaseException) -> TrialEnd | None:
    """The ending that is the trial's own doing; None for a crash."""
    if isinstance(error, NonFiniteError):
        return TrialEnd.NON_FINITE
    if isinstance(error, BudgetError) or is_out_of_memory(error):
        return TrialEnd.OUT_OF_MEMORY
    return None


def storage_failure(error: BaseException) -> str | None:
    """One line if an error comes from the place that results are written to rather than from the trial; else None."""
    if isinstance(error, CheckpointError | RunError):
        return str(error)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        where = error.filename or "a file of the trial"
        return f"{where} cannot be written: {error.strerror}; make room, and go on with --resume"
    return None
