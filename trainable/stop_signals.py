"""Signals that ask a command to end: Ctrl-C, a closed terminal, and what Docker, systemd, Slurm and Kubernetes send.

Each is raised in the main thread as `Stopped`, so that a command ends in its own way: what is open is closed, what is
temporary is removed, and one line says how to go on.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)
"""SIGUSR1 is what a Slurm job may ask for before its time is over."""
CLEAN_UP_SECONDS = 10.0
"""Time in which a command that was asked to end is not asked again: a second Ctrl-C would leave behind what the first
one is cleaning up. Choice."""


class Stopped(KeyboardInterrupt):
    """This command was asked to end by a signal."""

    def __init__(self, number: int = signal.SIGINT):
        super().__init__()
        self.signal = signal.Signals(number)

    @property
    def cause(self) -> str:
        """What asked, for a message: ``Ctrl-C``, ``SIGTERM``."""
        return "Ctrl-C" if self.signal is signal.SIGINT else self.signal.name

    @property
    def exit_status(self) -> int:
        """As in shells: 128 and the signal's number."""
        return 128 + self.signal


_last = signal.SIGINT
"""The last signal that was raised: a library (Ray) may raise a KeyboardInterrupt of its own in its place."""


def stopped(interrupt: KeyboardInterrupt) -> Stopped:
    """The interrupt with its signal."""
    return interrupt if isinstance(interrupt, Stopped) else Stopped(_last)


@contextmanager
def raised() -> Iterator[None]:
    """Raises `Stopped` for each signal of `SIGNALS` in the block; signals that are ignored (``nohup``) stay ignored."""
    asked_at = -CLEAN_UP_SECONDS

    def stop(number: int, _frame: FrameType | None) -> None:
        global _last
        nonlocal asked_at
        if time.monotonic() - asked_at < CLEAN_UP_SECONDS:
            return
        asked_at, _last = time.monotonic(), signal.Signals(number)
        raise Stopped(number)

    with _handled({number: stop for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}):
        yield


@contextmanager
def recorded(record: Callable[[KeyboardInterrupt], None]) -> Iterator[Callable[[], None]]:
    """Passes what a signal raises in the block to `record` before it is raised there.

    The exception may be lost in a finaliser or in a library that catches everything; the record is not. Yields what
    takes the signals back from a library that has set handlers of its own in the block.
    """

    def recording(handler: Callable[[int, FrameType | None], object]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            try:
                handler(number, frame)
            except KeyboardInterrupt as interrupt:
                record(interrupt)
                raise

        return handle

    now = {number: signal.getsignal(number) for number in SIGNALS}
    with _handled({number: recording(handler) for number, handler in now.items() if callable(handler)}) as take_back:
        yield take_back


@contextmanager
def kept() -> Iterator[None]:
    """Restores, after the block, the handlers from before it: a library may replace them, in native code too."""
    with _handled({}):
        yield


@contextmanager
def _handled(
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]],
) -> Iterator[Callable[[], None]]:
    """Sets handlers for the block, and yields what sets them again; outside the main thread there are no signals."""

    def install() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        install()
        yield install
    finally:
        for number, earlier in before.items():
            if earlier is not None:  # None = set by native code
                signal.signal(number, earlier)
