"""Count models: how often each code occurred in each frequency row, alone or after another."""

from typing import ClassVar

import torch
from torch import Tensor

from trainable.config import DensityName
from trainable.scoring.density import GroupState, PositionModel
from trainable.scoring.distances import code_kernel

SMOOTHING = 0.1
"""Pseudo-count of each code in each row: small, because K codes share about 10 to 100 thousand positions."""
BIGRAM_SHARE = 0.5
"""Weight of the bigram against the unigram it is interpolated with (Jelinek and Mercer 1980)."""


def row_counts(codes_BPHW: Tensor, num_codes: int) -> Tensor:
    """How often each code occurs in each row, float32 (H, K)."""
    rows = torch.arange(codes_BPHW.shape[2])[None, None, :, None].expand_as(codes_BPHW)
    flat = (rows * num_codes + codes_BPHW).flatten()
    return torch.bincount(flat, minlength=codes_BPHW.shape[2] * num_codes).view(-1, num_codes).float()


def row_surprise(log_probability_HK: Tensor, codes_BPHW: Tensor) -> Tensor:
    """−log p of each position's code in its row, (B, P, H, W)."""
    rows = torch.arange(codes_BPHW.shape[2])[None, None, :, None]
    return -log_probability_HK[rows, codes_BPHW]


def _log_shares(counts_HK: Tensor) -> Tensor:
    smoothed = counts_HK + SMOOTHING
    return (smoothed / smoothed.sum(dim=1, keepdim=True)).log()


class Counts(PositionModel):
    """Smoothed code counts per frequency row."""

    name: ClassVar[DensityName] = "counts"
    cheap: ClassVar[bool] = True

    def fit_group(self, codes_BPHW: Tensor) -> GroupState:
        return {"log_probability": _log_shares(row_counts(codes_BPHW, self.codebook_KD.shape[0]))}

    def positions(self, state: GroupState, codes_BPHW: Tensor) -> Tensor:
        return row_surprise(state["log_probability"], codes_BPHW)


class KernelCounts(PositionModel):
    """Code counts per row, each count shared with codes nearby: a kernel density estimate on the codebook."""

    name: ClassVar[DensityName] = "kernel_counts"
    cheap: ClassVar[bool] = True

    def prepare(self) -> None:
        self.kernel_KL = code_kernel(self.codebook_KD, seed=self.seed)

    def fit_group(self, codes_BPHW: Tensor) -> GroupState:
        # To the landmarks and back: a code never seen in training is as likely as the codes around it.
        counts_HK = row_counts(codes_BPHW, self.codebook_KD.shape[0])
        back_LK = (self.kernel_KL / self.kernel_KL.sum(dim=0)).T
        return {"log_probability": _log_shares(counts_HK @ self.kernel_KL @ back_LK)}

    def positions(self, state: GroupState, codes_BPHW: Tensor) -> Tensor:
        return row_surprise(state["log_probability"], codes_BPHW)


class Bigram(PositionModel):
    """Which code follows which in time, per frequency row, interpolated with the code's own frequency.

    Transitions seen are kept as a sorted list of (row, code, next code): a dense table would be H × K × K.
    """

    name: ClassVar[DensityName] = "bigram"
    cheap: ClassVar[bool] = True

    def fit_group(self, codes_BPHW: Tensor) -> GroupState:
        keys, counts = self._keys(codes_BPHW).flatten().unique(return_counts=True)
        num_codes = self.codebook_KD.shape[0]
        return {
            "keys": keys,
            "counts": counts.float(),
            "before": row_counts(codes_BPHW[..., :-1], num_codes),
            "log_probability": _log_shares(row_counts(codes_BPHW, num_codes)),
        }

    def _keys(self, codes_BPHW: Tensor) -> Tensor:
        num_codes = self.codebook_KD.shape[0]
        rows = torch.arange(codes_BPHW.shape[2])[None, None, :, None]
        return (rows * num_codes + codes_BPHW[..., :-1]) * num_codes + codes_BPHW[..., 1:]

    def positions(self, state: GroupState, codes_BPHW: Tensor) -> Tensor:
        surprise = row_surprise(state["log_probability"], codes_BPHW)
        keys = self._keys(codes_BPHW).contiguous()
        found = torch.searchsorted(state["keys"], keys).clamp_max(len(state["keys"]) - 1)
        pairs = torch.where(state["keys"][found] == keys, state["counts"][found], 0.0)
        rows = torch.arange(codes_BPHW.shape[2])[None, None, :, None]
        before = state["before"][rows, codes_BPHW[..., :-1]]
        unigram = (-surprise[..., 1:]).exp()
        # After a code never seen in training, only the unigram frequencies are known.
        share = torch.where(before > 0, BIGRAM_SHARE, 0.0)
        mixed = share * pairs / before.clamp_min(1.0) + (1 - share) * unigram
        surprise[..., 1:] = -mixed.log()
        return surprise
