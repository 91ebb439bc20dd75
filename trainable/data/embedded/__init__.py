"""The embedded machines: sounds, faults, and the data set made of them."""

from trainable.data.embedded.dataset import (
    Amount,
    EmbeddedClip,
    embedded_clips,
    embedded_fault,
    embedded_sound,
    make_recordings,
)

__all__ = ["Amount", "EmbeddedClip", "embedded_clips", "embedded_fault", "embedded_sound", "make_recordings"]
