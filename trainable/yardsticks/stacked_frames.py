"""Dense networks on five stacked frames, one for all ids of a machine type; what they predict differs.

N runs of frames, S = 5 frames a run, F = 64 mel bins.
"""

import itertools
from collections.abc import Iterator
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from trainable.config import TrialConfig
from trainable.data.clips import ClipSet, TrainClips
from trainable.yardsticks.base import Yardstick

STACKED_FRAMES = 5
"""Frames of a run, as in DCASE 2020 Task 2's baseline (Koizumi et al. 2020) and in IDNN."""
BATCH_FRAMES = 512
LEARNING_RATE = 1e-3


class FramePredictor(Yardstick):
    """A network that predicts frames; a clip's score is the mean squared error over all its runs of five frames.

    The official baseline trains for 100 epochs; `epochs` counts passes over all runs.
    """

    trained: ClassVar[bool] = True
    seen_frames: ClassVar[tuple[int, ...]]
    """Which of the five the network sees."""
    predicted_frames: ClassVar[tuple[int, ...]]
    """Which of the five it predicts."""
    hidden: ClassVar[tuple[int, ...]]
    """Units of each layer between input and output; each has batch normalisation and ReLU."""

    def __init__(self, *, epochs: int = 10, seed: int = 0):
        self.epochs = epochs
        self.seed = seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = _network(64 * len(self.seen_frames), self.hidden, 64 * len(self.predicted_frames))

    @classmethod
    def beside(cls, config: TrialConfig) -> Self:
        return cls(seed=config.seed)

    def _fit(self, clips: TrainClips) -> None:
        frames_TF, begins_N = _runs(clips)
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.Adam(self.network.parameters(), lr=LEARNING_RATE, fused=True)
        self.network.train()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(begins_N), generator=generator).split(BATCH_FRAMES):
                if len(rows) == 1 and len(begins_N) > 1:
                    continue  # batch normalisation cannot take the variance of one row
                optimizer.zero_grad()
                self.errors(_cut(frames_TF, begins_N[rows])).mean().backward()
                optimizer.step()

    def errors(self, runs_NSF: Tensor) -> Tensor:
        """Mean squared error of each run, (N,)."""
        return (self.predict(runs_NSF) - self._part(runs_NSF, self.predicted_frames)).square().mean(dim=1)

    def predict(self, runs_NSF: Tensor) -> Tensor:
        """What the network makes of the frames it sees, (N, predicted frames · F)."""
        predicted: Tensor = self.network(self._part(runs_NSF, self.seen_frames))
        return predicted

    def _part(self, runs_NSF: Tensor, frames: tuple[int, ...]) -> Tensor:
        return runs_NSF[:, list(frames)].flatten(1)

    @torch.no_grad()
    def score_samples(self, clips: ClipSet) -> np.ndarray:
        self.network.eval()
        frames_TF, begins_N = _runs(clips)
        errors = [self.errors(_cut(frames_TF, begins)).double() for begins in begins_N.split(16 * BATCH_FRAMES)]
        counts = clips.lengths - STACKED_FRAMES + 1
        sums = np.add.reduceat(torch.cat(errors).numpy(), np.concatenate([[0], np.cumsum(counts)[:-1]]))
        return np.asarray(sums / counts)


def _network(inputs: int, hidden: tuple[int, ...], outputs: int) -> nn.Sequential:
    def layers() -> Iterator[nn.Module]:
        for before, after in itertools.pairwise((inputs, *hidden)):
            yield from (nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU())
        yield nn.Linear(hidden[-1], outputs)

    return nn.Sequential(*layers())


def _runs(clips: ClipSet) -> tuple[Tensor, Tensor]:
    """Packed frames, and the start of each run of five frames within one clip."""
    counts = clips.lengths - STACKED_FRAMES + 1
    first = np.repeat(clips.offsets[:-1], counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return torch.tensor(clips.frames_TF), torch.from_numpy(first + within)


def _cut(frames_TF: Tensor, begins_N: Tensor) -> Tensor:
    return frames_TF[begins_N[:, None] + torch.arange(STACKED_FRAMES)].float()
