"""Detectors without codes, only for comparison: a covariance matrix, and DCASE 2020's autoencoder."""

import itertools
from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn
from torch.nn import functional as F

from trainable.data.clips import ClipSet, TrainClips
from trainable.errors import DataError, DataLeakError

STACKED_FRAMES = 5
"""Frames of an autoencoder input, as in DCASE 2020 Task 2's baseline (Koizumi et al. 2020)."""
HIDDEN, BOTTLENECK, LAYERS = 128, 8, 4
BATCH_FRAMES = 512
LEARNING_RATE = 1e-3


def _refuse_leak(clips: ClipSet) -> None:
    if not isinstance(clips, TrainClips):
        raise DataLeakError(f"a baseline was given {clips.split} clips to fit; it may be fitted to train clips only")


def _groups(clips: ClipSet) -> dict[str, np.ndarray]:
    ids = np.array(clips.machine_ids)
    return {str(machine_id): np.flatnonzero(ids == machine_id) for machine_id in sorted(set(clips.machine_ids))}


class LogMelMahalanobis:
    """Mahalanobis distance (Ledoit–Wolf) of mean and deviation of each log-mel bin over time, per machine id."""

    def __init__(self) -> None:
        self._fitted: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def fit(self, clips: TrainClips) -> Self:
        """Learns each id's mean and covariance. Raises DataLeakError for anything but training clips."""
        _refuse_leak(clips)
        moments = _moments(clips)
        for machine_id, members in _groups(clips).items():
            covariance = ledoit_wolf(moments[members])[0]
            ridge = 1e-9 * (1 + covariance.diagonal().mean())
            precision = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
            self._fitted[machine_id] = (moments[members].mean(axis=0), precision)
        return self

    def score_samples(self, clips: ClipSet) -> np.ndarray:
        """Anomaly scores, float64 (clips,): HIGHER = MORE ANOMALOUS. Raises DataError for an unknown id."""
        moments = _moments(clips)
        scores = np.empty(len(clips))
        for machine_id, members in _groups(clips).items():
            if machine_id not in self._fitted:
                raise DataError(
                    f"machine id {machine_id} has no training clips; the known ids are {', '.join(self._fitted)}"
                )
            centre, precision = self._fitted[machine_id]
            gaps = moments[members] - centre
            scores[members] = np.einsum("ij,jk,ik->i", gaps, precision, gaps)
        return scores


def _moments(clips: ClipSet) -> np.ndarray:
    """Mean and standard deviation over time of each bin, float64 (clips, 128)."""
    lengths = clips.lengths[:, None]
    begins = clips.offsets[:-1]
    frames = clips.frames_TF.astype(np.float64)
    means = np.add.reduceat(frames, begins, axis=0) / lengths
    squares = np.add.reduceat(np.square(frames - np.repeat(means, clips.lengths, axis=0)), begins, axis=0) / lengths
    return np.concatenate([means, np.sqrt(squares)], axis=1)


class Autoencoder:
    """DCASE 2020 Task 2's baseline: a dense autoencoder of 5 stacked frames, shared by all ids of a machine type.

    4 × 128 – 8 – 4 × 128 units with batch normalisation; a clip's score is its mean squared reconstruction error. The
    official one trains for 100 epochs; `epochs` counts passes over all stacked frames.
    """

    def __init__(self, *, epochs: int = 10, seed: int = 0):
        self.epochs = epochs
        self.seed = seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _network()

    def fit(self, clips: TrainClips) -> Self:
        """Trains with Adam. Raises DataLeakError for anything but training clips."""
        _refuse_leak(clips)
        frames_TF, begins_N = _stacked(clips)
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE, fused=True)
        self.network.train()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(begins_N), generator=generator).split(BATCH_FRAMES):
                if len(rows) == 1 and len(begins_N) > 1:
                    continue  # batch normalisation cannot take the variance of one row
                inputs = _windows(frames_TF, begins_N[rows])
                optimizer.zero_grad()
                F.mse_loss(self.network(inputs), inputs).backward()
                optimizer.step()
        return self

    @torch.no_grad()
    def score_samples(self, clips: ClipSet) -> np.ndarray:
        """Mean squared reconstruction errors, float64 (clips,): HIGHER = MORE ANOMALOUS."""
        self.network.eval()
        frames_TF, begins_N = _stacked(clips)
        errors = []
        for begins in begins_N.split(16 * BATCH_FRAMES):
            inputs = _windows(frames_TF, begins)
            errors.append((self.network(inputs) - inputs).square().mean(dim=1).double())
        counts = clips.lengths - STACKED_FRAMES + 1
        sums = np.add.reduceat(torch.cat(errors).numpy(), np.concatenate([[0], np.cumsum(counts)[:-1]]))
        return np.asarray(sums / counts)


def _network() -> nn.Sequential:
    width = 64 * STACKED_FRAMES
    sizes = [width, *[HIDDEN] * LAYERS, BOTTLENECK, *[HIDDEN] * LAYERS]

    def layers() -> Iterator[nn.Module]:
        for before, after in itertools.pairwise(sizes):
            yield from (nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU())
        yield nn.Linear(HIDDEN, width)

    return nn.Sequential(*layers())


def _stacked(clips: ClipSet) -> tuple[Tensor, Tensor]:
    """Packed frames, and the start of each run of 5 frames within one clip."""
    counts = clips.lengths - STACKED_FRAMES + 1
    first = np.repeat(clips.offsets[:-1], counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return torch.tensor(clips.frames_TF), torch.from_numpy(first + within)


def _windows(frames_TF: Tensor, begins_N: Tensor) -> Tensor:
    return frames_TF[begins_N[:, None] + torch.arange(STACKED_FRAMES)].flatten(1)
