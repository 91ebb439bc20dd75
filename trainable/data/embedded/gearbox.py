"""A gearbox that drives a belt: a pinion turns a wheel, and every tooth that meets another is heard.

The mesh sounds at pinion teeth × pinion rotation and its harmonics. Each shaft runs a little out of true, so it
modulates the mesh in amplitude and phase once a rotation: sidebands at a distance of either shaft's rotation from each
harmonic (Randall, A New Method of Modeling Gear Faults, 1982). The load goes through a slow cycle of work, part of
which a clip hears: it brings its own harmonics, slows the shafts, and the pressure of the oil follows it. Once a round
of the belt its joint ticks over the pulley. `gearbox_faults` says what breaks.
"""

from dataclasses import dataclass

import numpy as np

from trainable.data.embedded.acoustics import SAMPLE_RATE, SAMPLES, Array, band_noise, harmonics, impacts
from trainable.data.embedded.motion import Motion, draw_motion

SEED = 3
"""Sets the individual gearboxes apart from other types' individuals."""
FULL_LOAD_SLIP = 0.03
"""Share by which full load slows an asynchronous motor: 2 to 5 % for the usual sizes."""


@dataclass(frozen=True)
class Runout:
    """How far a shaft runs out of true: one modulation of the mesh a rotation."""

    depth: float
    """Amplitude modulation, a share."""
    swing: float
    """Phase modulation of the mesh's first harmonic, radians."""
    angle: float
    """Where on the shaft it is, radians."""


@dataclass(frozen=True)
class Gearbox:
    """One individual gearbox: the variant that its id selects."""

    speeds_hz: tuple[float, ...]
    """Operating speeds: rotations of the pinion per second, without load."""
    pinion_teeth: int
    wheel_teeth: int
    pinion: Runout
    wheel: Runout
    idle_gains: Array
    """Amplitude of mesh harmonics 1 … without load, linear."""
    load_gains: Array
    """What full load adds to them."""
    oil_level: float
    oil_range: float
    """Natural logarithm of the oil noise's ratio between full load and none."""
    oil_hz: float
    oil_width_hz: float
    belt_turns: float
    """Rotations of the wheel in one round of the belt."""
    joint_gain: float
    resonance_hz: float
    """Structural resonance of the housing, which impacts excite."""

    @property
    def ratio(self) -> float:
        """Rotations of the wheel per rotation of the pinion."""
        return self.pinion_teeth / self.wheel_teeth


@dataclass(frozen=True)
class Run:
    """How a gearbox ran during a clip."""

    pinion: Motion
    work_S: Array
    """Where in the cycle of work it was, radians (samples,)."""
    belt_start: float
    """Where the belt's joint was at first, rounds 0 … 1."""


def load_at(work_S: Array) -> Array:
    """Load at an angle of the cycle of work, 0.2 … 1 of full load."""
    return 0.6 - 0.4 * np.cos(work_S)


def make_gearbox(index: int) -> Gearbox:
    """The gearbox behind an id (index 0 …), the same every time."""
    rng = np.random.default_rng([SEED, index])
    decay = np.exp(-0.5 * np.arange(6))
    return Gearbox(
        speeds_hz=tuple(24.0 * rng.uniform(0.9, 1.1) * np.array([0.8, 1.0, 1.25]) * rng.uniform(0.97, 1.03, 3)),
        pinion_teeth=int(rng.choice([17, 19, 21, 23])),
        wheel_teeth=int(rng.choice([53, 59, 61, 67])),
        pinion=Runout(rng.uniform(0.08, 0.15), rng.uniform(0.1, 0.3), rng.uniform(0, 6.28)),
        wheel=Runout(rng.uniform(0.08, 0.15), rng.uniform(0.1, 0.3), rng.uniform(0, 6.28)),
        idle_gains=0.7 * decay * rng.uniform(0.4, 1.6, 6),
        load_gains=1.4 * decay * rng.uniform(0.4, 1.6, 6)[::-1],
        oil_level=rng.uniform(0.6, 0.9),
        oil_range=rng.uniform(1.8, 2.2),
        oil_hz=rng.uniform(4200.0, 5600.0),
        oil_width_hz=rng.uniform(1500.0, 2500.0),
        belt_turns=rng.uniform(3.0, 4.0),
        joint_gain=rng.uniform(5.0, 7.0),
        resonance_hz=rng.uniform(2200.0, 3600.0),
    )


def draw_run(gearbox: Gearbox, rng: np.random.Generator) -> Run:
    """A speed that load pulls down, and a tenth to four tenths of a cycle of work, begun anywhere."""
    free = draw_motion(gearbox.speeds_hz, rng)
    cycles = rng.uniform(0.1, 0.4)
    work_S = rng.uniform(0, 2 * np.pi) + 2 * np.pi * cycles * np.arange(SAMPLES) / SAMPLES
    speed_S = free.speed_hz_S * (1.0 - FULL_LOAD_SLIP * load_at(work_S))
    phase_S = 2 * np.pi * np.cumsum(speed_S) / SAMPLE_RATE + free.phase_S[0]
    return Run(Motion(phase_S, speed_S), work_S, rng.random())


def wheel_motion(gearbox: Gearbox, run: Run) -> Motion:
    """How the wheel's shaft turned."""
    return Motion(gearbox.ratio * run.pinion.phase_S, gearbox.ratio * run.pinion.speed_hz_S)


def healthy_sound(gearbox: Gearbox, rng: np.random.Generator) -> Array:
    """A healthy gearbox at a speed and load of its own choice, float64 (samples,)."""
    return gearbox_sound(gearbox, draw_run(gearbox, rng), rng)


def gearbox_sound(
    gearbox: Gearbox, run: Run, rng: np.random.Generator, *, joints: Array | None = None, oil_lag: float = 0.0
) -> Array:
    """The gearbox alone, float64 (samples,).

    Parameters
    ----------
    joints
        Samples at which the belt's joint passes the pulley, int64 (passings,); None = as the wheel turns.
    oil_lag
        How far the oil's pressure lags behind the load, radians of the cycle of work; 0 in a healthy gearbox.
    """
    joints = joint_passings(gearbox, run) if joints is None else joints
    oil = band_noise(gearbox.oil_hz, gearbox.oil_width_hz, rng)
    pressure_S = np.exp(gearbox.oil_range * (load_at(run.work_S - oil_lag) - 1.0))
    ticks = impacts(joints, gearbox.joint_gain, 0.6 * gearbox.resonance_hz, 0.012)
    return mesh_sound(gearbox, run) + gearbox.oil_level * pressure_S * oil + ticks


def mesh_sound(gearbox: Gearbox, run: Run) -> Array:
    """The teeth alone, float64 (samples,): harmonics of the mesh, modulated by both shafts."""
    mesh_S, swell_S = gearbox.pinion_teeth * run.pinion.phase_S, np.ones(SAMPLES)
    for runout, motion in ((gearbox.pinion, run.pinion), (gearbox.wheel, wheel_motion(gearbox, run))):
        turned_S = motion.phase_S + runout.angle
        mesh_S = mesh_S + runout.swing * np.sin(turned_S)
        swell_S *= 1.0 + runout.depth * np.cos(turned_S)
    loaded = load_at(run.work_S) * harmonics(mesh_S, gearbox.load_gains)
    return swell_S * (harmonics(mesh_S, gearbox.idle_gains) + loaded)


def joint_passings(gearbox: Gearbox, run: Run) -> Array:
    """Samples at which the belt's joint passes the pulley of a healthy gearbox, int64 (passings,)."""
    rounds_S = gearbox.ratio * (run.pinion.phase_S - run.pinion.phase_S[0]) / (2 * np.pi * gearbox.belt_turns)
    return np.flatnonzero(np.diff(np.floor(rounds_S + run.belt_start)) > 0)
