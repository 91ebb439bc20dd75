"""What codes are worth without training: a linear map in the encoder's place, k-means in the codebook's.

B clips, P windows a clip, N cells, V = 64 values of a cell, D principal components, M codebooks of K codes in all.
"""

from typing import ClassVar, Self

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor

from trainable.config import ScoreConfig, ScoreWindows, TrialConfig
from trainable.data.clips import ClipSet, TrainClips
from trainable.data.patches import gather_patches
from trainable.data.windows import scored_starts
from trainable.model.codebook import distinct_rows
from trainable.model.geometry import geometry_of
from trainable.model.quantizer import residual_codes
from trainable.scoring.codes import ClipCodes
from trainable.scoring.registry import make_density
from trainable.yardsticks.base import Yardstick, refuse_unheard

CELL = 8
"""Mel bins, and frames, of a cell: what one code of the default model stands for."""
COMPONENTS = 32
CODEBOOKS, CODES = 4, 64
SAMPLED_CELLS = 20_000
"""Cells that components and codes are fitted to. A prototype with 60,000 detected no more."""
KMEANS_BATCH = 8192
"""Cells of a step of k-means: of several settings the one whose codes detected most, so the yardstick is strict."""
CHUNK_BYTES = 64 * 1024**2
"""Largest array of patches at a time."""


class PCACodes(Yardstick):
    """Principal components of the 8 × 8 log-mel cells, 4 codebooks of 64, the same Mahalanobis density as ours.

    Parameters
    ----------
    n_patches, stride, score_windows, patch_frames
        The windows of a clip, as a search scores them (`trainable.data.windows.scored_starts`).
    """

    name: ClassVar[str] = "pca_codes"
    title: ClassVar[str] = "PCA codes"

    def __init__(
        self,
        *,
        n_patches: int = 20,
        stride: int = 8,
        score_windows: ScoreWindows = "stride",
        patch_frames: int = 64,
        seed: int = 0,
    ):
        self.n_patches, self.stride = n_patches, stride
        self.score_windows = score_windows
        self.patch_frames = patch_frames
        self.seed = seed
        self._density = make_density(ScoreConfig(), name="mahalanobis", seed=seed)

    @classmethod
    def beside(cls, config: TrialConfig) -> Self:
        return cls(
            n_patches=config.scored_patches,
            stride=config.patch.stride,
            score_windows=config.score.score_windows,
            patch_frames=geometry_of(config).patch_frames,
            seed=config.seed,
        )

    def _fit(self, clips: TrainClips) -> None:
        cells_NV = self._sampled_cells(clips)
        components = min(COMPONENTS, len(cells_NV))
        self._pca = PCA(components, svd_solver="covariance_eigh").fit(cells_NV)
        left_ND = self._pca.transform(cells_NV)
        stages = []
        for stage in range(CODEBOOKS):
            # As many codes in every stage, so that a code's index tells its codebook.
            kmeans = MiniBatchKMeans(
                min(CODES, len(left_ND)),
                batch_size=KMEANS_BATCH,
                n_init=1,
                random_state=(self.seed + stage) % 2**32,
            )
            chosen_N = kmeans.fit_predict(left_ND)
            stages.append(kmeans.cluster_centers_)
            left_ND = left_ND - kmeans.cluster_centers_[chosen_N]
        self.codebook_KD = torch.from_numpy(np.concatenate(stages)).float()
        self._density.fit(self.codes(clips), self.codebook_KD)

    def score_samples(self, clips: ClipSet) -> np.ndarray:
        refuse_unheard(clips, tuple(self._density.groups))
        return self._density.score_samples(self.codes(clips))

    @torch.no_grad()
    def codes(self, clips: ClipSet) -> ClipCodes:
        """Residual codes of every cell of every window; codebook m of 64 codes has 64 m … 64 m + 63."""
        starts_BP = self._starts(clips)
        frames_TF = torch.from_numpy(np.array(clips.frames_TF))
        clip_bytes = 4 * self.n_patches * frames_TF.shape[1] * self.patch_frames
        parts = [
            self._codes(gather_patches(frames_TF, starts, patch_frames=self.patch_frames).float())
            for starts in starts_BP.split(max(1, CHUNK_BYTES // clip_bytes))
        ]
        relative_BP = starts_BP - torch.from_numpy(np.array(clips.offsets[:-1]))[:, None]
        return ClipCodes(torch.cat(parts), relative_BP, clips.machine_ids, clips.split)

    def _codes(self, patches_BPFT: Tensor) -> Tensor:
        columns = patches_BPFT.shape[3] // CELL
        cells_BPHWV = patches_BPFT[..., : columns * CELL].unflatten(3, (columns, CELL)).unflatten(2, (-1, CELL))
        cells_BPHWV = cells_BPHWV.transpose(3, 4).flatten(4)
        mean_V, axes_DV = (torch.from_numpy(a).float() for a in (self._pca.mean_, self._pca.components_))
        latents_ND = (cells_BPHWV.flatten(0, 3) - mean_V) @ axes_DV.T
        codes_NM = residual_codes(latents_ND, self.codebook_KD, CODEBOOKS, chunk_rows=8192)
        return codes_NM.unflatten(0, cells_BPHWV.shape[:4])

    def _starts(self, clips: ClipSet) -> Tensor:
        return scored_starts(
            clips.offsets,
            self.score_windows,
            count=self.n_patches,
            stride=self.stride,
            patch_frames=self.patch_frames,
        )

    def _sampled_cells(self, clips: TrainClips) -> np.ndarray:
        """Cells from all over the training clips' windows, float64 (N ≤ SAMPLED_CELLS, V): mel bins, then frames."""
        rows, columns = clips.frames_TF.shape[1] // CELL, self.patch_frames // CELL
        starts_W = self._starts(clips).flatten().numpy()
        generator = torch.Generator().manual_seed(self.seed)
        chosen_N = distinct_rows(len(starts_W) * rows * columns, SAMPLED_CELLS, generator).numpy()
        windows_N, cells_N = np.divmod(chosen_N, rows * columns)
        frames_N = starts_W[windows_N] + cells_N % columns * CELL
        mels_N = cells_N // columns * CELL
        within = np.arange(CELL)
        times_N1C = frames_N[:, None, None] + within
        bins_NC1 = mels_N[:, None, None] + within[:, None]
        return np.asarray(clips.frames_TF[times_N1C, bins_NC1].reshape(len(chosen_N), -1), dtype=np.float64)
