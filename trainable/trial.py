"""One trial, epoch by epoch: what every runner drives. Trains, scores validation clips, reports, saves, resumes."""

import gc
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch

from trainable.config import DensityName, Objective, TrialConfig
from trainable.data.clips import ClipSet, Split, TestClips
from trainable.data.load import Dataset
from trainable.device.cap import ProcessCap, driver_peak_bytes
from trainable.errors import BudgetError
from trainable.execution_plan import ExecutionPlan, MemoryPlan
from trainable.record import EpochReport
from trainable.scoring.codes import ClipCodes
from trainable.scoring.density import DensityModel
from trainable.scoring.evaluate import Evaluation, ScoreReport, evaluate_codes, fitted_densities, report_scores
from trainable.training.checkpoint import load_newest, save_checkpoint
from trainable.training.encode import EncodedClips
from trainable.training.losses import shown_terms
from trainable.training.seeds import derived_seed
from trainable.training.trainer import Trainer
from trainable.units import format_bytes

_log = logging.getLogger(__name__)

OVER_BUDGET, PLAN_TOO_LARGE = "over the budget", "plan too large for the cap"
"""Names of a report's events beside the trainer's "out of memory": each follows its epoch, ``epoch 3: …``."""


class PredictedPeak(Protocol):
    """A prediction as a trial reports it."""

    @property
    def predicted_bytes(self) -> int: ...

    @property
    def allocated_bytes(self) -> int: ...


class NextPlans(Protocol):
    """Chooses a smaller plan when memory runs out: `trainable.memory.planner.Planner`, or a fake in tests."""

    def next_smaller(self, config: TrialConfig, plan: ExecutionPlan) -> ExecutionPlan | None:
        """A plan that needs less than `plan`; None if there is none."""
        ...

    def predict(self, config: TrialConfig, plan: ExecutionPlan) -> PredictedPeak:
        """The predicted need of a plan."""
        ...


@dataclass(frozen=True)
class PlannedTrial:
    """A configuration with the plan to train it under."""

    config: TrialConfig
    memory: MemoryPlan
    """The plan, and what it is predicted to need."""
    planner: NextPlans | None = None
    """Chooses the next plan after an out-of-memory error; without one the error ends the trial."""
    cap: ProcessCap | None = None
    """How the trial's process keeps to the budget; None on a CPU or without a budget."""
    events: tuple[str, ...] = ()
    """Plans that `within_cap` left for smaller ones; without their epoch."""

    @classmethod
    def whole_batch(cls, config: TrialConfig) -> "PlannedTrial":
        """Without a budget: the whole batch at once, nothing recomputed, nothing predicted."""
        return cls(config, MemoryPlan.whole_batch(config.patch.batch_size))

    def next_smaller(self, plan: ExecutionPlan) -> ExecutionPlan | None:
        """The plan to continue with after `plan` ran out of memory; None if there is none."""
        return None if self.planner is None else self.planner.next_smaller(self.config, plan)

    def within_cap(self) -> "PlannedTrial":
        """The trial under a plan whose prediction fits the process's cap: its own, or the first smaller one that does.

        A cap is smaller than planned where the driver counts more for context and libraries than the device profile.

        Raises
        ------
        BudgetError
            If no plan fits.
        """
        cap, memory, events = self.cap, self.memory, self.events
        if cap is None or not memory.predicted_bytes:
            return self
        while (needed := memory.predicted_bytes - cap.planned_outside_bytes) > cap.cap_bytes:
            why = (
                f"is predicted to need {format_bytes(needed)} of the allocator, which has "
                f"{format_bytes(cap.cap_bytes)}: the driver counts {format_bytes(cap.outside_bytes)} for context and "
                f"libraries, {format_bytes(cap.outside_bytes - cap.planned_outside_bytes)} more than was planned"
            )
            smaller = self.next_smaller(memory.plan)
            if smaller is None:
                raise BudgetError(
                    f"no plan fits the {format_bytes(cap.budget_bytes)} budget: the smallest {why}; give a larger "
                    "--gpu-memory-budget, or a --profile measured on this GPU"
                )
            events += (f"{PLAN_TOO_LARGE}: ({memory.plan.describe()}) {why}; trains with ({smaller.describe()})",)
            predicted_bytes, allocated_bytes = self.predicted(smaller)
            memory = MemoryPlan(smaller, predicted_bytes, allocated_bytes=allocated_bytes)
        return replace(self, memory=memory, events=events)

    def predicted(self, plan: ExecutionPlan) -> tuple[int, int]:
        """Predicted peak of a plan in bytes, and the allocator's part of it; zeros without predictions."""
        if plan == self.memory.plan:
            return self.memory.predicted_bytes, self.memory.allocated_bytes
        if self.planner is None:
            return 0, 0
        prediction = self.planner.predict(self.config, plan)
        return prediction.predicted_bytes, prediction.allocated_bytes


class Trial:
    """A configuration on its way through its epochs.

    Parameters
    ----------
    planned
        What to train, how to execute it, and what chooses a smaller plan.
    dataset
        The same for all trials of a search.
    dtype
        Type of weights and features; float64 is for tests of exactness.

    Raises
    ------
    BudgetError
        If no plan fits the process's cap.
    """

    def __init__(
        self,
        planned: PlannedTrial,
        dataset: Dataset,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        self.config = planned.config
        self.dataset = dataset
        self.device = torch.device(device)
        self._planned = planned = planned.within_cap()
        self._waiting_events = list(planned.events)
        self._most_bytes = 0 if planned.cap is None else planned.cap.budget_bytes
        """The budget, or the driver's highest count above it so far; 0 without a budget."""
        self._trainer: Trainer | None = Trainer(
            planned.config,
            dataset.train,
            dataset.ids,
            plan=planned.memory.plan,
            device=self.device,
            dtype=dtype,
            next_smaller_plan=planned.next_smaller,
            predict=lambda plan: planned.predicted(plan)[0],
        )

    @property
    def predicted_bytes(self) -> int:
        """Predicted peak of the plan in use; 0 if there was no prediction."""
        return self._planned.predicted(self.trainer.plan)[0]

    @property
    def trainer(self) -> Trainer:
        if self._trainer is None:
            raise RuntimeError("the trial was released; make a new one and load its checkpoint")
        return self._trainer

    @property
    def epoch(self) -> int:
        """Epochs finished so far."""
        return self.trainer.epoch

    @property
    def done(self) -> bool:
        return self.epoch >= self.config.phase.epochs

    def step(self) -> EpochReport:
        """Trains one epoch and judges the model: on the validation clips, the pseudo-anomalies, or both.

        Raises
        ------
        NonFiniteError
            If the loss became NaN or infinite.
        RuntimeError or MemoryError
            Recognised by `is_out_of_memory`, if not even the smallest plan fits.
        """
        trainer = self.trainer
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        begin = time.perf_counter()
        losses = trainer.train_epoch()
        trained = time.perf_counter()
        scores = self._judge()
        ended = time.perf_counter()
        driver_bytes = driver_peak_bytes(self.device)
        events = (*self._events(trainer.epoch, driver_bytes), *trainer.events)
        trainer.events = []
        predicted_bytes, predicted_allocated_bytes = self._planned.predicted(trainer.plan)
        return EpochReport(
            epoch=trainer.epoch,
            phase=losses.phase.phase,
            loss=losses.total,
            reconstruction_loss=losses.terms["reconstruction"],
            commitment_loss=losses.terms["commitment"],
            texture_loss=losses.terms["texture"],
            id_loss=losses.terms["id"],
            transform_loss=losses.terms["transform"],
            extra_losses={name: losses.terms[name] for name in shown_terms()},
            commitment_scale=losses.phase.commitment_scale,
            learning_rate=losses.learning_rate,
            **_judged(scores, self.config.score.density),
            perplexity=losses.perplexity,
            perplexities=losses.perplexities,
            dead_code_share=losses.dead_code_share,
            epoch_seconds=ended - begin,
            train_seconds=trained - begin,
            score_seconds=ended - trained,
            peak_bytes=torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0,
            driver_bytes=driver_bytes,
            cap_bytes=0 if self._planned.cap is None else self._planned.cap.cap_bytes,
            predicted_bytes=predicted_bytes,
            predicted_allocated_bytes=predicted_allocated_bytes,
            plan=trainer.plan,
            events=events,
        )

    def _events(self, epoch: int, driver_bytes: int) -> list[str]:
        """What happened around this epoch beside the trainer's own events; an excess only where it grew."""
        events, self._waiting_events = self._waiting_events, []
        if 0 < self._most_bytes < driver_bytes:
            assert self._planned.cap is not None
            budget_bytes = self._planned.cap.budget_bytes
            events.append(
                f"{OVER_BUDGET}: the driver counted {format_bytes(driver_bytes)}, "
                f"{format_bytes(driver_bytes - budget_bytes)} more than the budget of {format_bytes(budget_bytes)}"
            )
            self._most_bytes = driver_bytes
        dated = [f"epoch {epoch}: {event}" for event in events]
        for event in dated:
            _log.warning("%s", event)
        return dated

    def _codes(
        self, clips: ClipSet, starts_BP: torch.Tensor | None = None, *, with_errors: bool = False
    ) -> tuple[ClipCodes, EncodedClips]:
        starts_BP, encoded = self.trainer.encode(clips, starts_BP, with_errors=with_errors)
        relative_BP = starts_BP - torch.from_numpy(clips.offsets[:-1].copy())[:, None]
        return ClipCodes(encoded.codes_BPHWM, relative_BP, clips.machine_ids, clips.split), encoded

    def _judge(self) -> ScoreReport:
        labels, pseudo = self.dataset.validation, self.dataset.pseudo
        densities = self.densities()
        labelled, comparison = None, {}
        if self.dataset.objective is not Objective.NORMAL_ONLY:
            codes, encoded = self._codes(labels, with_errors=True)
            labelled = codes, labels
            comparison = {
                "reconstruction_error": encoded.reconstruction_error_B.double().numpy(),
                "quantization_error": encoded.quantization_error_B.double().numpy(),
            }
        return report_scores(
            densities,
            self.config.score.density,
            labelled=labelled,
            pseudo=None if pseudo is None else (self.codes(pseudo.clips), pseudo.aucs),
            comparison=comparison,
        )

    def densities(self) -> dict[DensityName, DensityModel]:
        """The configured density model and every cheap one, fitted to the training clips' codes."""
        seed = derived_seed(self.config.seed, "density")
        return fitted_densities(self.config.score, self.train_codes(), self.codebook(), seed=seed)

    def codebook(self) -> torch.Tensor:
        """The codebook (K, D), float32 on the CPU."""
        return self.trainer.state.model.codebook.codebook_KD.detach().float().cpu()

    def train_codes(self, starts_BP: torch.Tensor | None = None) -> ClipCodes:
        """Codes of the training clips, which a density model may be fitted to.

        Parameters
        ----------
        starts_BP
            First frame of each window among the packed frames, int64; None = the windows that the search scores.
        """
        return self._codes(self.dataset.train, starts_BP)[0]

    def codes(self, clips: ClipSet) -> ClipCodes:
        """Codes of any clips."""
        return self._codes(clips)[0]

    def clips(self, split: Split) -> TestClips:
        """The labelled clips of a split. Raises KeyError for the training split, which has no labels."""
        return {Split.VALIDATION: self.dataset.validation, Split.HELD_OUT: self.dataset.held_out}[split]

    def evaluate(self, split: Split) -> Evaluation:
        """AUC, pAUC and intervals of the configured density model on a split's clips, with the current weights."""
        clips = self.clips(split)
        return evaluate_codes(
            self.config.score,
            self.train_codes(),
            self.codes(clips),
            clips,
            self.codebook(),
            seed=derived_seed(self.config.seed, "density"),
        )

    def save(self, folder: Path) -> Path:
        """Writes an atomic, checksummed checkpoint of everything; keeps the newest two."""
        return save_checkpoint(folder, self.epoch, {"trainer": self.trainer.state_dict()})

    def load(self, folder: Path, at_most: int | None = None) -> int:
        """Resumes from the newest intact checkpoint and returns its epoch. Raises CheckpointError if there is none.

        Parameters
        ----------
        at_most
            Checkpoints of later epochs are ignored: epochs that were not reported are trained again.
        """
        epoch, _ = load_newest(folder, self.restore, at_most=at_most)
        return epoch

    def restore(self, state: dict[str, object]) -> None:
        """Resumes from a state that `read_checkpoint` returned; ignores `best_auc` and `best_epoch` of old ones."""
        self.trainer.load_state_dict(state["trainer"])  # type: ignore[arg-type]

    def release(self) -> None:
        """Releases all memory, so that the next trial of a reused actor begins with an empty device."""
        self._trainer = None
        if self.device.type == "cuda":
            gc.collect()  # the traceback of an error keeps tensors in cycles; else the last reference has freed all
            torch.cuda.empty_cache()


def _judged(scores: ScoreReport, optimised: DensityName) -> dict[str, Any]:
    """The entries of an epoch's report that say how well its model detects."""
    judged: dict[str, Any] = {
        "auc_by_density": scores.auc_by_density,
        "comparison_auc": scores.comparison_auc,
        "pseudo_auc_by_density": scores.pseudo_auc_by_density,
    }
    if scores.evaluation is not None:
        judged |= {
            "validation_auc": scores.evaluation.auc,
            "validation_pauc": scores.evaluation.pauc,
            "auc_by_id": scores.evaluation.auc_by_id,
            "pauc_by_id": scores.evaluation.pauc_by_id,
        }
    if scores.pseudo_auc_by_density:
        judged["pseudo_auc"] = fmean(scores.pseudo_auc_by_density[optimised].values())
    return judged
