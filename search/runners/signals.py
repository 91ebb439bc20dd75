"""What reaches a search by signals in this very process: a limit on a trial's silence, and a Ctrl-C that is heard."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import _GeneratorContextManager, contextmanager
from types import FrameType
from typing import Any

AGAIN_SECONDS = 1.0
"""Between two tries to end a block that has swallowed the first; time enough for one that is being left to clean up."""


class TrialTimeoutError(Exception):
    """A trial did not report for longer than ``--trial-timeout`` allows."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raises TrialTimeoutError inside the block when it lasts longer; None, or a debugger that traces, waits for ever.

    The interval timer's signal interrupts Python code and waiting reads alike. What a library computes without coming
    back to Python is interrupted when it does; a read that the kernel itself cannot interrupt is not, and there only
    workers of Ray, which can be killed, help. Outside the main thread there are no signals, hence no limit.

    A library that catches everything swallows the error; it is raised again every `AGAIN_SECONDS` until the block ends.
    """
    if seconds is None or sys.gettrace() is not None or threading.current_thread() is not threading.main_thread():
        yield
        return

    over = False

    def late(_number: int, frame: FrameType | None) -> None:
        # On the way out it would leave the timer running and this handler in place.
        if not over and (frame is None or frame.f_code not in leaving):
            raise TrialTimeoutError(f"silent for more than {seconds:g} s")

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
        if before:  # whoever had set the timer gets it back, less the time that has passed
            signal.setitimer(signal.ITIMER_REAL, max(before - (time.monotonic() - begin), 1e-3), interval)


@contextmanager
def record_interrupt(note: Callable[[KeyboardInterrupt], None]) -> Iterator[None]:
    """Tells `note` of a Ctrl-C inside the block before it is raised there.

    Raised at whatever Python runs at that moment, it is lost in a finaliser or in a library that catches everything;
    what was noted is not. Outside the main thread there are no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(_number: int, _frame: Any) -> None:
        interrupt = KeyboardInterrupt()
        note(interrupt)
        raise interrupt

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
