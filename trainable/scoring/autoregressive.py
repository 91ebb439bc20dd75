"""An autoregressive model of the code grid: how surprising is each code after those before it in time?"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainable.config import DensityName
from trainable.model.quantizer import code_vectors
from trainable.scoring.density import GroupState, PositionModel
from trainable.scoring.distances import chunk_length

HIDDEN = 48
STEPS = 150
"""Optimizer steps per group; more overfit groups of a hundred clips."""
BATCH_PATCHES = 32
"""Patches of an optimizer step, fewer where their logits would exceed CHUNK_BYTES."""


class CausalGrid(nn.Module):
    """Two masked convolutions (van den Oord et al. 2016, PixelCNN) over time, all frequency rows seen at once.

    A position sees the five rows around its own in the three columns before it, and the two rows below it in its own
    column. A causal transformer over the whole grid was tried on codes of three data sets: it detected less at the
    same cost.
    """

    def __init__(self, codebook_KD: Tensor, n_rows: int, codebooks: int = 1):
        super().__init__()
        num_codes, width = codebook_KD.shape
        self.codebooks = codebooks
        stages_MKD = codebook_KD.unflatten(0, (codebooks, -1))
        scale = stages_MKD.std(dim=(1, 2)).square().sum().sqrt().clamp_min(1e-6)
        centred_KD = (stages_MKD - stages_MKD.mean(dim=1, keepdim=True)).flatten(0, 1)
        self.register_buffer("vectors_KD", centred_KD / scale)
        self.rows = nn.Parameter(torch.zeros(n_rows, HIDDEN))
        self.past = nn.Conv2d(width, HIDDEN, (5, 3), padding=(2, 0))
        self.below = nn.Conv2d(width, HIDDEN, (2, 1))
        self.mixed = nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.logits = nn.Linear(HIDDEN, num_codes)

    def forward(self, codes_XHWM: Tensor) -> Tensor:
        """Log-probabilities of every code at every position, (X, H, W, K); those of each codebook sum to 1."""
        vectors_XDHW = code_vectors(codes_XHWM, self.vectors_KD).permute(0, 3, 1, 2)  # type: ignore[arg-type]
        # Columns before this one: padded by three on the left, the newest column left out.
        past = self.past(F.pad(vectors_XDHW, (3, 0, 0, 0))[..., :-1])
        below = self.below(F.pad(vectors_XDHW, (0, 0, 2, 0))[:, :, :-1])
        hidden = F.silu(past + below + self.rows.T[None, :, :, None])
        hidden = F.silu(hidden + self.mixed(hidden))
        logits_XHWMK = self.logits(hidden.permute(0, 2, 3, 1)).unflatten(-1, (self.codebooks, -1))
        return F.log_softmax(logits_XHWMK, dim=-1).flatten(-2)

    def surprise(self, codes_XHWM: Tensor) -> Tensor:
        """−log p of each position's codes given the positions before it, (X, H, W)."""
        log_probabilities: Tensor = self(codes_XHWM)
        return -log_probabilities.gather(-1, codes_XHWM).sum(dim=-1)


class Autoregressive(PositionModel):
    """A small causal convolution over the code grid, trained from scratch for each group from the trial's seed."""

    name: ClassVar[DensityName] = "autoregressive"

    def _chunk(self, patches_XHWM: Tensor) -> int:
        """Patches whose logits (H × W × K) fit into CHUNK_BYTES."""
        return chunk_length(4 * patches_XHWM.shape[1] * patches_XHWM.shape[2] * self.codebook_KD.shape[0])

    def _model(self, n_rows: int) -> CausalGrid:
        # Layers draw their first weights from the global generator, which is restored.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return CausalGrid(self.codebook_KD, n_rows, self.codebooks)

    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        patches = codes_BPHWM.flatten(0, 1)
        generator = torch.Generator().manual_seed(self.seed)
        model = self._model(codes_BPHWM.shape[2])
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2, fused=True)
        chunk = self._chunk(patches)
        for step in range(STEPS):
            picks = torch.randint(len(patches), (min(BATCH_PATCHES, len(patches), chunk),), generator=generator)
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * (1 + math.cos(math.pi * step / STEPS)) / 2
            optimizer.zero_grad()
            model.surprise(patches[picks]).mean().backward()
            optimizer.step()
        return {name: value.detach() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def positions(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        model = self._model(codes_BPHWM.shape[2])
        model.load_state_dict(state)
        patches = codes_BPHWM.flatten(0, 1)
        surprise = torch.cat([model.surprise(chunk) for chunk in patches.split(self._chunk(patches))])
        return surprise.view(codes_BPHWM.shape[:-1])
