"""A timeout for a trial's epoch in this process."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import _GeneratorContextManager, contextmanager
from types import FrameType

AGAIN_SECONDS = 1.0
"""Interval at which the error is raised again in a block that swallowed it; leaves time to clean up."""


class TrialTimeoutError(Exception):
    """A trial did not report for longer than ``--trial-timeout`` allows."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raises TrialTimeoutError inside the block if it takes longer; no limit if None or if a debugger traces.

    The interval timer's signal interrupts Python code and blocking reads. Native code is interrupted only when it
    returns to Python, and a read that the kernel cannot interrupt is not; then only Ray workers, which can be killed,
    help. Outside the main thread there are no signals, hence no limit.

    A library may swallow the error; it is raised again every `AGAIN_SECONDS` until the block ends.
    """
    if seconds is None or sys.gettrace() is not None or threading.current_thread() is not threading.main_thread():
        yield
        return

    over = False

    def late(_number: int, frame: FrameType | None) -> None:
        # An error raised on the way out would leave the timer running and this handler in place.
        if not over and (frame is None or frame.f_code not in leaving):
            raise TrialTimeoutError(f"no report for more than {seconds:g} s")

    leaving = (sys._getframe().f_code, _GeneratorContextManager.__exit__.__code__)
    begin = time.monotonic()
    handler = signal.signal(signal.SIGALRM, late)
    before, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    try:
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if before:  # restore an earlier timer, minus the time that has passed
            signal.setitimer(signal.ITIMER_REAL, max(before - (time.monotonic() - begin), 1e-3), interval)
