"""The state of a search: counts of endings, the best trials, what more of them are expected to bring, whether all fail
the same way."""

import re
from bisect import insort
from collections.abc import Collection
from itertools import islice

from trainable.detection.gain import expected_gain
from trainable.detection.ranking import COMPETING_ENDS, LEADERS
from trainable.record import FAILURES, TrialEnd, TrialOutcome, best_first

SAME_FAILURES = 5
"""If this many first trials all fail in the same way, the fault is not in their parameters."""


class Standing:
    """Counts endings and ranks trials by their value at the last epoch.

    Parameters
    ----------
    least_epochs
        Epochs that a trial must have trained to be among the leaders, stopped or not.
    """

    def __init__(self, least_epochs: int) -> None:
        self._least_epochs = least_epochs
        self.counts: dict[TrialEnd, int] = dict.fromkeys(TrialEnd, 0)
        self.best: tuple[float, int] | None = None
        """Highest final value of a completed trial, and its number: the winner; ties go to the first.

        Choosing the best epoch of all trials would take a maximum over many more scores of the same clips. Trials that
        ASHA stopped trained for less and do not win.
        """
        self._competing: list[tuple[float, int]] = []
        """Final values of the trials that trained long enough and their numbers, best first."""
        self._lost: frozenset[int] = frozenset()
        self._first_endings: list[str] = []
        self._gain: tuple[tuple[int, int], float | None] = ((0, 0), None)
        """What was expected after so many trials had ended, and so many of them competed."""

    @property
    def leaders(self) -> list[tuple[float, int]]:
        """Final values of the trials that a detector may average and their numbers, best first, at most `LEADERS`."""
        return list(islice((each for each in self._competing if each[1] not in self._lost), LEADERS))

    def resumed(self, stored: Collection[int]) -> None:
        """Told which trials' models are stored: without one, none of those that have ended so far can lead.

        Earlier versions kept no model of a trial that ASHA stopped; those of completed ones must not make room for it.
        """
        self._lost = frozenset(number for _, number in self._competing if number not in stored)

    @property
    def kept(self) -> list[int]:
        """Trials whose models are still needed: the winner, then the other leaders, the best first."""
        winner = [] if self.best is None else [self.best[1]]
        return winner + [number for _, number in self.leaders if number not in winner]

    @property
    def expected_gain(self) -> float | None:
        """See `trainable.detection.gain`; None while too few trials have ended to tell."""
        known, gain = self._gain
        now = sum(self.counts.values()) - self.counts[TrialEnd.OVER_BUDGET], len(self._competing)
        if known != now:
            values = [value for value, _ in self._competing.copy()]  # the live view asks in another thread
            gain = expected_gain(values, max(0, now[0] - len(values)))
            self._gain = now, gain
        return gain

    def ended(self, number: int, outcome: TrialOutcome) -> str | None:
        """Counts an ending; returns a reason to stop the search if the first trials all failed in the same way."""
        self.counts[outcome.end] += 1
        value = outcome.final_auc
        if outcome.end in COMPETING_ENDS and value is not None and value == value:
            if outcome.end is TrialEnd.COMPLETED:
                ranked = [(value, number)] if self.best is None else [self.best, (value, number)]
                self.best = min(ranked, key=lambda each: best_first(*each))
            if outcome.epochs >= self._least_epochs:
                insort(self._competing, (value, number), key=lambda each: best_first(*each))
        return None if outcome.end is TrialEnd.OVER_BUDGET else self._stop_reason(outcome)

    @property
    def same_failures(self) -> bool:
        """Whether the first trials all failed in the same way."""
        kinds = set(self._first_endings)
        return len(self._first_endings) >= SAME_FAILURES and len(kinds) == 1 and "" not in kinds

    def forget_first_endings(self) -> None:
        """Called on resume: the user has seen why the search stopped, so it may try again."""
        self._first_endings = []

    def _stop_reason(self, outcome: TrialOutcome) -> str | None:
        if len(self._first_endings) >= SAME_FAILURES:
            return None
        kind = f"{outcome.end}: {failure_kind(outcome.reason)}" if outcome.end in FAILURES else ""
        self._first_endings.append(kind)
        if not self.same_failures:
            return None
        return f"the first {SAME_FAILURES} trials all failed in the same way: {outcome.end}: {outcome.reason}"


def failure_kind(reason: str) -> str:
    """A failure reason without what varies between trials: paths, addresses, identifiers and numbers."""
    text = re.sub(r"(?<![\w.])[\w.+-]*(?:/[\w.+-]+)+/?", "<path>", reason)
    text = re.sub(r"\b0x[0-9a-fA-F]+\b|\b(?=[a-f]*[0-9])[0-9a-fA-F]{6,}\b", "#", text)
    return re.sub(r"[0-9]+", "#", text)
