"""Metrics of a search for Prometheus, exported through Ray: ``ray_search_*`` on the metrics port of the head node."""

from ray.util.metrics import Gauge

from search.engine.asha import Decision
from search.engine.listener import BaseListener
from search.listeners.progress import Progress
from trainable.record import EpochReport, TrialOutcome, TrialStart

METRICS = {
    "search_best_auc": "Final AUC or pseudo-AUC of the best completed trial; absent before one has completed.",
    "search_trials": "Trials by state: running, or how they ended.",
    "search_predicted_bytes": "Predicted peak GPU memory of the trial in a slot.",
    "search_used_bytes": "Measured peak GPU memory of the trial in a slot; 0 on a CPU.",
    "search_driver_bytes": "Peak GPU memory of the slot's process by the driver; 0 on a CPU or if it does not tell.",
}


class RayMetrics(BaseListener):
    """Gauges of one search; several searches on a cluster differ by the tag ``run``."""

    def __init__(self, run: str, progress: Progress):
        self._progress = progress
        # Ray takes ASCII only.
        self._tags = {"run": run.encode("ascii", "backslashreplace").decode()}
        extra = {"search_best_auc": (), "search_trials": ("state",)}
        self._gauges = {
            name: Gauge(name, description=text, tag_keys=("run", *extra.get(name, ("slot",))))
            for name, text in METRICS.items()
        }
        self._slots: dict[int, int] = {}
        """Trial number → its slot, counted from 0."""

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        taken = set(self._slots.values())
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        self._slots[start.number] = slot
        self._set_slot(slot, start.predicted_bytes)
        self._count()
        self._best()

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        self._set_slot(self._slots[number], report.predicted_bytes, report.peak_bytes, report.driver_bytes)

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        slot = self._slots.pop(start.number, None)
        if slot is not None:
            self._set_slot(slot, 0)
        self._count()
        self._best()

    def _best(self) -> None:
        """Sets the best AUC once a trial has completed; after a resume it is set from the start."""
        if self._progress.completed is not None:
            self._gauges["search_best_auc"].set(self._progress.completed[0], self._tags)

    def _count(self) -> None:
        states = {"running": len(self._progress.running)}
        states.update({end.value: count for end, count in self._progress.counts.items()})
        for state, count in states.items():
            self._gauges["search_trials"].set(count, {**self._tags, "state": state})

    def _set_slot(self, slot: int, predicted_bytes: int, used_bytes: int = 0, driver_bytes: int = 0) -> None:
        tags = {**self._tags, "slot": str(slot)}
        self._gauges["search_predicted_bytes"].set(predicted_bytes, tags)
        self._gauges["search_used_bytes"].set(used_bytes, tags)
        self._gauges["search_driver_bytes"].set(driver_bytes, tags)
