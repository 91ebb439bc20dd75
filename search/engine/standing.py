"""How a search stands: endings by name, the best completed trials, and whether everything fails alike."""

import re

from trainable.record import FAILURES, TrialEnd, TrialOutcome, best_first

SAME_FAILURES = 5
"""If the first so many trials all fail in the same way, the mistake is not in their parameters."""
LEADERS = 5
"""Completed trials whose checkpoints are kept, so that their held-out clips can be scored afterwards."""


class Standing:
    """Adds up endings."""

    def __init__(self) -> None:
        self.counts: dict[TrialEnd, int] = dict.fromkeys(TrialEnd, 0)
        self.leaders: list[tuple[float, int]] = []
        """Final validation AUCs of the best completed trials and their numbers, best first, at most `LEADERS`.

        The winner is the completed trial with the highest AUC at its *last* epoch; of equals, the first. The best
        epoch of all trials would be a maximum over many more looks at the same clips. Trials that ASHA stopped were
        trained less and do not compete.
        """
        self._first_endings: list[str] = []

    @property
    def best(self) -> tuple[float, int] | None:
        """Highest final validation AUC of a completed trial, and its number."""
        return self.leaders[0] if self.leaders else None

    def ended(self, number: int, outcome: TrialOutcome) -> str | None:
        """Counts an ending; a reason to stop the search if the first trials all failed in the same way."""
        self.counts[outcome.end] += 1
        auc = outcome.final_auc
        if outcome.end is TrialEnd.COMPLETED and auc is not None and auc == auc:
            self.leaders.append((auc, number))
            self.leaders.sort(key=lambda leader: best_first(*leader))
            del self.leaders[LEADERS:]
        return None if outcome.end is TrialEnd.OVER_BUDGET else self._all_alike(outcome)

    @property
    def all_alike(self) -> bool:
        """Whether the first trials all failed in the same way."""
        kinds = set(self._first_endings)
        return len(self._first_endings) >= SAME_FAILURES and len(kinds) == 1 and "" not in kinds

    def forget_first_endings(self) -> None:
        """After a resume: the user saw why the search stopped, and it may try again."""
        self._first_endings = []

    def _all_alike(self, outcome: TrialOutcome) -> str | None:
        if len(self._first_endings) >= SAME_FAILURES:
            return None
        kind = f"{outcome.end}: {alike(outcome.reason)}" if outcome.end in FAILURES else ""
        self._first_endings.append(kind)
        if not self.all_alike:
            return None
        return f"the first {SAME_FAILURES} trials all failed in the same way: {outcome.end}: {outcome.reason}"


def alike(reason: str) -> str:
    """A reason without what differs from one trial to the next: paths, addresses, identities and numbers."""
    text = re.sub(r"(?<![\w.])[\w.+-]*(?:/[\w.+-]+)+/?", "<path>", reason)
    text = re.sub(r"\b0x[0-9a-fA-F]+\b|\b(?=[a-f]*[0-9])[0-9a-fA-F]{6,}\b", "#", text)
    return re.sub(r"[0-9]+", "#", text)
