"""Output while a search runs: a live table on a terminal, plain lines elsewhere."""

import logging
import sys
import textwrap
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from search.engine.asha import Decision
from search.engine.listener import BaseListener
from search.listeners.leaderboard import PLACES, Place
from search.listeners.progress import Leader, Progress, Running
from trainable.detection.gain import gain_text
from trainable.record import FAILURES, EpochReport, TrialEnd, TrialOutcome, TrialStart
from trainable.units import aligned, counted, duration_text, format_bytes, seconds_text

PHASES = {1: "VQ only", 2: "full loss", 3: "frozen"}
"""Short names of the training phases; in phase 3 the codebook is frozen."""
NARROW = 100
Row = tuple[str, str, str, str, str, str]
"""A trial's number, epochs, state or phase, value, time of an epoch and memory."""
TIME = 4
"""The column that a terminal without room for all goes without."""
INDENT = " " * 7
"""Indent of parameters below their trial's figures."""
TALL = 4 + 1 + PLACES + 8
"""Lines of a terminal that has room for the best trials above the running ones: headlines, heading, and some trials."""
HEARTBEAT_SECONDS = 3600.0
SHOWN_TRIALS = 12
"""Most running trials in the live table; a last line counts the others."""


class LiveView(BaseListener):
    """A live table: counts, time left, the best trials, running trials. The best trials stay on screen at the end."""

    def __init__(self, console: Console, progress: Progress):
        self._progress, self._console = progress, console
        # If stderr is this terminal, its lines appear above the table; if it is a file, it stays one.
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=2,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),
        )
        self._redirected: list[logging.StreamHandler[Any]] = []

    def __enter__(self) -> "LiveView":
        stderr = sys.stderr
        self._live.start()
        if sys.stderr is not stderr:
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is stderr:
                    handler.setStream(sys.stderr)
                    self._redirected.append(handler)
        return self

    def close(self) -> None:
        self._live.stop()
        for handler in self._redirected:
            handler.setStream(sys.stderr)
        self._redirected.clear()
        places = self._progress.places()
        if places:
            lines = _board_lines(self._progress, places, self._console.width, over=True)
            self._console.print(Group(*(line for entry in lines for line in entry)))

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        for event in report.events:
            self._live.console.print(Text(f"trial {number}: {event}"))

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        if outcome.end in FAILURES:
            self._live.console.print(Text(_end_line(start, outcome, self._progress.word), style="yellow"))

    def _draw(self) -> Group:
        progress, console = self._progress, self._console
        running = sorted(progress.running.copy().values(), key=lambda entry: entry.start.number)
        lines = [Text(line, style="bold", overflow="fold") for line in _headlines(progress)]
        places = progress.places()
        if places and console.height >= TALL:
            # Without room beside the figures there are no parameters: those of running trials stand below.
            lines += [text[0] for text in _board_lines(progress, places, console.width)]
        if running:
            heading, *trials = _running_lines(progress, running, console.width)
            room = max(console.height - len(lines) - 2, len(trials[0]))
            shown = [heading[0]]
            for count, trial in enumerate(trials):
                if count == SHOWN_TRIALS or len(shown) + len(trial) > room + 1:
                    shown.append(Text(f"and {len(trials) - count} more"))
                    break
                shown += trial
            lines += shown
        return Group(*lines)


def _headlines(progress: Progress) -> list[str]:
    """Counts (pruned and failed even if zero), the best so far, the time, what more trials are expected to bring."""
    counts = progress.counts
    failed = sum(counts[end] for end in FAILURES)
    ended = (
        f"{progress.ended} of {progress.options.num_samples} trials ended: {counts[TrialEnd.COMPLETED]} completed, "
        f"{counts[TrialEnd.PRUNED]} pruned, {failed} failed"
    )
    if counts[TrialEnd.OVER_BUDGET]:
        ended += f"; {counts[TrialEnd.OVER_BUDGET]} over budget"
    times = f"{duration_text(progress.seconds)} so far"
    left = progress.seconds_left()
    if left is not None and progress.ended < progress.options.num_samples:
        times += f", about {duration_text(left)} left"
    best, gain = progress.best, progress.expected_gain()
    lines = [ended, "no epoch has ended yet" if best is None else best_text(best, progress.word), times]
    return lines if gain is None else [*lines, gain_text(gain)]


def _board_lines(progress: Progress, places: list[Place], width: int, *, over: bool = False) -> list[list[Text]]:
    """The heading, then the best trials; where the search is over, trials without an ending are unfinished."""
    running = "unfinished" if over else "running"
    figures: list[Row] = [
        (
            str(place.start.number),
            f"{place.report.epoch}/{progress.options.max_epochs}",
            running if place.end is None else place.end.value,
            f"{place.report.value:.3f}",
            seconds_text(place.report.epoch_seconds),
            memory_text(place.start, place.report),
        )
        for place in places
    ]
    heading = _heading("best trial", "state", progress, [place.report for place in places])
    return _table(heading, figures, [place.start for place in places], width)


def _running_lines(progress: Progress, running: list[Running], width: int) -> list[list[Text]]:
    """The heading, then the running trials."""
    figures: list[Row] = [
        (
            str(entry.start.number),
            f"{entry.epoch}/{progress.options.max_epochs}",
            PHASES.get(entry.report.phase, str(entry.report.phase)) if entry.report else "–",
            f"{entry.report.value:.3f}" if entry.report else "–",
            _epoch_text(entry),
            memory_text(entry.start, entry.report),
        )
        for entry in running
    ]
    heading = _heading("trial", "phase", progress, [entry.report for entry in running])
    return _table(heading, figures, [entry.start for entry in running], width)


def _heading(first: str, third: str, progress: Progress, reports: list[EpochReport | None]) -> Row:
    measured = any(report is not None and report.peak_bytes for report in reports)
    memory = f"GPU memory {'used / predicted' if measured else 'predicted'}"
    return first, "epoch", third, progress.word, "an epoch", memory


def _table(heading: Row, figures: list[Row], starts: list[TrialStart], width: int) -> list[list[Text]]:
    """The heading, then each trial's figures, with its parameters beside them or, without room, below."""
    *words, memory = heading
    if width < NARROW and max(len(row[-1]) for row in figures) < len(memory):
        memory = memory.removeprefix("GPU memory ")
    rows: list[tuple[str, ...]] = [(*words, memory), *figures]
    lines_of_figures = aligned(rows, left=())
    if len(lines_of_figures[0]) > width:
        lines_of_figures = aligned([(*row[:TIME], *row[TIME + 1 :]) for row in rows], left=())
    parameters = ["parameters", *map(params_text, starts)]
    beside = len(lines_of_figures[0]) + 2 + max(map(len, parameters)) <= width
    lines: list[list[Text]] = []
    for row, (text, params) in enumerate(zip(lines_of_figures, parameters, strict=True)):
        style = "dim" if row == 0 else ""
        if beside:
            lines.append([Text(f"{text}  {params}", style=style, no_wrap=True)])
            continue
        wrapped = textwrap.wrap(params, max(20, width - len(INDENT))) if row else []
        lines.append([Text(text, style=style, no_wrap=True), *(Text(INDENT + each, style="dim") for each in wrapped)])
    return lines


class PlainLines(BaseListener):
    """One line per ended trial and per new best: for logs, pipes and job schedulers."""

    def __init__(self, console: Console, progress: Progress):
        self._console, self._progress = console, progress
        self._epoch_seconds: dict[int, float] = {}
        """Of the last epoch of each running trial."""
        self._best: Leader | None = None

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        if resumed:
            self._say(f"trial {start.number} resumes from its checkpoint")

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        self._epoch_seconds[number] = report.epoch_seconds
        for event in report.events:
            self._say(f"trial {number}: {event}")
        self._say_best()

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        time = _time_text(start, self._epoch_seconds.pop(start.number, None))
        self._say(f"{_end_line(start, outcome, self._progress.word, time)} | {headline(self._progress)}")
        self._say_best()

    def _say_best(self) -> None:
        """Prints a new leader or a higher AUC, but not a fall."""
        best, last = self._progress.best, self._best
        if best is None or best == last:
            return
        if last is None or best.completed > last.completed or best.auc > last.auc:
            self._best = best
            self._say(best_text(best, self._progress.word))

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


class Heartbeat(BaseListener):
    """A line an hour, with ``--quiet``: the log of a search of a week shows that it lives, and stays short."""

    def __init__(self, console: Console, progress: Progress, *, clock: Callable[[], float] = time.monotonic):
        self._console, self._progress, self._clock = console, progress, clock
        self._said = clock()

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        self._beat()

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        self._beat()

    def _beat(self) -> None:
        if self._clock() - self._said >= HEARTBEAT_SECONDS:
            self._said = self._clock()
            when = datetime.now().astimezone().isoformat(sep=" ", timespec="minutes")
            self._console.print(f"{when}: {headline(self._progress)}", soft_wrap=True, highlight=False, markup=False)


def make_view(console: Console, progress: Progress, *, quiet: bool) -> BaseListener:
    if quiet:
        return Heartbeat(console, progress)
    return LiveView(console, progress) if console.is_terminal else PlainLines(console, progress)


def headline(progress: Progress) -> str:
    """One line: trials ended, best AUC, time left."""
    parts = [f"{progress.ended}/{progress.options.num_samples} trials"]
    parts += [f"{count} {end.value}" for end, count in progress.counts.items() if count]
    if progress.best is not None:
        best = progress.best
        parts.append(f"{'best' if best.completed else 'highest'} {progress.word} {best.auc:.3f} (trial {best.number})")
    left = progress.seconds_left()
    if left is not None and progress.ended < progress.options.num_samples:
        parts.append(f"about {duration_text(left)} left")
    return ", ".join(parts)


def best_text(best: Leader, word: str) -> str:
    """The leader; before any trial has completed, with the note that its value may fall."""
    if best.completed:
        return f"best so far: {word} {best.auc:.3f}, trial {best.number}, completed"
    return (
        f"highest so far: {word} {best.auc:.3f}, trial {best.number} after {counted(best.epochs, 'epoch')}; it may fall"
    )


def memory_text(start: TrialStart, report: EpochReport | None) -> str:
    """Used and predicted memory; only predicted on a CPU and before the first epoch.

    Used is what the driver counts for the process, as the prediction does; where it does not tell, the allocator's
    peak.
    """
    predicted = report.predicted_bytes if report else start.predicted_bytes
    shown = format_bytes(predicted) if predicted else "–"
    used = (report.driver_bytes or report.peak_bytes) if report else 0
    return f"{format_bytes(used)} / {shown}" if used else shown


def _epoch_text(entry: Running) -> str:
    """Time of an epoch of a running trial; ``~3 s`` as predicted before its first."""
    seconds = entry.epoch_seconds
    if seconds is None:
        return "–"
    return f"{'' if entry.report else '~'}{seconds_text(seconds)}"


def _time_text(start: TrialStart, epoch_seconds: float | None) -> str:
    """What an ended trial's epochs took, beside what was predicted; empty where none was trained."""
    if epoch_seconds is None:
        return ""
    predicted = start.predicted_epoch_seconds
    beside = "" if predicted is None else f" (predicted ~{seconds_text(predicted)})"
    return f", {seconds_text(epoch_seconds)} an epoch{beside}"


def params_text(start: TrialStart) -> str:
    return " ".join(f"{name}={v:.3g}" if isinstance(v, float) else f"{name}={v}" for name, v in start.used.items())


def _end_line(start: TrialStart, outcome: TrialOutcome, word: str, time: str = "") -> str:
    auc = "" if outcome.final_auc is None else f", {word} {outcome.final_auc:.3f}"
    epochs = f" after {counted(outcome.epochs, 'epoch')}" if outcome.epochs else ""
    reason = f": {outcome.reason}" if outcome.reason else ""
    return f"trial {start.number} {outcome.end.value}{epochs}{auc}{time}{reason}"
