"""Which phase an epoch belongs to, and what its loss and learning rate are scaled by."""

import math
from dataclasses import dataclass
from typing import Literal

from trainable.config import PhaseConfig, TrialConfig

Phase = Literal[1, 2, 3]


@dataclass(frozen=True)
class PhaseState:
    """How one epoch trains."""

    phase: Phase
    """1 VQ-only, 2 full loss, 3 codebook frozen (heads on)."""
    commitment_scale: float
    """Warm-up factor on the commitment term, 0 … 1."""

    @property
    def codebook_frozen(self) -> bool:
        return self.phase == 3


def phase_of(config: PhaseConfig, epoch: int) -> Phase:
    """Phase of an epoch (from 0). Boundaries are rounded to whole epochs."""
    if epoch < round(config.vq_only_share * config.epochs):
        return 1
    if epoch >= config.epochs - round(config.frozen_share * config.epochs):
        return 3
    return 2


def commitment_scale(config: TrialConfig, epoch: int) -> float:
    """`commitment_warmup_start` in the first epoch, linearly to 1 at epoch `commitment_warmup_epochs` (0 = off)."""
    warmup = config.loss.commitment_warmup_epochs
    if epoch >= warmup:
        return 1.0
    start = config.loss.commitment_warmup_start
    return start + (1.0 - start) * epoch / warmup


def phase_at(config: TrialConfig, epoch: int) -> PhaseState:
    """How epoch `epoch` (from 0) trains."""
    return PhaseState(phase_of(config.phase, epoch), commitment_scale(config, epoch))


def peak_learning_rate(config: TrialConfig) -> float:
    """Learning rate after warm-up: `learning_rate`, which `learning_rate_batch` may scale with the batch size.

    The noise of Adam's steps stays the same where the rate grows with the square root of the batch (Malladi et al.
    2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms").
    """
    optim = config.optim
    if optim.learning_rate_batch == 0:
        return optim.learning_rate
    return optim.learning_rate * math.sqrt(config.patch.batch_size / optim.learning_rate_batch)


def learning_rate_at(config: TrialConfig, epochs_done: float) -> float:
    """Learning rate after a (fractional) number of epochs: linear warm-up to the peak, then constant.

    No decay towards the last epoch: ASHA compares trials at rungs long before it.
    """
    peak, warmup = peak_learning_rate(config), config.optim.lr_warmup_epochs
    if epochs_done >= warmup:
        return peak
    return peak * max(epochs_done / warmup, 0.01)
