"""The embedded machines: sounds of a fan, a pump and a valve, generated from the physics that make them.

A rotating machine is heard as harmonics of its rotation and of its blade passing (Blake, Mechanics of Flow-Induced
Sound, ch. 6), broadband flow noise that the blades modulate, and mains hum; it runs at one of a few operating speeds,
drifts, and now and then changes speed. Around it a factory hall hums and clanks, louder in one clip than in another.
So level alone says nothing, and a single Gaussian does not describe a healthy machine. `machine_faults` adds what
breaks.
"""

from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter

SAMPLE_RATE = 16_000
CLIP_SECONDS = 4.5
SAMPLES = int(SAMPLE_RATE * CLIP_SECONDS)
MACHINE_TYPES = ("fan", "pump", "valve")
MACHINE_IDS = ("00", "02", "04", "06")
"""The ids that DCASE 2020's development set uses."""

Array = np.ndarray


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


@dataclass(frozen=True)
class Motion:
    """How the shaft turned during a clip."""

    phase_S: Array
    """Shaft angle, radians (samples,)."""
    speed_hz_S: Array


def make_machine(kind: str, index: int) -> Machine:
    """The machine behind an id (index 0 …), the same every time."""
    rng = np.random.default_rng([MACHINE_TYPES.index(kind), index])
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


def draw_motion(machine: Machine, rng: np.random.Generator) -> Motion:
    """An operating speed, slow drift around it, and in one clip of three a change to another speed."""
    speed_S = np.full(SAMPLES, rng.choice(machine.speeds_hz))
    if rng.random() < 1 / 3:
        ramp = np.clip((np.arange(SAMPLES) / SAMPLE_RATE - rng.uniform(0.8, 3.2)) / 0.4, 0.0, 1.0)
        speed_S += (rng.choice(machine.speeds_hz) - speed_S) * ramp
    times = np.arange(SAMPLES) / SAMPLE_RATE
    drift = sum(
        rng.normal(0.0, 0.006) * np.sin(2 * np.pi * rate * times + rng.uniform(0, 2 * np.pi))
        for rate in (0.2, 0.5, 1.1)
    )
    speed_S *= 1.0 + drift
    phase_S = 2 * np.pi * np.cumsum(speed_S) / SAMPLE_RATE + rng.uniform(0, 2 * np.pi)
    return Motion(phase_S, speed_S)


def machine_sound(machine: Machine, motion: Motion, rng: np.random.Generator) -> Array:
    """The healthy machine alone, float64 (samples,)."""
    if machine.kind == "valve":
        return _valve_sound(machine, motion, rng)
    sound = _harmonics(motion.phase_S, machine.harmonic_gains)
    sound += _harmonics(machine.blades * motion.phase_S, machine.blade_gains)
    flow = coloured_noise(machine.flow_colour, rng)
    modulation = 1.0 + machine.flow_modulation * np.cos(machine.blades * motion.phase_S)
    if machine.kind == "pump":
        # A displacement pump delivers in strokes: flow follows the slow cycle of its geared crank.
        modulation *= 1.0 + 0.6 * np.sin(motion.phase_S / 6)
    # Flow noise power grows with about the fifth power of speed (Lighthill's eighth, for fans measured 5 to 6).
    relative_speed = motion.speed_hz_S / machine.speeds_hz[0]
    sound += machine.flow_level * modulation * relative_speed**2.5 * flow
    times = np.arange(SAMPLES) / SAMPLE_RATE
    return sound + machine.hum_level * _harmonics(2 * np.pi * 100.0 * times, np.array([1.0, 0.6, 0.3, 0.2]))


def _valve_sound(machine: Machine, motion: Motion, rng: np.random.Generator) -> Array:
    """A solenoid valve: each stroke an opening click, a hiss while open, and a softer closing click."""
    cycle_S = (motion.phase_S / (2 * np.pi)) % 1.0
    opens = np.flatnonzero(np.diff(cycle_S) < 0)
    closes = np.flatnonzero((cycle_S[:-1] < 0.45) & (cycle_S[1:] >= 0.45))
    sound = impacts(opens, 1.0 + 0.1 * rng.standard_normal(len(opens)), machine.resonance_hz, 0.02)
    sound += impacts(closes, 0.6 + 0.1 * rng.standard_normal(len(closes)), 0.6 * machine.resonance_hz, 0.03)
    open_S = np.where(cycle_S < 0.45, 1.0, 0.05)
    times = np.arange(SAMPLES) / SAMPLE_RATE
    hum = machine.hum_level * _harmonics(2 * np.pi * 100.0 * times, machine.blade_gains)
    return 6.0 * sound + machine.flow_level * open_S * coloured_noise(machine.flow_colour, rng) + hum


def hall_background(rng: np.random.Generator) -> Array:
    """A factory hall: brown rumble, a distant machine's tones, and a few clanks."""
    sound = coloured_noise(0.97, rng) + 0.25 * coloured_noise(rng.uniform(0.3, 0.8), rng)
    times = np.arange(SAMPLES) / SAMPLE_RATE
    for _ in range(3):
        frequency = rng.uniform(150.0, 3000.0)
        sound += rng.uniform(0.02, 0.2) * np.sin(2 * np.pi * frequency * times + rng.uniform(0, 6.28))
    clanks = rng.integers(0, SAMPLES, rng.poisson(2.0))
    return sound + impacts(clanks, rng.uniform(0.5, 4.0, len(clanks)), rng.uniform(900.0, 5000.0), 0.03)


def mix(machine: Array, background: Array, rng: np.random.Generator) -> Array:
    """Machine and hall at a signal-to-noise ratio of 0 … 9 dB and any gain, float32 (samples,)."""
    decibels = rng.uniform(0.0, 9.0)
    background = background * (np.std(machine) / np.std(background)) * 10.0 ** (-decibels / 20)
    sound = machine + background
    return (sound * (0.05 * 10.0 ** (rng.uniform(-4.0, 4.0) / 20) / np.std(machine))).astype(np.float32)


def coloured_noise(pole: float, rng: np.random.Generator) -> Array:
    """Noise through a first-order low-pass, scaled to unit variance, float64 (samples,)."""
    return lfilter([np.sqrt(1 - pole**2)], [1.0, -pole], rng.standard_normal(SAMPLES))


def impacts(positions: Array, gains: Array, resonance_hz: float, decay_seconds: float) -> Array:
    """Impulses at sample positions, each ringing a resonance: a second-order filter, float64 (samples,)."""
    train = np.zeros(SAMPLES)
    np.add.at(train, np.asarray(positions, dtype=np.int64), gains)
    radius = np.exp(-1.0 / (decay_seconds * SAMPLE_RATE))
    angle = 2 * np.pi * min(resonance_hz, 0.45 * SAMPLE_RATE) / SAMPLE_RATE
    return lfilter([np.sin(angle)], [1.0, -2 * radius * np.cos(angle), radius**2], train)


def _harmonics(phase_S: Array, gains: Array) -> Array:
    """Σ gain_k sin(k φ), by powers of one complex rotation instead of a sine each."""
    rotation = np.exp(1j * phase_S)
    # Horner's scheme: Σ g_k z^k = z (g_1 + z (g_2 + …)).
    total = np.full_like(rotation, gains[-1])
    for gain in gains[-2::-1]:
        total *= rotation
        total += gain
    return (total * rotation).imag
