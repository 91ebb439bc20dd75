"""Code indices of clips: all that a density model sees of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainable.data.clips import Split


@dataclass(frozen=True)
class ClipCodes:
    """Codes of B clips."""

    codes_BPHWM: Tensor
    """Code indices, int64 (B, P patches, H frequency rows from the lowest, W columns in time, M codebooks).

    Those of codebook m of size K are m · K … (m + 1) · K − 1."""
    starts_BP: Tensor
    """First frame of each patch, counted from its clip's beginning, int64."""
    ids: tuple[str, ...]
    """Machine id of each clip."""
    split: Split
    """The split of the clips; a density model may be fitted to TRAIN only."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: list[int]) -> "ClipCodes":
        """A subset of the clips."""
        rows = torch.tensor(indices, dtype=torch.int64)
        return ClipCodes(
            self.codes_BPHWM[rows], self.starts_BP[rows], tuple(self.ids[index] for index in indices), self.split
        )
