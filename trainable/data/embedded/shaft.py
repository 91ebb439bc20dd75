"""Fan, pump and valve: sounds of what one shaft drives, generated from the physics that make them.

A rotating machine is heard as harmonics of its rotation and of its blade passing (Blake, Mechanics of Flow-Induced
Sound, ch. 6), broadband flow noise that the blades modulate, and mains hum; it runs at one of a few operating speeds,
drifts, and now and then changes speed. `shaft_faults` adds what breaks.
"""

from dataclasses import dataclass

import numpy as np

from trainable.data.embedded.acoustics import SAMPLE_RATE, SAMPLES, Array, coloured_noise, harmonics, impacts
from trainable.data.embedded.motion import Motion, draw_motion

KINDS = ("fan", "pump", "valve")


@dataclass(frozen=True)
class Machine:
    """One individual machine: the variant of its type that its id selects."""

    kind: str
    speeds_hz: tuple[float, ...]
    """Operating speeds: rotations (fan, pump) or strokes (valve) per second."""
    blades: int
    harmonic_gains: Array
    """Amplitude of rotation harmonics 1 …, linear."""
    blade_gains: Array
    """Amplitude of blade-passing harmonics 1 …, linear."""
    flow_level: float
    flow_colour: float
    """Pole of the first-order filter that colours flow noise: 0 white … 1 brown."""
    flow_modulation: float
    hum_level: float
    resonance_hz: float
    """Structural resonance that impacts excite."""


def make_machine(kind: str, index: int) -> Machine:
    """The machine behind an id (index 0 …), the same every time."""
    rng = np.random.default_rng([KINDS.index(kind), index])
    base = {"fan": 24.0, "pump": 16.0, "valve": 1.6}[kind] * rng.uniform(0.85, 1.2)
    ratios = np.array([1.0, 1.18, 1.42]) * rng.uniform(0.97, 1.03, 3)
    decay = np.exp(-0.45 * np.arange(8))
    return Machine(
        kind=kind,
        speeds_hz=tuple(base * ratios),
        blades=int(rng.integers(5, 10)) if kind == "fan" else int(rng.integers(3, 7)),
        harmonic_gains=0.5 * decay * rng.uniform(0.4, 1.6, 8),
        blade_gains=decay[:6] * rng.uniform(0.4, 1.6, 6),
        flow_level=rng.uniform(0.5, 0.9) * (1.0 if kind == "fan" else 0.6),
        flow_colour=rng.uniform(0.55, 0.85),
        flow_modulation=rng.uniform(0.2, 0.5),
        hum_level=rng.uniform(0.05, 0.25),
        resonance_hz=rng.uniform(2200.0, 4500.0),
    )


def healthy_sound(machine: Machine, rng: np.random.Generator) -> Array:
    """A healthy machine at a speed of its own choice, float64 (samples,)."""
    return machine_sound(machine, draw_motion(machine.speeds_hz, rng), rng)


def machine_sound(machine: Machine, motion: Motion, rng: np.random.Generator) -> Array:
    """The healthy machine alone, float64 (samples,)."""
    if machine.kind == "valve":
        return _valve_sound(machine, motion, rng)
    sound = harmonics(motion.phase_S, machine.harmonic_gains)
    sound += harmonics(machine.blades * motion.phase_S, machine.blade_gains)
    flow = coloured_noise(machine.flow_colour, rng)
    modulation = 1.0 + machine.flow_modulation * np.cos(machine.blades * motion.phase_S)
    if machine.kind == "pump":
        # A displacement pump delivers in strokes: flow follows the slow cycle of its geared crank.
        modulation *= 1.0 + 0.6 * np.sin(motion.phase_S / 6)
    # Flow noise power grows with about the fifth power of speed (Lighthill's eighth, for fans measured 5 to 6).
    relative_speed = motion.speed_hz_S / machine.speeds_hz[0]
    sound += machine.flow_level * modulation * relative_speed**2.5 * flow
    times = np.arange(SAMPLES) / SAMPLE_RATE
    return sound + machine.hum_level * harmonics(2 * np.pi * 100.0 * times, np.array([1.0, 0.6, 0.3, 0.2]))


def _valve_sound(machine: Machine, motion: Motion, rng: np.random.Generator) -> Array:
    """A solenoid valve: each stroke an opening click, a hiss while open, and a softer closing click."""
    cycle_S = (motion.phase_S / (2 * np.pi)) % 1.0
    opens = np.flatnonzero(np.diff(cycle_S) < 0)
    closes = np.flatnonzero((cycle_S[:-1] < 0.45) & (cycle_S[1:] >= 0.45))
    sound = impacts(opens, 1.0 + 0.1 * rng.standard_normal(len(opens)), machine.resonance_hz, 0.02)
    sound += impacts(closes, 0.6 + 0.1 * rng.standard_normal(len(closes)), 0.6 * machine.resonance_hz, 0.03)
    open_S = np.where(cycle_S < 0.45, 1.0, 0.05)
    times = np.arange(SAMPLES) / SAMPLE_RATE
    hum = machine.hum_level * harmonics(2 * np.pi * 100.0 * times, machine.blade_gains)
    return 6.0 * sound + machine.flow_level * open_S * coloured_noise(machine.flow_colour, rng) + hum
