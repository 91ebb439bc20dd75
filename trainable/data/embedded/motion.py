"""How a shaft turns during a clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainable.data.embedded.acoustics import SAMPLE_RATE, SAMPLES, Array


@dataclass(frozen=True)
class Motion:
    """How the shaft turned during a clip."""

    phase_S: Array
    """Shaft angle, radians (samples,)."""
    speed_hz_S: Array


def draw_motion(speeds_hz: Sequence[float], rng: np.random.Generator) -> Motion:
    """One of the operating speeds, slow drift around it, and in one clip of three a change to another speed."""
    speed_S = np.full(SAMPLES, rng.choice(speeds_hz))
    if rng.random() < 1 / 3:
        ramp = np.clip((np.arange(SAMPLES) / SAMPLE_RATE - rng.uniform(0.8, 3.2)) / 0.4, 0.0, 1.0)
        speed_S += (rng.choice(speeds_hz) - speed_S) * ramp
    times = np.arange(SAMPLES) / SAMPLE_RATE
    drift = sum(
        rng.normal(0.0, 0.006) * np.sin(2 * np.pi * rate * times + rng.uniform(0, 2 * np.pi))
        for rate in (0.2, 0.5, 1.1)
    )
    speed_S *= 1.0 + drift
    phase_S = 2 * np.pi * np.cumsum(speed_S) / SAMPLE_RATE + rng.uniform(0, 2 * np.pi)
    return Motion(phase_S, speed_S)
