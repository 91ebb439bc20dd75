"""Prediction of the middle frame."""

from typing import ClassVar

from trainable.yardsticks.stacked_frames import FramePredictor


class IDNN(FramePredictor):
    """Interpolation deep neural network (Suefuji et al. 2020): the middle of five frames from the other four.

    An autoencoder also reconstructs normal sounds badly that come and go within a few frames; to foretell the middle
    from both sides is easier for them.
    """

    name: ClassVar[str] = "idnn"
    title: ClassVar[str] = "IDNN"
    seen_frames: ClassVar[tuple[int, ...]] = (0, 1, 3, 4)
    predicted_frames: ClassVar[tuple[int, ...]] = (2,)
    hidden: ClassVar[tuple[int, ...]] = (64, 32, 16, 32, 64)
    """Theirs."""
