"""Progress of a search for the live view, the plain lines and the metrics: counts, running trials, time left."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from search.engine.asha import Decision
from search.listeners.leaderboard import Leaderboard, Place
from search.options import SearchOptions
from trainable.config import Objective
from trainable.record import FAILURES, EpochReport, TrialEnd, TrialOutcome, TrialRecord, TrialStart, best_first

PRIOR_TRIALS = 3.0
"""Weight of the ASHA schedule against the epochs that trials actually took, in trials."""


@dataclass
class Running:
    """A running trial."""

    start: TrialStart
    report: EpochReport | None = None
    """Its last report in this process."""
    resumed_at: int = 0
    """Epochs it had when this process resumed it."""
    seconds: float = 0.0
    """Total duration of its epochs in this process."""

    @property
    def epoch(self) -> int:
        """Epochs finished so far."""
        return self.report.epoch if self.report else self.resumed_at

    @property
    def epoch_seconds(self) -> float | None:
        """Its mean seconds per epoch; as predicted before its first epoch in this process, None where nothing is."""
        if self.report is None:
            return self.start.predicted_epoch_seconds
        return self.seconds / max(1, self.epoch - self.resumed_at)


@dataclass(frozen=True)
class Leader:
    """The trial that ranks first now, by the rule that selects the winner."""

    auc: float
    """Value of its last epoch."""
    number: int
    epochs: int
    completed: bool
    """A completed trial keeps its AUC and ranks before all others; a running one's AUC may still fall."""


@dataclass
class Progress:
    """Listener that tracks progress; it makes no decisions."""

    options: SearchOptions
    rung_epochs: tuple[int, ...]
    workers: int
    """Epochs trained concurrently."""
    clock: Callable[[], float] = time.monotonic
    expected_gain: Callable[[], float | None] = lambda: None
    """What more trials are expected to bring now (`trainable.detection.gain`)."""
    running: dict[int, Running] = field(default_factory=dict)
    counts: dict[TrialEnd, int] = field(default_factory=lambda: dict.fromkeys(TrialEnd, 0))
    completed: tuple[float, int] | None = None
    """Highest final AUC of a completed trial, and its number; ties go to the first."""
    ended_here: int = 0
    """Trials that ended in this process; `counts` includes those from before a resume."""
    epochs_of_ended: int = 0
    """Epochs of the trials that ended in this process."""
    epoch_seconds: float = 0.0
    epochs: int = 0
    board: Leaderboard = field(default_factory=Leaderboard)

    def __post_init__(self) -> None:
        self.word = Objective.named(self.options.data.objective).short
        """What a trial's value is called."""
        self.begin = self.clock()
        self._last: dict[int, tuple[float, int]] = {}
        """AUC and epoch of the last report of each running or pruned trial; used until a trial completes."""
        self._resumed_at: Mapping[int, int] = {}

    def resume_from(
        self,
        counts: Mapping[TrialEnd, int],
        best: tuple[float, int] | None,
        epochs: Mapping[int, int] | None = None,
        leaders: Iterable[TrialRecord] = (),
    ) -> None:
        """Sets the state at a resume: counts of endings, best completed trial or trials, epochs of resumed trials."""
        self.board.resume_from(leaders)
        self.counts = dict(counts)
        self.completed = best
        self._resumed_at = dict(epochs or {})

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        self.running[start.number] = Running(start, resumed_at=self._resumed_at.get(start.number, 0) if resumed else 0)

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        entry = self.running[number]
        entry.report = report
        entry.seconds += report.epoch_seconds
        self.epoch_seconds += report.epoch_seconds
        self.epochs += 1
        if self.completed is None:
            self._last.pop(number, None)
            if report.value == report.value:  # not NaN
                self._last[number] = (report.value, report.epoch)

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        entry = self.running.pop(start.number, None)
        if entry is not None:
            self.board.ended(start, entry.report, outcome)
        self.counts[outcome.end] += 1
        if outcome.end is not TrialEnd.OVER_BUDGET:
            self.ended_here += 1
            self.epochs_of_ended += outcome.epochs
        if outcome.end in FAILURES:
            self._last.pop(start.number, None)
        auc = outcome.final_auc
        if outcome.end is TrialEnd.COMPLETED and auc is not None and auc == auc:
            self.completed = min(
                self.completed or (auc, start.number), (auc, start.number), key=lambda leader: best_first(*leader)
            )
            self._last.clear()

    @property
    def best(self) -> Leader | None:
        """The leader: the best completed trial or, before any completes, the trial with the highest last AUC."""
        if self.completed is not None:
            return Leader(*self.completed, self.options.max_epochs, True)
        last = self._last.copy()  # the live view draws in another thread
        if not last:
            return None
        auc, number = min(((auc, number) for number, (auc, _) in last.items()), key=lambda leader: best_first(*leader))
        return Leader(auc, number, last[number][1], False)

    def places(self) -> list[Place]:
        """The leaderboard: completed trials first, then running ones, then pruned ones."""
        return self.board.places((entry.start, entry.report) for entry in self.running.copy().values())

    @property
    def ended(self) -> int:
        """Trials that ended, without proposals over budget."""
        return sum(self.counts.values()) - self.counts[TrialEnd.OVER_BUDGET]

    @property
    def seconds(self) -> float:
        return self.clock() - self.begin

    def seconds_left(self) -> float | None:
        """Estimates the remaining time from the ASHA schedule and the epochs so far, or as they are predicted.

        None before the first epoch where none is predicted.

        The workers share the remaining trials, but each trial runs on one worker: the search ends no sooner than its
        longest trial.
        """
        pace = self._pace()
        if pace is None:
            return None
        running = [self._seconds_of(entry, pace) for entry in self.running.copy().values()]
        waiting = max(0, self.options.num_samples - self.ended - len(running))
        expected = expected_epochs(self.rung_epochs, self.options.reduction_factor, self.options.max_epochs)
        a_trial = (PRIOR_TRIALS * expected + self.epochs_of_ended) / (PRIOR_TRIALS + self.ended_here) * pace
        shared = (sum(running) + waiting * a_trial) / max(1, self.workers)
        seconds = max([shared, *running, a_trial if waiting else 0.0])
        limit = self.options.time_limit_seconds
        return seconds if limit is None else max(0.0, min(seconds, limit - self.seconds))

    def _pace(self) -> float | None:
        """Seconds an epoch: the mean of all so far or, before the first, of what is predicted for those that run."""
        if self.epochs:
            return self.epoch_seconds / self.epochs
        predicted = [entry.epoch_seconds for entry in self.running.copy().values() if entry.epoch_seconds is not None]
        return fmean(predicted) if predicted else None

    def _seconds_of(self, entry: Running, pace: float) -> float:
        """Expected remaining seconds of a running trial, given the rungs that it has not passed yet."""
        epochs = expected_epochs(
            self.rung_epochs, self.options.reduction_factor, self.options.max_epochs, done=entry.epoch
        )
        return epochs * (pace if entry.epoch_seconds is None else entry.epoch_seconds)


def expected_epochs(rung_epochs: tuple[int, ...], reduction_factor: int, max_epochs: int, *, done: int = 0) -> float:
    """Expected remaining epochs of a trial after `done` epochs, if one in η continues at each later rung."""
    expected, share, before = 0.0, 1.0, done
    for epoch in (*rung_epochs, max_epochs):
        if epoch > done:
            expected += share * (epoch - before)
            share, before = share / reduction_factor, epoch
    return expected
