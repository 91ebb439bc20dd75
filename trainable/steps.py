"""How far a command is while it works: a bar on a terminal, elsewhere a line at least every ten seconds."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 8.0
"""Between two lines; below ten with some to spare for a busy machine."""
BAR_WIDTH = 20


class Steps:
    """Steps of a command whose number is known; this base tells nobody."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self.what = ""
        self.began = time.monotonic()

    def expect(self, count: int) -> None:
        """`count` more steps will come."""
        self.total += count

    def begin(self, what: str) -> None:
        """The next step begins, which ends the one before."""
        self.done += bool(self.what)
        self.what, self.began = what, time.monotonic()
        self.show()

    def show(self) -> None:
        """Called whenever a step begins."""


class _Lines(Steps):
    """Lines for logs and pipes; none for what takes less than `LINE_SECONDS`."""

    def __init__(self, console: "Console"):
        super().__init__()
        self._console = console
        self._last = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="steps", daemon=True)
        self._thread.start()

    def _tell(self) -> None:
        while not self._closed.wait(0.5):
            if self.what and time.monotonic() - self._last >= LINE_SECONDS:
                self._last = time.monotonic()
                self._console.print(self.line, soft_wrap=True, highlight=False, markup=False)

    @property
    def line(self) -> str:
        """``[#####---------------] 2 of 8 steps done; now: scoring held-out clips, 12 s``."""
        total = max(self.total, self.done + 1)
        filled = BAR_WIDTH * self.done // total
        bar = "#" * filled + "-" * (BAR_WIDTH - filled)
        return f"[{bar}] {self.done} of {total} steps done; now: {self.what}, {time.monotonic() - self.began:.0f} s"

    def close(self) -> None:
        self._closed.set()
        self._thread.join()


def error_console() -> "Console":
    """Standard error, for commands whose output is their answer."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def told_steps(console: "Console", *, quiet: bool = False) -> Iterator[Steps]:
    """Steps that are shown on the console until the block ends; `quiet` shows none."""
    if quiet:
        yield Steps()
    elif console.is_terminal:
        with _bar(console) as bar:
            yield bar
    else:
        lines = _Lines(console)
        try:
            yield lines
        finally:
            lines.close()


@contextmanager
def _bar(console: "Console") -> Iterator[Steps]:
    """A bar with the step and its time, which goes when the block ends."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(BAR_WIDTH), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        class Bar(Steps):
            def show(self) -> None:
                progress.update(task, description=self.what, completed=self.done, total=max(self.total, self.done + 1))

        yield Bar()
