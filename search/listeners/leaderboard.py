"""The best trials of a search so far, in the order that selects the winner."""

from collections.abc import Iterable
from dataclasses import dataclass

from trainable.record import FAILURES, EpochReport, TrialEnd, TrialOutcome, TrialRecord, TrialStart, best_first

PLACES = 5
"""Trials on the board."""
_ORDER = {TrialEnd.COMPLETED: 0, None: 1, TrialEnd.PRUNED: 2}
"""Completed trials keep their values, those of running ones may fall, and pruned ones do not compete."""


@dataclass(frozen=True)
class Place:
    """A trial on the board."""

    start: TrialStart
    report: EpochReport
    """Its last report."""
    end: TrialEnd | None
    """None while it runs, and for a trial that the search left unfinished."""

    @property
    def rank(self) -> tuple[int, float, int]:
        """Sort key, the best first."""
        return _ORDER[self.end], *best_first(self.report.value, self.start.number)


class Leaderboard:
    """Keeps the best trials that ended; those that run are added when it is asked."""

    def __init__(self) -> None:
        self._ended: list[Place] = []

    def resume_from(self, earlier: Iterable[TrialRecord]) -> None:
        """Adds trials that ended before a resume."""
        for record in earlier:
            if record.epochs and record.outcome is not None:
                self.ended(record.start, record.epochs[-1], record.outcome)

    def ended(self, start: TrialStart, report: EpochReport | None, outcome: TrialOutcome) -> None:
        """A trial ended; one that failed, or has no value, does not compete."""
        if report is not None and outcome.end not in FAILURES:
            self._ended = _best([*self._ended, Place(start, report, outcome.end)])

    def places(self, running: Iterable[tuple[TrialStart, EpochReport | None]]) -> list[Place]:
        """The best `PLACES` of those that ended and of those that run."""
        return _best([*self._ended, *(Place(start, report, None) for start, report in running if report is not None)])


def _best(places: list[Place]) -> list[Place]:
    judged = [place for place in places if place.report.value == place.report.value]  # not NaN
    return sorted(judged, key=lambda place: place.rank)[:PLACES]
