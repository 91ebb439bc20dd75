"""Ctrl-C that is heard even where a library swallows it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def noted_interrupt(note: Callable[[KeyboardInterrupt], None]) -> Iterator[None]:
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
