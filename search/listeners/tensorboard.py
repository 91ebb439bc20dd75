"""Scalars of every trial for TensorBoard: ``tensorboard --logdir RUN/tensorboard``."""

import contextlib
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from search.engine.asha import Decision
from search.engine.listener import BaseListener
from trainable.durable import writing
from trainable.record import EpochReport, TrialOutcome, TrialStart


class TensorBoardScalars(BaseListener):
    """Writes each trial's reports at once; a writer is open only while its trial runs.

    Each report is one event. `SummaryWriter` would write one event per scalar and needs a queue and two threads per
    trial, which cost the driver more time than ASHA and the study together.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._writers: dict[int, EventsWriter] = {}

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        with writing(self._folder):
            self._write(number, report)

    def _write(self, number: int, report: EpochReport) -> None:
        writer = self._writers.get(number)
        if writer is None:
            folder = self._folder / f"{number:05d}"
            folder.mkdir(parents=True, exist_ok=True)
            # A trial that resumes within the same second would reuse the file name; TensorBoard reads all files.
            files = sum(1 for _ in folder.iterdir())
            writer = self._writers[number] = EventsWriter(str(folder / "events"), f".{files}")
        values = [Summary.Value(tag=name, simple_value=value) for name, value in report.scalars().items()]
        writer.write_event(Event(wall_time=time.time(), step=report.epoch, summary=Summary(value=values)))
        writer.flush()

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        writer = self._writers.pop(start.number, None)
        if writer is not None:
            with writing(self._folder):
                writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            with contextlib.suppress(OSError):  # a full disk has ended the search with its own message
                writer.close()
        self._writers.clear()
