"""What breaks on a slider. Each fault at severity 0 … 1 gives the whole sound; at 0 it is the healthy one.

`swapped_ramps` is there to tell detectors apart: it reverses strokes in time, so every mean and deviation of a clip
stays, and only what listens to the order of frames hears it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from trainable.data.embedded.acoustics import SAMPLE_RATE, SAMPLES, Array, coloured_noise, impacts
from trainable.data.embedded.slider import Slider, Strokes, draw_strokes, move, slider_sound

Fault = Callable[[Slider, Strokes, float, np.random.Generator], Array]
"""The sound of a slider with a fault of a severity, float64 (samples,).

What the fault itself draws comes from a generator spawned off the given one, so the slider's noise stays the same.
"""


def dry_guide(slider: Slider, strokes: Strokes, severity: float, rng: np.random.Generator) -> Array:
    """Missing lubrication: louder friction, most of all where the carriage creeps, sticks and slips."""
    dry = replace(
        slider,
        friction_level=(1.0 + severity) * slider.friction_level,
        stick_level=(1.0 + 2.0 * severity) * slider.stick_level,
    )
    return slider_sound(dry, move(dry, strokes), rng)


def dented_guide(slider: Slider, strokes: Strokes, severity: float, rng: np.random.Generator) -> Array:
    """A dent that the carriage runs over at the same place of each stroke, harder the faster it is."""
    travel = move(slider, strokes)
    place = rng.spawn(1)[0].uniform(0.3, 0.7)
    passings = np.flatnonzero(np.diff(np.sign(travel.position_S - place)) != 0)
    dent = impacts(passings, travel.speed_S[passings], 1.4 * slider.click_hz, 0.008)
    return slider_sound(slider, travel, rng) + 14.0 * severity * dent


def play(slider: Slider, strokes: Strokes, severity: float, rng: np.random.Generator) -> Array:
    """Play in the nut: each click at a turning point is followed by another, later and louder the more there is."""
    travel = move(slider, strokes)
    gap = int((0.02 + 0.04 * severity) * SAMPLE_RATE)
    seconds = travel.starts[travel.starts + gap < SAMPLES] + gap
    knock = impacts(seconds, slider.click_gain, slider.click_hz, 0.006)
    return slider_sound(slider, travel, rng) + 4.0 * severity * knock


def slipping_belt(slider: Slider, strokes: Strokes, severity: float, rng: np.random.Generator) -> Array:
    """The belt between motor and screw slips: the speed jitters about ten times a second, and the tones with it."""
    travel = move(slider, strokes)
    jitter_S = coloured_noise(1.0 - 2 * np.pi * 10.0 / SAMPLE_RATE, rng.spawn(1)[0])
    factor_S = np.exp(0.07 * severity * jitter_S)
    steps_S = np.diff(travel.position_S, prepend=travel.position_S[0])
    slipped = replace(travel, speed_S=factor_S * travel.speed_S, position_S=np.cumsum(factor_S * steps_S))
    return slider_sound(slider, slipped, rng)


def swapped_ramps(slider: Slider, strokes: Strokes, severity: float, rng: np.random.Generator) -> Array:
    """A drive set up wrongly: strokes rise slowly and brake hard, at severity 1 the healthy stroke reversed in time.

    Only time tells: each speed lasts as long as before, so each mel band keeps its mean and deviation.
    """
    moved = severity * (slider.fall_share - slider.rise_share)
    swapped = replace(slider, rise_share=slider.rise_share + moved, fall_share=slider.fall_share - moved)
    return slider_sound(swapped, move(swapped, strokes), rng)


FAULTS: tuple[Fault, ...] = (dry_guide, dented_guide, play, slipping_belt, swapped_ramps)


def faulty_sound(slider: Slider, fault: Fault, severity: float, rng: np.random.Generator) -> Array:
    """A slider with a fault in a mode of operation of its own choice, float64 (samples,)."""
    return fault(slider, draw_strokes(slider, rng), severity, rng)
