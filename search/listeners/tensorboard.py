"""Hyperparameters and scalars of every trial for TensorBoard: ``tensorboard --logdir RUN/tensorboard``."""

import contextlib
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

from search.engine.asha import Decision
from search.engine.listener import BaseListener
from trainable.durable import writing
from trainable.record import FAILURES, EpochReport, TrialOutcome, TrialStart


class TensorBoardScalars(BaseListener):
    """Writes each trial's parameters with its first report, and each report at once; a writer is open only while its
    trial runs.

    Each report is one event. `SummaryWriter` would write one event per scalar and needs a queue and two threads per
    trial, which cost the driver more time than ASHA and the study together.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._writers: dict[int, EventsWriter] = {}
        self._starts: dict[int, TrialStart] = {}

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        self._starts[start.number] = start

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        with writing(self._folder):
            self._write(number, report)

    def _write(self, number: int, report: EpochReport) -> None:
        writer = self._writers.get(number)
        if writer is None:
            writer = self._writers[number] = self._opened(number)
            if number in self._starts:
                writer.write_event(_event(_parameters(self._starts[number]), 0))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in report.scalars().items()]
        writer.write_event(_event(Summary(value=values), report.epoch))
        writer.flush()

    def _opened(self, number: int) -> EventsWriter:
        folder = self._folder / f"{number:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        # A trial that resumes within the same second would reuse the file name; TensorBoard reads all files.
        files = sum(1 for _ in folder.iterdir())
        return EventsWriter(str(folder / "events"), f".{files}")

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        self._starts.pop(start.number, None)
        writer = self._writers.pop(start.number, None)
        if writer is not None:
            with writing(self._folder):
                writer.write_event(_event(_ending(outcome), outcome.epochs))
                writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            with contextlib.suppress(OSError):  # a full disk has ended the search with its own message
                writer.close()
        self._writers.clear()


def _event(summary: Summary, step: int) -> Event:
    return Event(wall_time=time.time(), step=step, summary=summary)


def _parameters(start: TrialStart) -> Summary:
    """The searched parameters, for TensorBoard's tab *HParams*, which takes its columns from those of all trials."""
    info = SessionStartInfo()
    for name, value in start.used.items():
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, (int, float)):
            info.hparams[name].number_value = value
        else:
            info.hparams[name].string_value = str(value)
    return _hparams("session_start_info", HParamsPluginData(session_start_info=info))


def _ending(outcome: TrialOutcome) -> Summary:
    status = "STATUS_FAILURE" if outcome.end in FAILURES else "STATUS_SUCCESS"
    info = SessionEndInfo(status=Status.Value(status))
    return _hparams("session_end_info", HParamsPluginData(session_end_info=info))


def _hparams(name: str, data: HParamsPluginData) -> Summary:
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=data.SerializeToString())
    value = Summary.Value(tag=f"_hparams_/{name}", metadata=SummaryMetadata(plugin_data=plugin))
    return Summary(value=[value])
