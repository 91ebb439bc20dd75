"""Scalars of every trial for TensorBoard: ``tensorboard --logdir RUN/tensorboard``."""

from pathlib import Path

from tensorboardX import SummaryWriter

from search.asha import Decision
from search.listeners import Silence
from trainable.record import EpochReport, TrialOutcome, TrialStart

SCALARS = (
    "validation_auc",
    "validation_pauc",
    "loss",
    "reconstruction_loss",
    "commitment_loss",
    "id_loss",
    "transform_loss",
    "commitment_scale",
    "learning_rate",
    "perplexity",
    "dead_code_share",
    "epoch_seconds",
    "peak_bytes",
    "predicted_bytes",
)
FLUSH_SECONDS = 5
"""How long a scalar may wait before it can be seen; the library's own default is two minutes."""


class TensorBoardScalars(Silence):
    """Writes each running trial's reports as they come; a writer is open only while its trial runs."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._writers: dict[int, SummaryWriter] = {}

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        writer = self._writers.get(number)
        if writer is None:
            writer = self._writers[number] = SummaryWriter(
                str(self._folder / f"{number:05d}"), flush_secs=FLUSH_SECONDS
            )
        for name in SCALARS:
            writer.add_scalar(name, getattr(report, name), report.epoch)

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        writer = self._writers.pop(start.number, None)
        if writer is not None:
            writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
