"""DCASE 2020 Task 2's baseline."""

from typing import ClassVar

from trainable.yardsticks.stacked_frames import STACKED_FRAMES, FramePredictor


class Autoencoder(FramePredictor):
    """DCASE 2020 Task 2's autoencoder (Koizumi et al. 2020): five frames through a bottleneck of 8."""

    name: ClassVar[str] = "autoencoder"
    title: ClassVar[str] = "DCASE autoencoder"
    seen_frames: ClassVar[tuple[int, ...]] = tuple(range(STACKED_FRAMES))
    predicted_frames: ClassVar[tuple[int, ...]] = seen_frames
    hidden: ClassVar[tuple[int, ...]] = (128, 128, 128, 128, 8, 128, 128, 128, 128)
