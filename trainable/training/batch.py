"""An effective batch: which patches of which clips, and every random draw that its step needs.

Drawn for the whole batch before any of it runs, so that no plan can change a draw by splitting the batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainable.config import TrialConfig
from trainable.data.patches import patch_starts
from trainable.model.codebook import distinct_rows
from trainable.model.geometry import geometry_of
from trainable.model.transforms import TransformDraws, draw_transforms
from trainable.training.seeds import generator_for

VIEW_SHARE = 4
"""One patch in four is encoded again, transformed, for the transformation head: a quarter of an encoder pass."""


@dataclass(frozen=True)
class Batch:
    """B clips of P patches; CPU tensors, a few kilobytes."""

    starts_BP: Tensor
    """First frame of each patch in the packed features, int64."""
    id_labels_B: Tensor
    """Class of each clip's machine id, int64."""
    transforms: TransformDraws
    view_columns_V: Tensor
    """Which of the P patches the transformation head gets, int64."""
    candidate_rows_K: Tensor
    """The row (0 … B·P·H·W − 1) that replaces each code if it is dead, int64.

    No row occurs twice if there are enough rows."""

    @property
    def clips(self) -> int:
        return self.starts_BP.shape[0]

    def part(self, begin: int, end: int) -> "Batch":
        """Some whole clips of the batch; the candidates remain those of the whole batch."""
        return Batch(
            self.starts_BP[begin:end],
            self.id_labels_B[begin:end],
            self.transforms.clips(begin, end),
            self.view_columns_V,
            self.candidate_rows_K,
        )


def to_device(draws: Tensor, device: torch.device) -> Tensor:
    """A batch's index tensor on the device that uses it, without waiting for the kernels queued there.

    A step stays ahead of its device only if nothing in it waits. The tensors of a batch lie in pageable memory, of
    which CUDA takes a copy before the call returns, so that they may be freed at once.
    """
    return draws.to(device, non_blocking=True)


def make_batch(
    config: TrialConfig,
    offsets: np.ndarray,
    id_labels: Tensor,
    clip_indices_B: Tensor,
    *,
    epoch: int,
    step: int,
) -> Batch:
    """The batch of some clips, drawn from (seed, epoch, step).

    Parameters
    ----------
    offsets
        Where each clip begins in the packed features, int64 (clips + 1,).
    id_labels
        Class of every clip's machine id, int64 (clips,).
    clip_indices_B
        Clips of this batch.
    """
    n_clips, n_patches, geometry = clip_indices_B.shape[0], config.patch.n_patches, geometry_of(config)
    seed = config.seed
    starts_BP = patch_starts(
        offsets,
        clip_indices_B,
        n_patches=n_patches,
        stride=config.patch.stride,
        patch_frames=geometry.patch_frames,
        generator=generator_for(seed, "patches", epoch, step),
    )
    views = -(-n_patches // VIEW_SHARE)
    return Batch(
        starts_BP=starts_BP,
        id_labels_B=id_labels[clip_indices_B],
        transforms=draw_transforms(n_clips, geometry, generator_for(seed, "transforms", epoch, step)),
        view_columns_V=torch.randperm(n_patches, generator=generator_for(seed, "views", epoch, step))[:views],
        candidate_rows_K=_candidate_rows(
            n_clips * n_patches * geometry.codes_per_patch,
            config.quantizer.codebooks * config.quantizer.num_embeddings,
            generator_for(seed, "revival", epoch, step),
        ),
    )


def _candidate_rows(n_rows: int, n_codes: int, generator: torch.Generator) -> Tensor:
    """Distinct rows, in any order; two codes revived to one row would be equal, and one of them dead again."""
    rows = distinct_rows(n_rows, n_codes, generator)
    return rows[torch.randperm(n_codes, generator=generator) % len(rows)]
