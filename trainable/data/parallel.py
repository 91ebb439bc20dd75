"""The same work on many recordings, in threads, with a line on stderr where it takes long."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

from trainable.host import available_cores

_shown: ContextVar[bool] = ContextVar("progress is shown", default=True)
_FEWEST_THREADS = 4
"""On few cores too: a disk answers several at once, and of a busy machine they get a larger share."""
_WAITING = 8
"""Results a thread that wait at most: a long recording delays all that follow it."""
_FIRST_S, _EVERY_S = 2.0, 0.2
"""Seconds until a terminal says how far the work is, and between two looks."""
_LINE_S = 10.0
"""Seconds between lines where there is no terminal, such as in a log."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], what: str) -> Iterator[Result]:
    """What `work` gives for each item, in their order; by a thread for each core that this process may use.

    Threads suffice for recordings: libsndfile, torch, numpy and hashlib compute without the interpreter's lock.

    Parameters
    ----------
    what
        What was done to the items so far, such as ``recordings read``.
    """
    workers = max(_FEWEST_THREADS, available_cores())
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool, _progress(what, len(items)) as step:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > _WAITING * workers:
                    yield waiting.popleft().result()
                    step()
            while waiting:
                yield waiting.popleft().result()
                step()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def without_progress() -> Iterator[None]:
    """Shows no progress until the block ends."""
    before = _shown.set(False)
    try:
        yield
    finally:
        _shown.reset(before)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Lets torch compute in the threads that call it: threads of its own in each would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A function to call after each of `total` items."""
    terminal = sys.stderr.isatty()
    begin = time.monotonic()
    done, look = 0, begin + (_FIRST_S if terminal else _LINE_S)
    shown = False

    def step() -> None:
        nonlocal done, look, shown
        done += 1
        now = time.monotonic()
        if not _shown.get() or now < look:
            return
        rate = done / (now - begin)
        text = f"{done:,} of {total:,} {what}, {rate:.0f} a second, {(total - done) / rate:.0f} s to go"
        print(f"\r\033[K{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)
        look, shown = now + (_EVERY_S if terminal else _LINE_S), True

    try:
        yield step
    finally:
        if shown and terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
