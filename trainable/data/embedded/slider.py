"""A slider: a carriage that a ball screw moves back and forth on a guide, stroke after stroke.

Each stroke accelerates, cruises and brakes, faster into speed than out of it; between strokes the carriage dwells, now
and then for long. Screw and guide sound at so many events per distance, so their tones rise and fall with speed, as
does their loudness. Friction is Stribeck's: loudest while creeping, where it also sticks and slips, least at medium
speed, growing again with viscosity (Armstrong-Hélouvry, Control of Machines with Friction, 1991). The reversal of load
clicks at both ends of a stroke, and the servo whines while it holds. `slider_faults` says what breaks.
"""

from dataclasses import dataclass

import numpy as np

from trainable.data.embedded.acoustics import SAMPLE_RATE, SAMPLES, Array, band_noise, harmonics, impacts

SEED = 4
"""Sets the individual sliders apart from other types' individuals."""
CREEPING = 0.25
"""Stribeck's velocity, strokes per second: below it friction rises."""
JUDDER_HZ = 45.0
"""How often a creeping carriage sticks and slips: tens of hertz for a carriage of some kilograms on a steel screw."""
LONGEST_LEAD = 3.0
"""Seconds before the clip at which the drawn strokes begin: longer than a stroke and its dwell."""


@dataclass(frozen=True)
class Slider:
    """One individual slider: the variant that its id selects."""

    stroke_seconds: tuple[float, ...]
    """How long a stroke takes in each operating mode."""
    rise_share: float
    """Share of a stroke that accelerates."""
    fall_share: float
    """Share of a stroke that brakes."""
    dwell_seconds: float
    screw_turns: float
    """Rotations of the screw in a stroke."""
    screw_gains: Array
    """Amplitude of harmonics 1 … of the screw's rotation at a speed of one stroke per second, linear."""
    guide_rollers: float
    """Rollers of the guide that the carriage passes in a stroke."""
    guide_gains: Array
    """Amplitude of harmonics 1 … of their passing, likewise."""
    friction_level: float
    stick_level: float
    """How much louder friction is at creeping speed."""
    friction_hz: float
    click_gain: float
    click_hz: float
    hold_level: float
    hold_hz: float
    """Whine of the servo's current control."""


@dataclass(frozen=True)
class Strokes:
    """When the carriage moved during a clip: K strokes, there and back by turns."""

    starts_K: Array
    """Seconds from the clip's beginning; the first ones are negative."""
    seconds_K: Array


@dataclass(frozen=True)
class Travel:
    """How the carriage moved."""

    speed_S: Array
    """Strokes per second, 0 or more, (samples,)."""
    position_S: Array
    """Between the ends of a stroke, 0 … 1 (samples,)."""
    starts: Array
    """Samples at which strokes begin, int64 (strokes,)."""
    stops: Array
    """Samples at which strokes end, int64 (strokes,)."""


def make_slider(index: int) -> Slider:
    """The slider behind an id (index 0 …), the same every time."""
    rng = np.random.default_rng([SEED, index])
    decay = np.exp(-0.5 * np.arange(5))
    return Slider(
        stroke_seconds=tuple(0.75 * rng.uniform(0.9, 1.1) * np.array([0.8, 1.0, 1.3]) * rng.uniform(0.97, 1.03, 3)),
        rise_share=rng.uniform(0.1, 0.16),
        fall_share=rng.uniform(0.4, 0.5),
        dwell_seconds=rng.uniform(0.08, 0.15),
        screw_turns=rng.uniform(110.0, 150.0),
        screw_gains=decay * rng.uniform(0.4, 1.6, 5),
        guide_rollers=rng.uniform(420.0, 700.0),
        guide_gains=0.6 * decay[:3] * rng.uniform(0.4, 1.6, 3),
        friction_level=rng.uniform(0.5, 0.8),
        stick_level=rng.uniform(0.8, 1.4),
        friction_hz=rng.uniform(2500.0, 4500.0),
        click_gain=rng.uniform(3.0, 5.0),
        click_hz=rng.uniform(1500.0, 3000.0),
        hold_level=rng.uniform(0.05, 0.15),
        hold_hz=rng.uniform(3800.0, 6000.0),
    )


def draw_strokes(slider: Slider, rng: np.random.Generator) -> Strokes:
    """Strokes in one mode of operation, or in one clip of three in two; one dwell in six is long."""
    modes = rng.choice(slider.stroke_seconds, 2)
    change = rng.uniform(0.8, 3.2) if rng.random() < 1 / 3 else np.inf
    now, starts, seconds = -rng.uniform(0.5, 1.0) * LONGEST_LEAD, [], []
    while now < SAMPLES / SAMPLE_RATE:
        starts.append(now)
        seconds.append(modes[int(now > change)] * rng.normal(1.0, 0.01))
        dwell = slider.dwell_seconds * rng.uniform(0.8, 1.2) + (rng.uniform(0.2, 0.6) if rng.random() < 1 / 6 else 0.0)
        now += seconds[-1] + dwell
    return Strokes(np.array(starts), np.array(seconds))


def move(slider: Slider, strokes: Strokes) -> Travel:
    """The carriage's way through these strokes: a trapezoid of speed each."""
    ends_K = strokes.starts_K + strokes.seconds_K
    corners = np.stack(
        [
            strokes.starts_K,
            strokes.starts_K + slider.rise_share * strokes.seconds_K,
            ends_K - slider.fall_share * strokes.seconds_K,
            ends_K,
        ],
        axis=1,
    )
    # Each stroke covers a distance of 1: the area of its trapezoid.
    cruise_K = 1.0 / (strokes.seconds_K * (1.0 - (slider.rise_share + slider.fall_share) / 2))
    speeds = cruise_K[:, None] * np.array([0.0, 1.0, 1.0, 0.0])
    times = np.arange(SAMPLES) / SAMPLE_RATE
    speed_S = np.interp(times, corners.ravel(), speeds.ravel())
    there = 1.0 - 2.0 * (np.arange(len(ends_K)) % 2)
    stroke_S = np.clip(np.searchsorted(strokes.starts_K, times, side="right") - 1, 0, None)
    position_S = np.cumsum(speed_S * there[stroke_S]) / SAMPLE_RATE
    return Travel(speed_S, position_S - position_S.min(), _within(strokes.starts_K), _within(ends_K))


def healthy_sound(slider: Slider, rng: np.random.Generator) -> Array:
    """A healthy slider in a mode of operation of its own choice, float64 (samples,)."""
    return slider_sound(slider, move(slider, draw_strokes(slider, rng)), rng)


def slider_sound(slider: Slider, travel: Travel, rng: np.random.Generator) -> Array:
    """The slider alone, float64 (samples,)."""
    return tones(slider, travel) + friction(slider, travel, rng) + clicks(slider, travel)


def tones(slider: Slider, travel: Travel) -> Array:
    """Screw and guide, whose pitch and loudness follow the speed, and the servo's whine at rest, (samples,)."""
    angle_S = 2 * np.pi * travel.position_S
    moving = harmonics(slider.screw_turns * angle_S, slider.screw_gains)
    moving += harmonics(slider.guide_rollers * angle_S, slider.guide_gains)
    hold = np.sin(2 * np.pi * slider.hold_hz * np.arange(SAMPLES) / SAMPLE_RATE)
    return travel.speed_S * moving + slider.hold_level * (travel.speed_S == 0.0) * hold


def friction(slider: Slider, travel: Travel, rng: np.random.Generator) -> Array:
    """Stribeck's friction as noise, chopped by stick-slip at creeping speed, float64 (samples,)."""
    noise = band_noise(slider.friction_hz, 0.8 * slider.friction_hz, rng)
    creep_S = np.exp(-((travel.speed_S / CREEPING) ** 2)) * (travel.speed_S > 0.0)
    slip_S = np.sin(np.pi * JUDDER_HZ * np.arange(SAMPLES) / SAMPLE_RATE) ** 8
    viscous_S = 0.3 * (travel.speed_S > 0.0) + 0.5 * travel.speed_S
    return slider.friction_level * (viscous_S + 2.0 * slider.stick_level * creep_S * slip_S) * noise


def clicks(slider: Slider, travel: Travel) -> Array:
    """The reversal of load at the beginning of each stroke, and a softer one at its end, float64 (samples,)."""
    begin = impacts(travel.starts, slider.click_gain, slider.click_hz, 0.006)
    return begin + impacts(travel.stops, 0.4 * slider.click_gain, 0.7 * slider.click_hz, 0.006)


def _within(seconds: Array) -> Array:
    """The samples of those instants that the clip holds, int64."""
    samples = np.round(seconds * SAMPLE_RATE).astype(np.int64)
    return samples[(samples >= 0) & (samples < SAMPLES)]
