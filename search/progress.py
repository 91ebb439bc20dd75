"""What a search is doing now, for the live view, the plain lines and the metrics: counts, running trials, time left."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from search.asha import Decision
from search.options import SearchOptions
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialStart

PRIOR_TRIALS = 3.0
"""Weight of the ASHA schedule against the epochs that trials really took, in trials."""


@dataclass
class Running:
    """A trial under way."""

    start: TrialStart
    report: EpochReport | None = None


@dataclass
class Progress:
    """Kept up to date by the conductor's reports; nothing here decides anything."""

    options: SearchOptions
    rung_epochs: tuple[int, ...]
    workers: int
    """Epochs that are trained at a time."""
    clock: Callable[[], float] = time.monotonic
    running: dict[int, Running] = field(default_factory=dict)
    counts: dict[TrialEnd, int] = field(default_factory=lambda: dict.fromkeys(TrialEnd, 0))
    best: tuple[float, int, int] | None = None
    """Highest validation AUC heard so far, of which trial and after how many epochs."""
    ended_here: int = 0
    """Trials that ended in this process; `counts` holds those of before a resume too."""
    epochs_of_ended: int = 0
    """Epochs of the trials that ended in this process."""
    epoch_seconds: float = 0.0
    epochs: int = 0

    def __post_init__(self) -> None:
        self.begin = self.clock()

    def take_up(self, counts: Mapping[TrialEnd, int], best: tuple[float, int] | None) -> None:
        """After a resume: endings of the part before it, and its best completed trial."""
        self.counts = dict(counts)
        self.best = None if best is None else (*best, self.options.max_epochs)

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        self.running[start.number] = Running(start)

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        self.running[number].report = report
        self.epoch_seconds += report.epoch_seconds
        self.epochs += 1
        if report.validation_auc > (-1.0 if self.best is None else self.best[0]):  # never NaN
            self.best = (report.validation_auc, number, report.epoch)

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        self.running.pop(start.number, None)
        self.counts[outcome.end] += 1
        if outcome.end is not TrialEnd.OVER_BUDGET:
            self.ended_here += 1
            self.epochs_of_ended += outcome.epochs

    @property
    def ended(self) -> int:
        """Trials that ended, proposals over budget not counted."""
        return sum(self.counts.values()) - self.counts[TrialEnd.OVER_BUDGET]

    @property
    def seconds(self) -> float:
        return self.clock() - self.begin

    def seconds_left(self) -> float | None:
        """Estimate from the ASHA schedule and the epochs seen so far; None before the first epoch."""
        if not self.epochs:
            return None
        expected = expected_epochs(self.rung_epochs, self.options.reduction_factor, self.options.max_epochs)
        a_trial = (PRIOR_TRIALS * expected + self.epochs_of_ended) / (PRIOR_TRIALS + self.ended_here)
        done = [entry.report.epoch if entry.report else 0 for entry in self.running.values()]
        left = sum(max(1.0, a_trial - epochs) for epochs in done)
        left += max(0, self.options.num_samples - self.ended - len(self.running)) * a_trial
        seconds = left * self.epoch_seconds / self.epochs / max(1, self.workers)
        limit = self.options.time_limit_seconds
        return seconds if limit is None else max(0.0, min(seconds, limit - self.seconds))


def expected_epochs(rung_epochs: tuple[int, ...], reduction_factor: int, max_epochs: int) -> float:
    """Mean epochs of a trial if at each rung one in η goes on."""
    expected, share, before = 0.0, 1.0, 0
    for epoch in (*rung_epochs, max_epochs):
        expected += share * (epoch - before)
        share, before = share / reduction_factor, epoch
    return expected


def duration_text(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
