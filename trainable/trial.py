"""One trial, epoch by epoch: what every runner drives. Trains, scores validation clips, reports, saves, resumes."""

import gc
import time
from collections.abc import Callable
from pathlib import Path

import torch

from trainable.config import TrialConfig
from trainable.data.clips import ClipSet, Split, TestClips
from trainable.data.load import Dataset
from trainable.execution_plan import ExecutionPlan
from trainable.record import EpochReport
from trainable.scoring.codes import ClipCodes
from trainable.scoring.evaluate import Evaluation, ScoreReport, evaluate_codes, report_scores
from trainable.training.checkpoint import load_newest, save_checkpoint
from trainable.training.encode import EncodedClips
from trainable.training.losses import shown_terms
from trainable.training.seeds import derived_seed
from trainable.training.trainer import Trainer


class Trial:
    """A configuration on its way through its epochs.

    Parameters
    ----------
    plan
        How to execute it; chosen by the planner or `default_plan`.
    predicted_bytes, predicted_allocated_bytes
        Predicted peak of `plan`, and the allocator's part of it, handed through to the reports; 0 where no prediction
        was made.
    next_smaller_plan
        Asked after an out-of-memory error; without it the error ends the trial.
    predict, predict_allocated
        The same two of any plan, so that reports after a recovery name those of the plan in use.
    """

    def __init__(
        self,
        config: TrialConfig,
        dataset: Dataset,
        *,
        plan: ExecutionPlan,
        device: str | torch.device = "cpu",
        predicted_bytes: int = 0,
        predicted_allocated_bytes: int = 0,
        next_smaller_plan: Callable[[ExecutionPlan], ExecutionPlan | None] | None = None,
        predict: Callable[[ExecutionPlan], int] | None = None,
        predict_allocated: Callable[[ExecutionPlan], int] | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        self.config = config
        self.dataset = dataset
        self.device = torch.device(device)
        self._planned = plan, predicted_bytes, predicted_allocated_bytes
        self._predict, self._predict_allocated = predict, predict_allocated
        self.best_auc = float("-inf")
        self.best_epoch = 0
        self._trainer: Trainer | None = Trainer(
            config,
            dataset.train,
            dataset.ids,
            plan=plan,
            device=self.device,
            dtype=dtype,
            next_smaller_plan=next_smaller_plan,
            predict=predict,
        )

    @property
    def predicted_bytes(self) -> int:
        """Predicted peak of the plan in use; 0 where none was made."""
        plan, planned_bytes, _ = self._planned
        if self.trainer.plan == plan:
            return planned_bytes
        return self._predict(self.trainer.plan) if self._predict is not None else 0

    @property
    def predicted_allocated_bytes(self) -> int:
        """What of it the allocator was predicted to hold; 0 where none was made."""
        plan, _, planned_bytes = self._planned
        if self.trainer.plan == plan:
            return planned_bytes
        return self._predict_allocated(self.trainer.plan) if self._predict_allocated is not None else 0

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
        """Trains one epoch and scores the validation clips.

        Raises
        ------
        NonFiniteError
            If the loss became NaN or infinite.
        RuntimeError or MemoryError
            That `is_out_of_memory` knows, if not even the smallest plan fits.
        """
        trainer = self.trainer
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        begin = time.perf_counter()
        losses = trainer.train_epoch()
        trained = time.perf_counter()
        scores = self._score_validation()
        ended = time.perf_counter()
        events, trainer.events = tuple(trainer.events), []
        auc = scores.evaluation.auc
        if auc > self.best_auc:
            self.best_auc, self.best_epoch = auc, trainer.epoch
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
            validation_auc=auc,
            validation_pauc=scores.evaluation.pauc,
            auc_by_id=scores.evaluation.auc_by_id,
            pauc_by_id=scores.evaluation.pauc_by_id,
            auc_by_density=scores.auc_by_density,
            comparison_auc=scores.comparison_auc,
            perplexity=losses.perplexity,
            dead_code_share=losses.dead_code_share,
            epoch_seconds=ended - begin,
            train_seconds=trained - begin,
            score_seconds=ended - trained,
            peak_bytes=torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0,
            predicted_bytes=self.predicted_bytes,
            predicted_allocated_bytes=self.predicted_allocated_bytes,
            plan=trainer.plan.to_dict(),
            events=events,
        )

    def _codes(self, clips: ClipSet, *, with_errors: bool = False) -> tuple[ClipCodes, EncodedClips]:
        starts_BP, encoded = self.trainer.encode(clips, with_errors=with_errors)
        relative_BP = starts_BP - torch.from_numpy(clips.offsets[:-1].copy())[:, None]
        return ClipCodes(encoded.codes_BPHW, relative_BP, clips.machine_ids, clips.split), encoded

    def _score_validation(self) -> ScoreReport:
        clips = self.dataset.validation
        train_codes, _ = self._codes(self.dataset.train)
        test_codes, encoded = self._codes(clips, with_errors=True)
        return report_scores(
            self.config.score,
            train_codes,
            test_codes,
            clips,
            self.codebook(),
            seed=derived_seed(self.config.seed, "density"),
            comparison={
                "reconstruction_error": encoded.reconstruction_error_B.double().numpy(),
                "quantization_error": encoded.quantization_error_B.double().numpy(),
            },
        )

    def codebook(self) -> torch.Tensor:
        """The codebook (K, D), float32 on the CPU."""
        return self.trainer.state.model.codebook.codebook_KD.detach().float().cpu()

    def train_codes(self) -> ClipCodes:
        """Codes of the training clips, which a density model may be fitted to."""
        return self._codes(self.dataset.train)[0]

    def codes(self, clips: ClipSet) -> ClipCodes:
        """Codes of any clips."""
        return self._codes(clips)[0]

    def clips(self, split: Split) -> TestClips:
        """The labelled clips of a split. Raises KeyError for the training split, which has no labels."""
        return {Split.VALIDATION: self.dataset.validation, Split.HELD_OUT: self.dataset.held_out}[split]

    def evaluate(self, split: Split) -> Evaluation:
        """AUC, pAUC and intervals of the configured density model on a split's clips, as the model stands now."""
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
        """Writes an atomic, checksummed checkpoint of everything; keeps the newest two and the best."""
        state = {"trainer": self.trainer.state_dict(), "best_auc": self.best_auc, "best_epoch": self.best_epoch}
        return save_checkpoint(folder, self.epoch, state, best_epoch=self.best_epoch or None)

    def load(self, folder: Path, at_most: int | None = None) -> int:
        """Continues from the newest intact checkpoint and gives its epoch. Raises CheckpointError if there is none.

        Parameters
        ----------
        at_most
            Checkpoints of later epochs are left out: what was not reported is trained again.
        """
        epoch, _ = load_newest(folder, self.restore, at_most=at_most)
        return epoch

    def restore(self, state: dict[str, object]) -> None:
        """Continues from a state that `read_checkpoint` gave."""
        self.trainer.load_state_dict(state["trainer"])  # type: ignore[arg-type]
        self.best_auc = float(state["best_auc"])  # type: ignore[arg-type]
        self.best_epoch = int(state["best_epoch"])  # type: ignore[call-overload]

    def release(self) -> None:
        """Gives all memory back, so that the next trial of a reused actor begins with an empty device."""
        self._trainer = None
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def default_plan(config: TrialConfig) -> ExecutionPlan:
    """The plan where there is no budget: the whole batch at once, nothing recomputed."""
    return ExecutionPlan(micro_batch_clips=config.patch.batch_size)
