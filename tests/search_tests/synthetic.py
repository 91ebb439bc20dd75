"""A synthetic trial: a learning curve made of its parameters, with real saving and loading; and a space for it."""

import contextlib
import math
import signal
from pathlib import Path
from typing import Any

from search.engine.asha import Decision
from search.engine.conductor import Conductor
from search.engine.feasibility import Feasibility
from search.engine.listener import BaseListener
from search.options import SearchOptions
from search.store.run_store import RunStore
from search.store.study import SearchStudy
from spaces.loader import space_from_text
from spaces.space import Space
from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan, MemoryPlan
from trainable.record import EpochReport, RunFolder, TrialStart
from trainable.training.checkpoint import load_newest, save_checkpoint

SPACE = """
parameters:
  num_embeddings: {choices: [32, 64, 128, 256]}
  latent_dim: {low: 8, high: 64, log: true}
  commitment_cost: {low: 0.02, high: 2.0, log: true}
  commitment_warmup_epochs: {low: 0, high: 2}
  commitment_warmup_start: {low: 0.0, high: 0.8, when: {commitment_warmup_epochs: {above: 0}}}
  learning_rate: {low: 3.0e-4, high: 1.0e-2, log: true}
fixed:
  n_patches: 4
"""


def small_space() -> Space:
    return space_from_text(SPACE, "synthetic")


def short_warmup_space() -> Space:
    """The same, but with a first rung at epoch 2 where the grace period is no longer."""
    return space_from_text(SPACE.replace("{low: 0, high: 2}", "{low: 0, high: 1}"), "synthetic")


def quality(config: dict[str, Any]) -> float:
    """Final synthetic AUC of a configuration, below 0.9."""
    distance = (
        (math.log10(config["learning_rate"]) + 2.6) ** 2
        + 0.5 * (math.log10(config["commitment_cost"]) + 0.6) ** 2
        + 0.3 * (math.log2(config["latent_dim"]) - 5) ** 2
        + 0.1 * (math.log2(config["num_embeddings"]) - 7) ** 2
    )
    return 0.5 + 0.4 * math.exp(-0.5 * distance)


def report_at(epoch: int, auc: float) -> EpochReport:
    return EpochReport(
        epoch=epoch,
        phase=1,
        loss=1.0 / epoch,
        reconstruction_loss=1.0 / epoch,
        commitment_loss=0.0,
        id_loss=0.0,
        transform_loss=0.0,
        commitment_scale=1.0,
        learning_rate=1e-3,
        validation_auc=auc,
        validation_pauc=0.5,
        perplexity=8.0,
        dead_code_share=0.0,
        epoch_seconds=0.0,
        train_seconds=0.0,
        score_seconds=0.0,
        peak_bytes=0,
        predicted_bytes=0,
    )


class SyntheticTrial:
    """An epoch costs nothing; its AUC rises towards `quality`."""

    def __init__(self, start: TrialStart):
        self.start = start
        self.epoch = 0

    def step(self) -> EpochReport:
        self.epoch += 1
        return report_at(self.epoch, quality(self.start.config.flat()) - 0.3 * 0.6**self.epoch)

    def save(self, folder: Path) -> Path:
        return save_checkpoint(folder, self.epoch, {"epoch": self.epoch})

    def load(self, folder: Path, at_most: int | None = None) -> int:
        return load_newest(folder, self._restore, at_most=at_most)[0]

    def _restore(self, state: dict[str, Any]) -> None:
        self.epoch = int(state["epoch"])

    def release(self) -> None:
        self.epoch = -1


def synthetic_bytes(config: TrialConfig) -> int:
    """A made-up peak that grows with codebook and width."""
    return config.quantizer.num_embeddings * config.model.latent_dim


def synthetic_plans(budget_bytes: int | None) -> Any:
    def ask(config: TrialConfig) -> MemoryPlan:
        predicted = synthetic_bytes(config)
        fits = budget_bytes is None or predicted <= budget_bytes
        return MemoryPlan(
            ExecutionPlan(micro_batch_clips=1), predicted, fits, "" if fits else "the codebook is too large"
        )

    return ask


def make_conductor(
    path: Path,
    *,
    budget_bytes: int | None = None,
    space: Space | None = None,
    study: SearchStudy | None = None,
    **kw: Any,
) -> Conductor:
    """A conductor over a real folder and a real SQLite study."""
    keys = ("listener", "clock", "pace")
    rest = {key: kw.pop(key) for key in keys if key in kw}
    options = SearchOptions(
        space="synthetic", budget_bytes=budget_bytes, local=True, **{"num_samples": 8, "max_epochs": 9, **kw}
    )
    path.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    chosen = space or short_warmup_space()
    feasibility = Feasibility(chosen, budget_bytes=budget_bytes, plans=synthetic_plans(budget_bytes))
    study = study or SearchStudy.in_folder(folder.study_path, path.name)
    return conductor_of(folder, study, chosen, options, feasibility, **rest)


def conductor_of(
    folder: RunFolder,
    study: SearchStudy,
    space: Space,
    options: SearchOptions,
    feasibility: Feasibility | None = None,
    **rest: Any,
) -> Conductor:
    """A conductor over a folder and a study, without a budget where no feasibility is given."""
    store = RunStore(folder, study, space, budget_bytes=options.budget_bytes)
    feasibility = feasibility or Feasibility(space, budget_bytes=None)
    return Conductor(space, options, store, feasibility, **rest)


class SwallowsCtrlC(BaseListener):
    """Ctrl-C at a report, inside code that catches everything; or that makes another error of it."""

    def __init__(self, *, raises: Exception | None = None):
        self._raises = raises

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if self._raises is not None:
            raise self._raises
