"""A trial's memory record, as the study keeps it: events, measured peaks, cap and prediction error."""

from collections.abc import Iterable
from typing import Any

from trainable.record import EpochReport
from trainable.units import MIB

EVENTS, PEAK, ERROR = "memory_events", "peak_bytes", "memory_error"
DRIVER, CAP = "driver_bytes", "cap_bytes"
PEAK_MIB = "peak_MiB"
"""User attributes, written with a trial's ending when they are not empty."""


class MemoryRecord:
    """Accumulates the reports of one trial."""

    def __init__(self, reports: Iterable[EpochReport] = ()):
        self._events: list[str] = []
        self._peak_bytes = 0
        self._driver_bytes = 0
        self._cap_bytes = 0
        self._errors: list[float] = []
        for report in reports:
            self.add(report)

    def add(self, report: EpochReport) -> None:
        """Adds the trial's next report."""
        self._events += report.events
        self._peak_bytes = max(self._peak_bytes, report.peak_bytes)
        self._driver_bytes = max(self._driver_bytes, report.driver_bytes)
        self._cap_bytes = report.cap_bytes or self._cap_bytes
        if report.peak_bytes and report.predicted_allocated_bytes:
            self._errors.append(report.peak_bytes / report.predicted_allocated_bytes - 1.0)

    def attributes(self) -> dict[str, Any]:
        """User attributes.

        `memory_events` has one sentence per event; `peak_bytes` is the highest peak that the allocator measured;
        `driver_bytes` is the driver's highest count for the process; `peak_MiB` is that count or, where the driver does
        not tell, the allocator's peak, to be read beside `predicted_MiB`; `cap_bytes` is the allocator's last cap;
        `memory_error` is the largest measured ÷ predicted − 1 over all epochs: above zero, the prediction without
        its margin was too low.
        """
        attributes: dict[str, Any] = {}
        if self._events:
            attributes[EVENTS] = list(self._events)
        if self._peak_bytes:
            attributes[PEAK] = self._peak_bytes
        if self._driver_bytes:
            attributes[DRIVER] = self._driver_bytes
        if self._driver_bytes or self._peak_bytes:
            attributes[PEAK_MIB] = round((self._driver_bytes or self._peak_bytes) / MIB, 1)
        if self._cap_bytes:
            attributes[CAP] = self._cap_bytes
        if self._errors:
            attributes[ERROR] = round(max(self._errors), 5)
        return attributes
