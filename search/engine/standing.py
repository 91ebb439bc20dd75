"""The state of a search: counts of endings, the best completed trials, what more of them are expected to bring, whether
all trials fail the same way."""

import re

from trainable.detection.gain import expected_gain
from trainable.detection.ranking import LEADERS
from trainable.record import FAILURES, TrialEnd, TrialOutcome, best_first

SAME_FAILURES = 5
"""If this many first trials all fail in the same way, the fault is not in their parameters."""


class Standing:
    """Counts endings and ranks completed trials."""

    def __init__(self) -> None:
        self.counts: dict[TrialEnd, int] = dict.fromkeys(TrialEnd, 0)
        self.leaders: list[tuple[float, int]] = []
        """Final validation AUCs of the best completed trials and their numbers, best first, at most `LEADERS`.

        The winner is the completed trial with the highest AUC at its *last* epoch; ties go to the first. Choosing the
        best epoch of all trials would take a maximum over many more scores of the same clips. Trials that ASHA
        stopped trained for less and do not compete.
        """
        self._first_endings: list[str] = []
        self._completed: list[float] = []
        self._gain: tuple[tuple[int, int], float | None] = ((0, 0), None)
        """What was expected after so many trials had ended, and so many of them completed."""

    @property
    def expected_gain(self) -> float | None:
        """See `trainable.detection.gain`; None while too few trials have ended to tell."""
        completed = self._completed.copy()  # the live view asks in another thread
        known, gain = self._gain
        now = sum(self.counts.values()) - self.counts[TrialEnd.OVER_BUDGET], len(completed)
        if known != now:
            gain = expected_gain(completed, now[0] - now[1])
            self._gain = now, gain
        return gain

    @property
    def best(self) -> tuple[float, int] | None:
        """Highest final validation AUC of a completed trial, and its number."""
        return self.leaders[0] if self.leaders else None

    def ended(self, number: int, outcome: TrialOutcome) -> str | None:
        """Counts an ending; returns a reason to stop the search if the first trials all failed in the same way."""
        self.counts[outcome.end] += 1
        auc = outcome.final_auc
        if outcome.end is TrialEnd.COMPLETED and auc is not None and auc == auc:
            self._completed.append(auc)
            self.leaders.append((auc, number))
            self.leaders.sort(key=lambda leader: best_first(*leader))
            del self.leaders[LEADERS:]
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
