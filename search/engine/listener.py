"""Listeners of a search: the protocol, a base class with no-op methods, and several listeners as one."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from search.engine.asha import Decision
from search.registry import LISTENERS
from trainable.record import EpochReport, TrialOutcome, TrialStart


class Listener(Protocol):
    """Receives every start, report and ending of a search; the live view is one."""

    def on_start(self, start: TrialStart, *, resumed: bool) -> None: ...

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None: ...

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None: ...


class BaseListener:
    """A listener whose methods do nothing: subclasses override what they need. A context manager for one search."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The search has ended or was interrupted."""

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        """A trial starts or resumes."""

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        """A trial finished an epoch."""

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        """A trial ended, or never started because it is over budget."""


ListenerFactory = Callable[[Path], AbstractContextManager[Listener]]
"""Makes the listener of one search, given the run's folder; it is open for the time of the search."""


def register_listener(name: str, factory: ListenerFactory) -> None:
    """Makes a listener known to ``--listener``. Raises ConfigError if the name is taken."""
    LISTENERS.register(name, factory)


def make_listener(name: str, folder: Path) -> AbstractContextManager[Listener]:
    """The listener of that name for one run's folder, not yet open. Raises ConfigError if there is none."""
    factory: ListenerFactory = LISTENERS.get(name)
    return factory(folder)


class Listeners:
    """Calls each listener in turn."""

    def __init__(self, listeners: Sequence[Listener]):
        self.listeners = listeners

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        for listener in self.listeners:
            listener.on_start(start, resumed=resumed)

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        for listener in self.listeners:
            listener.on_report(number, report, decision)

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        for listener in self.listeners:
            listener.on_end(start, outcome)
