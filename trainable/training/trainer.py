"""Repeats the training step over an epoch. Knows nothing about scores, budgets or searches; obeys a plan."""

import gc
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from trainable.config import TrialConfig
from trainable.data.clips import ClipSet, TrainClips
from trainable.data.patches import patch_starts
from trainable.data.windows import scored_starts
from trainable.device.out_of_memory import is_out_of_memory
from trainable.errors import CheckpointError, ConfigError, DataLeakError, NonFiniteError, OtherConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.training.batch import Batch, make_batch
from trainable.training.encode import EncodedClips, encode_clips
from trainable.training.losses import loss_names
from trainable.training.phases import PhaseState, learning_rate_at, phase_at
from trainable.training.seeds import generator_for
from trainable.training.start import start_codebook
from trainable.training.state import (
    SavedTraining,
    drop_half_made_moments,
    load_moments,
    load_weights,
    make_scaler,
    make_state,
)
from trainable.training.step import StepLosses, train_step
from trainable.typed import build
from trainable.units import format_bytes

_log = logging.getLogger(__name__)
Result = TypeVar("Result")
NextPlan = Callable[[ExecutionPlan], ExecutionPlan | None]
Predict = Callable[[ExecutionPlan], int]
"""Predicted peak (bytes) of a plan."""

KMEANS_CLIPS = 64
"""Clips whose latents start the codebook: enough rows for K = 512 at 8 patches (64 · 8 · 64 = 32,768)."""


@dataclass(frozen=True)
class EpochLosses:
    """Means over an epoch's clips, and its code usage."""

    phase: PhaseState
    learning_rate: float
    total: float
    terms: dict[str, float]
    """Each loss term by name, before weighting, including those not shown."""
    perplexities: tuple[float, ...]
    """exp of the entropy of code usage of each codebook, 1 … K."""
    dead_code_share: float
    """Share of codes that no latent of the epoch chose."""

    @property
    def perplexity(self) -> float:
        """Mean over the codebooks."""
        return float(np.mean(self.perplexities))


def as_tensor(array: np.ndarray) -> Tensor:
    """A tensor over the array's own memory, also where that is read-only (Ray's object store)."""
    with warnings.catch_warnings():
        # torch warns that writing through the tensor would be undefined; nothing here writes to features.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


class Trainer:
    """Trains one configuration on the training clips of one machine type, epoch by epoch."""

    def __init__(
        self,
        config: TrialConfig,
        train: TrainClips,
        ids: tuple[str, ...],
        *,
        plan: ExecutionPlan,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        next_smaller_plan: NextPlan | None = None,
        predict: Predict | None = None,
    ):
        if not isinstance(train, TrainClips):
            raise DataLeakError(f"{train.split} clips were offered for training; only train clips may be")
        self.config = config
        self.train = train
        self.plan = plan
        self.epoch = 0
        self.events: list[str] = []
        self._next_smaller_plan = next_smaller_plan
        self._predict = predict
        self.state = make_state(config, len(ids), device, dtype)
        self._id_labels = torch.tensor([ids.index(machine_id) for machine_id in train.machine_ids])
        self._placed: dict[str, tuple[np.ndarray, Tensor]] = {}
        self._obey(plan)

    def _obey(self, plan: ExecutionPlan) -> None:
        self.plan = plan
        # A new scaler, since one stopped between unscaling and stepping would refuse to unscale again.
        before, self.state.scaler = self.state.scaler, make_scaler(plan, self.state.device)
        if before.is_enabled() and self.state.scaler.is_enabled():
            self.state.scaler.load_state_dict(before.state_dict())

    def frames(self, clips: ClipSet) -> Tensor:
        """The packed features of some clips, on the device that the plan chooses."""
        host = as_tensor(clips.frames_TF)
        if self.plan.data_placement == "host" or self.state.device.type == "cpu":
            self._placed.clear()
            return host
        if clips.split not in self._placed or self._placed[clips.split][0] is not clips.frames_TF:
            self._placed.pop(clips.split, None)  # two tensors of a split at once were not predicted
            self._placed[clips.split] = clips.frames_TF, host.to(self.state.device)
        return self._placed[clips.split][1]

    def train_epoch(self) -> EpochLosses:
        """Trains one epoch over all training clips in the order of the trial's seed.

        Raises
        ------
        NonFiniteError
            If the loss of the epoch is NaN or infinite.
        RuntimeError or MemoryError
            Recognised by `is_out_of_memory`, if a step does not fit even under the smallest plan.
        """
        config = self.config
        phase = phase_at(config, self.epoch)
        if self.epoch == 0 and config.quantizer.kmeans_start:
            self._recovering(self._start_codebook)
        n_clips = len(self.train)
        sums = self._recovering(self._new_sums)
        learning_rate = 0.0
        for batch, clips_done in self._batches():
            learning_rate = learning_rate_at(config, self.epoch + clips_done / n_clips)
            for group in self.state.optimizer.param_groups:
                group["lr"] = learning_rate
            losses = self._recovering(lambda batch=batch: self._step(batch, phase))  # type: ignore[misc]
            # In place: outside the recovered part nothing may allocate device memory.
            sums[0].add_(losses.terms_L, alpha=batch.clips)
            sums[1].add_(losses.code_counts_K)
        totals_L, counts_K = (each.cpu().double() for each in sums)
        means = (totals_L / n_clips).tolist()
        if not np.isfinite(means).all():
            raise NonFiniteError(f"the loss of epoch {self.epoch + 1} is not finite ({means[0]})")
        self.epoch += 1
        usage_MK = (
            (counts_K / counts_K.sum())
            .mul(config.quantizer.codebooks)
            .unflatten(0, (-1, config.quantizer.num_embeddings))
        )
        entropy_M = -torch.special.xlogy(usage_MK, usage_MK).sum(dim=1)
        return EpochLosses(
            phase=phase,
            learning_rate=learning_rate,
            total=means[0],
            terms=dict(zip(loss_names()[1:], means[1:], strict=True)),
            perplexities=tuple(entropy_M.exp().tolist()),
            dead_code_share=float((counts_K == 0).double().mean()),
        )

    def _new_sums(self) -> tuple[Tensor, Tensor]:
        """Accumulators of an epoch on the device: its losses and how often each code was used."""
        dtype, device = self.state.dtype, self.state.device
        counts = len(self.state.model.codebook.codebook_KD)
        return torch.zeros(len(loss_names()), dtype=dtype, device=device), torch.zeros(
            counts, dtype=dtype, device=device
        )

    def encode(
        self, clips: ClipSet, starts_BP: Tensor | None = None, *, with_errors: bool = False
    ) -> tuple[Tensor, EncodedClips]:
        """Patch starts (B, P) and codes of all clips of a set.

        Parameters
        ----------
        starts_BP
            First frame of each patch among the packed frames, int64; None = those that the configuration scores.
        """
        if starts_BP is None:
            starts_BP = scored_starts(
                clips.offsets,
                self.config.score.score_windows,
                count=self.config.scored_patches,
                stride=self.config.patch.stride,
                patch_frames=self.state.geometry.patch_frames,
            )
        starts = starts_BP
        self.state.model.eval()
        encoded = self._recovering(
            lambda: encode_clips(self.state, self.frames(clips), starts, self.plan, with_errors=with_errors)
        )
        return starts, encoded

    def _step(self, batch: Batch, phase: PhaseState) -> StepLosses:
        self.state.model.train()
        return train_step(self.state, self.frames(self.train), batch, self.plan, phase)

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        order = torch.randperm(len(self.train), generator=generator_for(self.config.seed, "order", self.epoch))
        done = 0
        for step, clip_indices in enumerate(order.split(self.config.patch.batch_size)):
            yield (
                make_batch(self.config, self.train.offsets, self._id_labels, clip_indices, epoch=self.epoch, step=step),
                done,
            )
            done += clip_indices.shape[0]

    def _start_codebook(self) -> None:
        """K-means on latents of the untrained encoder, over clips drawn from the seed."""
        generator = generator_for(self.config.seed, "kmeans")
        clip_indices = torch.randperm(len(self.train), generator=generator)[:KMEANS_CLIPS]
        patch = self.config.patch
        starts_BP = patch_starts(
            self.train.offsets,
            clip_indices,
            n_patches=patch.n_patches,
            stride=patch.stride,
            patch_frames=self.state.geometry.patch_frames,
            generator=None,
        )
        start_codebook(self.state, self.frames(self.train), starts_BP, self.plan, generator)

    def _recovering(self, attempt: Callable[[], Result]) -> Result:
        """Runs `attempt`; if memory runs out, takes the next smaller plan and runs it again.

        Exact, because nothing but gradients changes before the last micro-batch of a step is done.
        """
        while True:
            try:
                return attempt()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failed, smaller = self.plan, None
                if self._next_smaller_plan is not None:
                    smaller = self._next_smaller_plan(failed)
                reason = str(error).split("\n")[0]
                if smaller is None:
                    # This epoch has no report to hold its events, so the reason of the trial's end mentions them.
                    error.args = (
                        f"{reason}; under ({failed.describe()}), the smallest plan, "
                        f"after {len(self.events)} smaller ones in this epoch",
                    )
                    raise
            self.events.append(
                f"epoch {self.epoch + 1}: out of memory under ({failed.describe()}), "
                f"continued with ({smaller.describe()}): {reason}{self._missed_by(failed)}"
            )
            _log.warning("%s", self.events[-1])
            self.state.optimizer.zero_grad(set_to_none=True)
            drop_half_made_moments(self.state.optimizer)
            self._placed.clear()
            gc.collect()
            if self.state.device.type == "cuda":
                torch.cuda.empty_cache()
                # The failed plan's peak must not count as a measurement of the next plan.
                torch.cuda.reset_peak_memory_stats(self.state.device)
            self._obey(smaller)

    def _missed_by(self, failed: ExecutionPlan) -> str:
        """The prediction for a plan that ran out of memory, and the allocator's peak."""
        if self._predict is None:
            return ""
        text = f"; predicted {format_bytes(self._predict(failed))}"
        if self.state.device.type == "cuda":
            held = torch.cuda.max_memory_reserved(self.state.device)
            text += f", the allocator had reserved {format_bytes(held)} when it failed"
        return text

    def state_dict(self) -> dict[str, Any]:
        """Everything that determines further training: tensors and plain values only."""
        return {
            "config": self.config.flat(),
            "epoch": self.epoch,
            "plan": self.plan.to_dict(),
            "model": self.state.model.state_dict(),
            "optimizer": self.state.optimizer.state_dict(),
            "scaler": self.state.scaler.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continues from a state.

        Raises
        ------
        OtherConfigError
            If it is from another configuration.
        CheckpointError
            If it is not a training state.
        """
        mine, other = self.config.flat(), saved.get("config")
        if not isinstance(other, dict):
            raise CheckpointError("the checkpoint names no configuration")
        # A state written before some knob existed was trained with that knob's default.
        other = TrialConfig().flat() | other
        if other != mine:
            differing = sorted(name for name in mine.keys() | other.keys() if other.get(name) != mine.get(name))
            raise OtherConfigError(f"the checkpoint is of another configuration; it differs in {', '.join(differing)}")
        try:
            known = build(SavedTraining, saved)
            plan = ExecutionPlan.from_dict(known.plan)
            load_weights(self.state.model, known.model)
            load_moments(self.state.optimizer, known.optimizer)
        except (RuntimeError, ValueError, ConfigError) as error:
            raise CheckpointError(f"the checkpoint does not hold a training state: {error}") from None
        self.epoch = known.epoch
        self._obey(self._smaller_of(self.plan, plan))
        if self.state.scaler.is_enabled() and known.scaler:
            self.state.scaler.load_state_dict(known.scaler)

    def _smaller_of(self, mine: ExecutionPlan, saved: ExecutionPlan) -> ExecutionPlan:
        """The plan to continue with; skips plans found too large before, or too large for this device.

        Without predictions the saved plan is kept, with the data where this run wants them.
        """
        if mine == saved:
            return mine
        if self._predict is None:
            return replace(saved, data_placement=mine.data_placement)
        return min((mine, saved), key=self._predict)
