"""What the person at the terminal sees while a search runs: a live table, or plain lines where there is no terminal."""

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.asha import Decision
from search.listeners import Silence
from search.progress import Progress, duration_text
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialStart
from trainable.units import format_bytes

SHOWN_TRIALS = 12
"""Running trials in the live table; with more slots than that the rest is counted."""


class LiveView(Silence):
    """A table that redraws itself: best so far, running trials, counts, time left."""

    def __init__(self, console: Console, progress: Progress):
        self._progress = progress
        self._live = Live(console=console, get_renderable=self._draw, refresh_per_second=2, transient=True)

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def close(self) -> None:
        self._live.stop()

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        if outcome.end not in (TrialEnd.COMPLETED, TrialEnd.PRUNED, TrialEnd.OVER_BUDGET):
            self._live.console.print(Text(_end_line(start, outcome), style="yellow"))

    def _draw(self) -> Group:
        progress = self._progress
        table = Table(box=None, pad_edge=False)
        for name, right in (
            ("trial", True), ("epoch", True), ("phase", True), ("AUC", True), ("memory", True), ("parameters", False),
        ):  # fmt: skip
            table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
        running = sorted(progress.running.copy().values(), key=lambda entry: entry.start.number)
        for entry in running[:SHOWN_TRIALS]:
            report = entry.report
            table.add_row(
                str(entry.start.number),
                f"{report.epoch if report else 0}/{progress.options.max_epochs}",
                str(report.phase) if report else "–",
                f"{report.validation_auc:.3f}" if report else "–",
                memory_text(entry.start, report),
                params_text(entry.start),
            )
        lines: list[Text | Table] = [Text(headline(progress), style="bold"), table]
        if len(running) > SHOWN_TRIALS:
            lines.append(Text(f"and {len(running) - SHOWN_TRIALS} more"))
        return Group(*lines)


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
            self._say(f"best so far: AUC {report.validation_auc:.3f}, trial {number} after {report.epoch} epochs")

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
    """Used of predicted bytes; predicted alone on a CPU."""
    predicted = report.predicted_bytes if report else start.predicted_bytes
    if report and report.peak_bytes:
        return f"{format_bytes(report.peak_bytes)} of {format_bytes(predicted)}"
    return f"{format_bytes(predicted)} predicted" if predicted else "–"


def params_text(start: TrialStart) -> str:
    return " ".join(f"{name}={v:.3g}" if isinstance(v, float) else f"{name}={v}" for name, v in start.params.items())


def _end_line(start: TrialStart, outcome: TrialOutcome) -> str:
    auc = "" if outcome.final_auc is None else f", AUC {outcome.final_auc:.3f}"
    epochs = f" after {outcome.epochs} epochs" if outcome.epochs else ""
    reason = f": {outcome.reason}" if outcome.reason else ""
    return f"trial {start.number} {outcome.end.value}{epochs}{auc}{reason}"
