"""What breaks on fan, pump and valve, each a change of the sound that a maintenance engineer would know."""

import copy
from collections.abc import Callable

import numpy as np

from trainable.data.embedded.acoustics import SAMPLE_RATE, SAMPLES, Array, coloured_noise, impacts
from trainable.data.embedded.motion import Motion, draw_motion
from trainable.data.embedded.shaft import Machine, machine_sound

Fault = Callable[[Machine, Motion, float, np.random.Generator], Array]
"""What a fault of a severity (0 … 1) adds to the healthy sound, float64 (samples,)."""

BEARING_ORDER = 3.57
"""Impacts per rotation from an outer-race defect: ball pass frequency of a common 9-ball deep-groove bearing (6205)."""


def bearing(machine: Machine, motion: Motion, severity: float, rng: np.random.Generator) -> Array:
    """Impacts of an outer-race defect on the shaft."""
    order = BEARING_ORDER if machine.kind != "valve" else 12.0
    return 0.9 * severity * bearing_impacts(motion, order, machine.resonance_hz, rng)


def bearing_impacts(motion: Motion, order: float, resonance_hz: float, rng: np.random.Generator) -> Array:
    """Impacts, `order` a rotation with 1 % slip, ringing the housing, stronger in the load zone, (samples,)."""
    angle = order * motion.phase_S / (2 * np.pi)
    positions = np.flatnonzero(np.diff(np.floor(angle)) > 0)
    slip = rng.normal(0.0, 0.01 * SAMPLE_RATE / (order * motion.speed_hz_S.mean()), len(positions))
    positions = np.clip(positions + slip, 0, SAMPLES - 1).astype(np.int64)
    # The cage carries the load zone round slowly, so the impacts swell and fade a few times a second.
    swell = 0.5 + 0.5 * np.cos(0.12 * motion.phase_S[positions] + rng.uniform(0, 6.28))
    return impacts(positions, swell, resonance_hz, 0.004)


def imbalance(machine: Machine, motion: Motion, severity: float, rng: np.random.Generator) -> Array:
    """A stronger line at the speed of rotation; the whole sound beats with it as the mount yields."""
    beat = np.sin(motion.phase_S / 10 + rng.uniform(0, 6.28))
    sound = machine_sound(machine, motion, rng)
    return 0.8 * severity * (np.sin(motion.phase_S) + 0.9 * beat * sound)


def rubbing(machine: Machine, motion: Motion, severity: float, rng: np.random.Generator) -> Array:
    """A blade that touches its housing: friction noise in a narrow part of each slow precession."""
    contact = np.maximum(np.cos(motion.phase_S / 9 + rng.uniform(0, 6.28)), 0.0) ** 8
    noise = np.diff(coloured_noise(0.2, rng), prepend=0.0)
    return 0.7 * severity * contact * noise


def whine(machine: Machine, motion: Motion, severity: float, rng: np.random.Generator) -> Array:
    """A tone of a worn gear mesh or a detuned inverter that wanders with the load."""
    mesh = rng.choice([31, 37, 43, 53]) * (1.0 if machine.kind != "valve" else 14.0)
    wander = 0.05 * np.sin(2 * np.pi * rng.uniform(0.4, 1.5) * np.arange(SAMPLES) / SAMPLE_RATE)
    return 0.07 * severity * np.sin(mesh * motion.phase_S * (1 + 0.001 * wander) + 40 * wander)


def hunting(machine: Machine, motion: Motion, severity: float, rng: np.random.Generator) -> Array:
    """A failing speed control: the speed swings twice a second, and with it all that the shaft drives."""
    times = np.arange(SAMPLES) / SAMPLE_RATE
    rate = 2.2
    swing = 0.12 * severity * motion.speed_hz_S.mean() / rate * np.sin(2 * np.pi * rate * times)
    swung = motion.phase_S + swing
    steady = machine_sound(machine, motion, copy.deepcopy(rng))
    speed_hz = np.gradient(swung) * SAMPLE_RATE / (2 * np.pi)
    # The same noise both times: what is added is the swing alone.
    return machine_sound(machine, Motion(swung, speed_hz), copy.deepcopy(rng)) - steady


FAULTS: tuple[Fault, ...] = (bearing, imbalance, rubbing, whine, hunting)


def faulty_sound(machine: Machine, fault: Fault, severity: float, rng: np.random.Generator) -> Array:
    """A machine with a fault, float64 (samples,)."""
    motion = draw_motion(machine.speeds_hz, rng)
    sound = machine_sound(machine, motion, copy.deepcopy(rng))
    scale = 1.0 if fault is hunting else np.std(sound)
    return sound + scale * fault(machine, motion, severity, rng)
