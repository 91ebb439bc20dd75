"""Clips of noise: real `TrainClips` for tests that look at mechanics, not at detection."""

import numpy as np

from trainable.data.clips import Split, TrainClips

IDS = ("00", "01", "02")


def noise_train_clips(n_clips: int = 14, *, frames: tuple[int, int] = (64, 140), seed: int = 0) -> TrainClips:
    """Normal training clips of Gaussian noise, of different lengths and three machine ids."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(*frames, n_clips))]).astype(np.int64)
    return TrainClips(
        frames_TF=rng.standard_normal((offsets[-1], 64)).astype(np.float32),
        offsets=offsets,
        machine_ids=tuple(IDS[index % len(IDS)] for index in range(n_clips)),
        names=tuple(f"normal_id_{IDS[index % len(IDS)]}_{index:08d}.wav" for index in range(n_clips)),
        split=Split.TRAIN,
    )
