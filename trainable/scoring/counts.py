"""Count models: how often each code occurred in each frequency row, alone or after another."""

from typing import ClassVar

import torch
from torch import Tensor

from trainable.config import DensityName
from trainable.scoring.density import GroupState, PositionModel
from trainable.scoring.distances import code_kernels

SMOOTHING = 0.1
"""Pseudo-count of each code in each row: small, because K codes share about 10 to 100 thousand positions."""
BIGRAM_SHARE = 0.5
"""Weight of the bigram against the unigram it is interpolated with (Jelinek and Mercer 1980)."""


def row_counts(codes_BPHWM: Tensor, num_codes: int) -> Tensor:
    """How often each code occurs in each row, float32 (H, K)."""
    rows = torch.arange(codes_BPHWM.shape[2])[:, None, None].expand_as(codes_BPHWM)
    flat = (rows * num_codes + codes_BPHWM).flatten()
    return torch.bincount(flat, minlength=codes_BPHWM.shape[2] * num_codes).view(-1, num_codes).float()


def row_surprise(log_probability_HK: Tensor, codes_BPHWM: Tensor) -> Tensor:
    """−log p of each position's codes in their row, (B, P, H, W, M)."""
    rows = torch.arange(codes_BPHWM.shape[2])[:, None, None]
    return -log_probability_HK[rows, codes_BPHWM]


def _log_shares(counts_HK: Tensor, codebooks: int) -> Tensor:
    """log of the share of each code among the codes of its codebook in its row, (H, K)."""
    smoothed_HMK = (counts_HK + SMOOTHING).unflatten(1, (codebooks, -1))
    return (smoothed_HMK / smoothed_HMK.sum(dim=2, keepdim=True)).log().flatten(1)


class Counts(PositionModel):
    """Smoothed code counts per frequency row; the codes of several codebooks count as independent."""

    name: ClassVar[DensityName] = "counts"
    cheap: ClassVar[bool] = True

    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        counts_HK = row_counts(codes_BPHWM, self.codebook_KD.shape[0])
        return {"log_probability": _log_shares(counts_HK, self.codebooks)}

    def positions(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        return row_surprise(state["log_probability"], codes_BPHWM).sum(dim=-1)


class KernelCounts(PositionModel):
    """Code counts per row, each count shared with codes nearby: a kernel density estimate on the codebook."""

    name: ClassVar[DensityName] = "kernel_counts"
    cheap: ClassVar[bool] = True

    def prepare(self) -> None:
        self.kernel_MKL = code_kernels(self.codebook_KD, self.codebooks, seed=self.seed)

    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        # To the landmarks and back: a code never seen in training is as likely as the codes around it.
        counts_MHK = (
            row_counts(codes_BPHWM, self.codebook_KD.shape[0]).unflatten(1, (self.codebooks, -1)).transpose(0, 1)
        )
        back_MLK = (self.kernel_MKL / self.kernel_MKL.sum(dim=1, keepdim=True)).transpose(1, 2)
        shared_HK = (counts_MHK @ self.kernel_MKL @ back_MLK).transpose(0, 1).flatten(1)
        return {"log_probability": _log_shares(shared_HK, self.codebooks)}

    def positions(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        return row_surprise(state["log_probability"], codes_BPHWM).sum(dim=-1)


class Bigram(PositionModel):
    """Which code follows which in time, per frequency row, interpolated with the code's own frequency.

    Transitions seen are kept as a sorted list of (row, code, next code): a dense table would be H × K × K.
    """

    name: ClassVar[DensityName] = "bigram"

    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        keys, counts = self._keys(codes_BPHWM).flatten().unique(return_counts=True)
        num_codes = self.codebook_KD.shape[0]
        return {
            "keys": keys,
            "counts": counts.float(),
            "before": row_counts(codes_BPHWM[..., :-1, :], num_codes),
            "log_probability": _log_shares(row_counts(codes_BPHWM, num_codes), self.codebooks),
        }

    def _keys(self, codes_BPHWM: Tensor) -> Tensor:
        num_codes = self.codebook_KD.shape[0]
        rows = torch.arange(codes_BPHWM.shape[2])[:, None, None]
        return (rows * num_codes + codes_BPHWM[..., :-1, :]) * num_codes + codes_BPHWM[..., 1:, :]

    def positions(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        surprise = row_surprise(state["log_probability"], codes_BPHWM)
        keys = self._keys(codes_BPHWM).contiguous()
        found = torch.searchsorted(state["keys"], keys).clamp_max(len(state["keys"]) - 1)
        pairs = torch.where(state["keys"][found] == keys, state["counts"][found], 0.0)
        rows = torch.arange(codes_BPHWM.shape[2])[:, None, None]
        before = state["before"][rows, codes_BPHWM[..., :-1, :]]
        unigram = (-surprise[..., 1:, :]).exp()
        # After a code never seen in training, only the unigram frequencies are known.
        share = torch.where(before > 0, BIGRAM_SHARE, 0.0)
        mixed = share * pairs / before.clamp_min(1.0) + (1 - share) * unigram
        surprise[..., 1:, :] = -mixed.log()
        return surprise.sum(dim=-1)
