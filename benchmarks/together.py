"""Processes that start together: each waits for the others, and one that dies ends the wait for all."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from trainable.errors import ConfigError
from trainable.host import available_cores

SECONDS = 900.0
"""A process that sends nothing for this long has failed."""
READY, RESULT, FAILED = "ready", "result", "failed"


class Barrier:
    """A child's end of the barrier, where it waits for the others."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def wait(self) -> None:
        """Waits until all have arrived and the parent releases them. Raises EOFError if the parent is gone."""
        self._connection.send((READY, None))
        self._connection.recv()


def together(
    target: Callable[..., Any],
    count: int,
    *arguments: Any,
    between: Callable[[Callable[[], None]], None],
    seconds: float = SECONDS,
) -> list[Any]:
    """Runs ``target(*arguments, barrier)`` in each of `count` processes and returns the results.

    Parameters
    ----------
    between
        Called in this process while they run, with a function that returns once all wait in ``barrier.wait()``, and
        releases them. It must call that function as often as each child waits.

    Raises
    ------
    ConfigError
        As soon as one of them fails, dies, or sends nothing for `seconds`.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, available_cores() // count)
    ends, processes = [], []
    for _ in range(count):
        mine, its = context.Pipe()
        process = context.Process(target=_child, args=(target, threads, arguments, its), daemon=True)
        process.start()
        its.close()  # so that the child's death closes the pipe
        ends.append(mine)
        processes.append(process)
    patience = 30.0
    try:

        def release() -> None:
            _receive(ends, READY, seconds)
            try:
                for end in ends:
                    end.send(None)
            except BrokenPipeError:
                raise _died(len(ends)) from None

        between(release)
        return _receive(ends, RESULT, seconds)
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
    torch.set_num_threads(threads)  # the processes share the cores, as the slots of a search do
    try:
        result = target(*arguments, Barrier(connection))
    except Exception as error:
        connection.send((FAILED, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
    else:
        connection.send((RESULT, result))


def _receive(ends: Sequence[Connection], expected: str, seconds: float) -> list[Any]:
    """Receives one message from each, in their order."""
    received: dict[int, Any] = {}
    deadline = time.monotonic() + seconds
    while len(received) < len(ends):
        silent = [end for index, end in enumerate(ends) if index not in received]
        # Those already waiting may die meanwhile; those that sent their result end anyway.
        ready = wait(ends if expected == READY else silent, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise ConfigError(f"{len(silent)} of {len(ends)} trials sent nothing for {seconds:.0f} s")
        for end in ready:
            assert isinstance(end, Connection)
            try:
                kind, value = end.recv()
            except (EOFError, ConnectionError):
                raise _died(len(ends)) from None
            if kind != expected:
                raise ConfigError(f"a trial of {len(ends)} failed: {value}")
            received[ends.index(end)] = value
    return [received[index] for index in range(len(ends))]


def _died(count: int) -> ConfigError:
    return ConfigError(f"a trial of {count} died without an error; was it killed for memory?")
