"""Processes that begin together: each waits where the others wait, and one that dies ends the waiting of all."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from trainable.errors import ConfigError
from trainable.host import available_cores

SECONDS = 900.0
"""A process that says nothing for so long has failed."""
READY, RESULT, FAILED = "ready", "result", "failed"


class Meeting:
    """A child's end: where it waits for the others."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def wait(self) -> None:
        """Until all have come and the parent lets them go. Raises EOFError if the parent is gone."""
        self._connection.send((READY, None))
        self._connection.recv()


def together(
    target: Callable[..., Any],
    count: int,
    *arguments: Any,
    between: Callable[[Callable[[], None]], None],
    seconds: float = SECONDS,
) -> list[Any]:
    """What ``target(*arguments, meeting)`` gives in each of `count` processes.

    Parameters
    ----------
    between
        Called here while they run, with a function that meets them: it returns when all wait in ``meeting.wait()``,
        and lets them go on. Called as often as each child waits.

    Raises
    ------
    ConfigError
        As soon as one of them fails, dies, or says nothing for `seconds`.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, available_cores() // count)
    ends, processes = [], []
    for _ in range(count):
        mine, its = context.Pipe()
        process = context.Process(target=_child, args=(target, threads, arguments, its), daemon=True)
        process.start()
        its.close()  # so that its death closes the pipe
        ends.append(mine)
        processes.append(process)
    patience = 30.0
    try:

        def meet() -> None:
            _hear(ends, READY, seconds)
            try:
                for end in ends:
                    end.send(None)
            except BrokenPipeError:
                raise _died(len(ends)) from None

        between(meet)
        return _hear(ends, RESULT, seconds)
    except BaseException:
        patience = 0.0
        raise
    finally:
        for process in processes:
            process.join(patience)
            if process.is_alive():
                process.kill()
                process.join()


def _child(target: Callable[..., Any], threads: int, arguments: tuple[Any, ...], connection: Connection) -> None:
    torch.set_num_threads(threads)  # all together use the cores once, as the slots of a search do
    try:
        result = target(*arguments, Meeting(connection))
    except Exception as error:
        connection.send((FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
    else:
        connection.send((RESULT, result))


def _hear(ends: Sequence[Connection], expected: str, seconds: float) -> list[Any]:
    """One message of each, in their order."""
    heard: dict[int, Any] = {}
    deadline = time.monotonic() + seconds
    while len(heard) < len(ends):
        silent = [end for index, end in enumerate(ends) if index not in heard]
        # Those that wait already may die while they do; those that gave their result end anyway.
        spoke = wait(ends if expected == READY else silent, timeout=max(0.0, deadline - time.monotonic()))
        if not spoke:
            raise ConfigError(f"{len(silent)} of {len(ends)} trials said nothing for {seconds:.0f} s")
        for end in spoke:
            assert isinstance(end, Connection)
            try:
                kind, value = end.recv()
            except (EOFError, ConnectionError):
                raise _died(len(ends)) from None
            if kind != expected:
                raise ConfigError(f"a trial of {len(ends)} did not come to its end: {value}")
            heard[ends.index(end)] = value
    return [heard[index] for index in range(len(ends))]


def _died(count: int) -> ConfigError:
    return ConfigError(f"a trial of {count} died without a word; was it killed for memory?")
