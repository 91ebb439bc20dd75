"""What the person at the terminal sees while a search runs: a live table, or plain lines where there is no terminal."""

import logging
import sys
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.asha import Decision
from search.listeners import Silence
from search.progress import Progress, Running, duration_text
from search.study import FAILURES
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialStart
from trainable.units import format_bytes

SHOWN_TRIALS = 12
"""Running trials in the live table; with more slots than that the rest is counted."""


class LiveView(Silence):
    """A table that redraws itself: best so far, running trials, counts, time left."""

    def __init__(self, console: Console, progress: Progress):
        self._progress = progress
        # Where stderr is a file it stays one; on the same terminal its lines go above the table, not through it.
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

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        for event in report.events:
            self._live.console.print(Text(f"trial {number}: {event}"))

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        if outcome.end in FAILURES:
            self._live.console.print(Text(_end_line(start, outcome), style="yellow"))

    def _draw(self) -> Group:
        progress = self._progress
        running = sorted(progress.running.copy().values(), key=lambda entry: entry.start.number)
        lines: list[Text | Table] = [Text(line, style="bold", overflow="fold") for line in _headlines(progress)]
        if running:
            lines.append(_running_table(progress, running[:SHOWN_TRIALS]))
        if len(running) > SHOWN_TRIALS:
            lines.append(Text(f"and {len(running) - SHOWN_TRIALS} more"))
        return Group(*lines)


def _headlines(progress: Progress) -> list[str]:
    """Counts; then the best so far and the time. Pruned and failed are there even while there are none."""
    counts = progress.counts
    failed = sum(counts[end] for end in FAILURES)
    parts = [
        f"{progress.ended} of {progress.options.num_samples} trials ended: {counts[TrialEnd.COMPLETED]} completed",
        f"{counts[TrialEnd.PRUNED]} pruned",
        f"{failed} failed",
    ]
    if counts[TrialEnd.OVER_BUDGET]:
        parts.append(f"{counts[TrialEnd.OVER_BUDGET]} proposals over budget")
    if progress.best is None:
        best = "no epoch has ended yet"
    else:
        auc, number, epochs = progress.best
        best = f"best so far: AUC {auc:.3f}, trial {number} after {epochs_text(epochs)}"
    times = f"{duration_text(progress.seconds)} so far"
    left = progress.seconds_left()
    if left is not None and progress.ended < progress.options.num_samples:
        times += f", about {duration_text(left)} left"
    return [", ".join(parts), f"{best}; {times}"]


def _running_table(progress: Progress, running: list[Running]) -> Table:
    measured = any(entry.report is not None and entry.report.peak_bytes for entry in running)
    memory = "used / predicted" if measured else "predicted"
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("trial", "epoch", "phase", "AUC", f"GPU memory {memory}"):
        table.add_column(name, justify="right", no_wrap=True)
    # The one column that gives way where the terminal is narrow.
    table.add_column("parameters")
    for entry in running:
        report = entry.report
        table.add_row(
            str(entry.start.number),
            f"{report.epoch if report else 0}/{progress.options.max_epochs}",
            str(report.phase) if report else "–",
            f"{report.validation_auc:.3f}" if report else "–",
            memory_text(entry.start, report),
            Text(params_text(entry.start), no_wrap=True, overflow="ellipsis"),
        )
    return table


class PlainLines(Silence):
    """A line a trial's end, and one a new best: for logs, pipes and job schedulers."""

    def __init__(self, console: Console, progress: Progress):
        self._console, self._progress = console, progress
        self._best = float("-inf")

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        if resumed:
            self._say(f"trial {start.number} goes on from its checkpoint")

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        for event in report.events:
            self._say(f"trial {number}: {event}")
        if report.validation_auc > self._best:
            self._best = report.validation_auc
            self._say(f"best so far: AUC {report.validation_auc:.3f}, trial {number} after {epochs_text(report.epoch)}")

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        self._say(f"{_end_line(start, outcome)} | {headline(self._progress)}")

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


def make_view(console: Console, progress: Progress, *, quiet: bool) -> Silence:
    if quiet:
        return Silence()
    return LiveView(console, progress) if console.is_terminal else PlainLines(console, progress)


def headline(progress: Progress) -> str:
    """One line: how far, how good, how long still."""
    parts = [f"{progress.ended}/{progress.options.num_samples} trials"]
    parts += [f"{count} {end.value}" for end, count in progress.counts.items() if count]
    if progress.best is not None:
        auc, number, _ = progress.best
        parts.append(f"best AUC {auc:.3f} (trial {number})")
    left = progress.seconds_left()
    if left is not None and progress.ended < progress.options.num_samples:
        parts.append(f"about {duration_text(left)} left")
    return ", ".join(parts)


def memory_text(start: TrialStart, report: EpochReport | None) -> str:
    """Used and predicted bytes; predicted alone on a CPU and before the first epoch."""
    predicted = report.predicted_bytes if report else start.predicted_bytes
    shown = format_bytes(predicted) if predicted else "–"
    return f"{format_bytes(report.peak_bytes)} / {shown}" if report and report.peak_bytes else shown


def epochs_text(epochs: int) -> str:
    return f"{epochs} epoch" if epochs == 1 else f"{epochs} epochs"


def params_text(start: TrialStart) -> str:
    return " ".join(f"{name}={v:.3g}" if isinstance(v, float) else f"{name}={v}" for name, v in start.used.items())


def _end_line(start: TrialStart, outcome: TrialOutcome) -> str:
    auc = "" if outcome.final_auc is None else f", AUC {outcome.final_auc:.3f}"
    epochs = f" after {epochs_text(outcome.epochs)}" if outcome.epochs else ""
    reason = f": {outcome.reason}" if outcome.reason else ""
    return f"trial {start.number} {outcome.end.value}{epochs}{auc}{reason}"
