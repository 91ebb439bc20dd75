"""Trials that do nothing, and a conductor for them, to measure the search itself."""

from pathlib import Path

import torch

from search.engine.conductor import Conductor
from search.engine.feasibility import Feasibility
from search.options import SearchOptions
from search.store.run_store import RunStore
from search.store.study import SearchStudy
from spaces.loader import load_space
from spaces.space import Space
from trainable.record import EpochReport, RunFolder, TrialStart


def idle_space() -> Space:
    return load_space("ad_tuning")


def idle_auc(learning_rate: float, epoch: int) -> float:
    """A synthetic AUC: best at a learning rate of 2e-3, rising with the epochs."""
    distance = abs(learning_rate - 2e-3) * 100
    return 0.9 - 0.2 * min(1.0, distance) - 0.2 * 0.5**epoch


def idle_report(epoch: int, auc: float) -> EpochReport:
    """The report of an epoch that trained nothing."""
    return EpochReport(
        epoch=epoch,
        phase=1,
        loss=0.0,
        commitment_scale=1.0,
        learning_rate=1e-3,
        validation_auc=auc,
        perplexity=1.0,
        peak_bytes=0,
        predicted_bytes=0,
        reconstruction_loss=0.0,
        commitment_loss=0.0,
        id_loss=0.0,
        transform_loss=0.0,
        validation_pauc=0.0,
        dead_code_share=0.0,
        epoch_seconds=0.0,
        train_seconds=0.0,
        score_seconds=0.0,
    )


class IdleTrial:
    """Reports at once and keeps no state."""

    def __init__(self, start: TrialStart):
        self._learning_rate = start.config.optim.learning_rate
        self._epoch = 0
        self._tensor = torch.zeros(1)

    def step(self) -> EpochReport:
        self._epoch += 1
        return idle_report(self._epoch, idle_auc(self._learning_rate, self._epoch))

    def save(self, folder: Path) -> None:
        """Nothing to save."""

    def load(self, folder: Path, at_most: int | None = None) -> int:
        return self._epoch

    def release(self) -> None:
        """Nothing to release."""


def idle_search(path: Path, *, trials: int, slots: int, epochs: int) -> tuple[Conductor, RunStore]:
    """A complete conductor over a real folder and a real study, with ASHA's first rung as early as possible."""
    space = idle_space()
    options = SearchOptions(space=space.name, num_samples=trials, max_epochs=epochs, grace_period=1, concurrency=slots)
    path.mkdir(parents=True)
    folder = RunFolder(path)
    study = SearchStudy.in_folder(folder.study_path, path.name)
    store = RunStore(folder, study, space, budget_bytes=None)
    return Conductor(space, options, store, Feasibility(space, budget_bytes=None)), store
