"""Count models: how often each code occurred in each frequency row, alone or after another."""

import numpy as np

from .density import Arrays, PositionDensity

BIGRAM_SHARE = 0.5
"""Weight of the bigram against the unigram that it is interpolated with."""


class RowCounts(PositionDensity):
    """−log of each code's share in its row: of counts, or of counts shared with codes nearby."""

    def positions(self, codes_PHWM: np.ndarray, machine_id: str) -> np.ndarray:
        group = self.groups[self.group_of(machine_id)]
        return row_surprise(group, codes_PHWM).sum(axis=-1)


class Bigram(PositionDensity):
    """Which code follows which in time, per frequency row, interpolated with the code's own frequency."""

    def positions(self, codes_PHWM: np.ndarray, machine_id: str) -> np.ndarray:
        group = self.groups[self.group_of(machine_id)]
        surprise = row_surprise(group, codes_PHWM)
        rows_H11 = np.arange(codes_PHWM.shape[1])[:, None, None]
        earlier, later = codes_PHWM[:, :, :-1].astype(np.int64), codes_PHWM[:, :, 1:]
        n_codes = group["log_probability"].shape[1]
        keys = (rows_H11 * n_codes + earlier) * n_codes + later
        found = np.searchsorted(group["keys"], keys).clip(max=len(group["keys"]) - 1)
        pairs = np.where(group["keys"][found] == keys, group["counts"][found], 0)
        before = group["before"][rows_H11, earlier]
        # After a code never seen in training, only the unigram frequencies are known.
        share = np.where(before > 0, BIGRAM_SHARE, 0.0)
        mixed = share * pairs / np.maximum(before, 1) + (1 - share) * np.exp(-surprise[:, :, 1:])
        surprise[:, :, 1:] = -np.log(mixed)
        return surprise.sum(axis=-1)


def row_surprise(group: Arrays, codes_PHWM: np.ndarray) -> np.ndarray:
    """−log p of each position's codes in their row, float (P, H, W, M)."""
    rows_H11 = np.arange(codes_PHWM.shape[1])[:, None, None]
    surprise: np.ndarray = -group["log_probability"][rows_H11, codes_PHWM]
    return surprise
