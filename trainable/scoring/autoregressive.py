"""An autoregressive model of the code grid: how surprising is each code after those before it in time?"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainable.config import DensityName
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

    def __init__(self, codebook_KD: Tensor, n_rows: int):
        super().__init__()
        num_codes, width = codebook_KD.shape
        scale = codebook_KD.std().clamp_min(1e-6)
        self.register_buffer("vectors_KD", (codebook_KD - codebook_KD.mean(dim=0)) / scale)
        self.rows = nn.Parameter(torch.zeros(n_rows, HIDDEN))
        self.past = nn.Conv2d(width, HIDDEN, (5, 3), padding=(2, 0))
        self.below = nn.Conv2d(width, HIDDEN, (2, 1))
        self.mixed = nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.logits = nn.Linear(HIDDEN, num_codes)

    def forward(self, codes_XHW: Tensor) -> Tensor:
        """Log-probabilities of every code at every position, (X, H, W, K)."""
        vectors_XDHW = F.embedding(codes_XHW, self.vectors_KD).permute(0, 3, 1, 2)  # type: ignore[arg-type]
        # Columns before this one: padded by three on the left, the newest column left out.
        past = self.past(F.pad(vectors_XDHW, (3, 0, 0, 0))[..., :-1])
        below = self.below(F.pad(vectors_XDHW, (0, 0, 2, 0))[:, :, :-1])
        hidden = F.silu(past + below + self.rows.T[None, :, :, None])
        hidden = F.silu(hidden + self.mixed(hidden))
        log_probabilities: Tensor = F.log_softmax(self.logits(hidden.permute(0, 2, 3, 1)), dim=-1)
        return log_probabilities

    def surprise(self, codes_XHW: Tensor) -> Tensor:
        """−log p of each position's code given those before it, (X, H, W)."""
        log_probabilities: Tensor = self(codes_XHW)
        return -log_probabilities.gather(-1, codes_XHW[..., None])[..., 0]


class Autoregressive(PositionModel):
    """A small causal convolution over the code grid, trained from scratch for each group from the trial's seed."""

    name: ClassVar[DensityName] = "autoregressive"

    def _chunk(self, patches_XHW: Tensor) -> int:
        """Patches whose logits (H × W × K) fit into CHUNK_BYTES."""
        return chunk_length(4 * patches_XHW.shape[1] * patches_XHW.shape[2] * self.codebook_KD.shape[0])

    def _model(self, n_rows: int) -> CausalGrid:
        # Layers draw their first weights from the global generator, which is restored.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return CausalGrid(self.codebook_KD, n_rows)

    def fit_group(self, codes_BPHW: Tensor) -> GroupState:
        patches = codes_BPHW.flatten(0, 1)
        generator = torch.Generator().manual_seed(self.seed)
        model = self._model(codes_BPHW.shape[2])
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
    def positions(self, state: GroupState, codes_BPHW: Tensor) -> Tensor:
        model = self._model(codes_BPHW.shape[2])
        model.load_state_dict(state)
        patches = codes_BPHW.flatten(0, 1)
        surprise = torch.cat([model.surprise(chunk) for chunk in patches.split(self._chunk(patches))])
        return surprise.view(codes_BPHW.shape)
