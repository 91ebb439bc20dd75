"""What breaks in a gearbox. Each fault at severity 0 … 1 gives the whole sound; at 0 it is the healthy one.

Two of them are there to tell detectors apart. `lagging_oil` leaves each band's levels as they are, and changes only
which levels occur together: a covariance of log-mel statistics hears it, no band alone does. `skipping_belt` changes
only the rhythm: every mean and deviation of a clip stays, and only what listens to seconds of events hears it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from trainable.data.embedded.acoustics import SAMPLES, Array, impacts
from trainable.data.embedded.gearbox import (
    Gearbox,
    Run,
    Runout,
    draw_run,
    gearbox_sound,
    joint_passings,
    mesh_sound,
    wheel_motion,
)
from trainable.data.embedded.shaft_faults import BEARING_ORDER, bearing_impacts

Fault = Callable[[Gearbox, Run, float, np.random.Generator], Array]
"""The sound of a gearbox with a fault of a severity, float64 (samples,).

What the fault itself draws comes from a generator spawned off the given one, so the gearbox's noise stays the same.
"""


def chipped_tooth(gearbox: Gearbox, run: Run, severity: float, rng: np.random.Generator) -> Array:
    """A tooth of the wheel carries nothing: each rotation the mesh fades for two teeth, and the next one is struck."""
    turns_S = wheel_motion(gearbox, run).phase_S / (2 * np.pi)
    strikes = np.flatnonzero(np.diff(np.floor(turns_S)) > 0)
    gains = 5.0 * severity * (1.0 + 0.1 * rng.spawn(1)[0].standard_normal(len(strikes)))
    gap_S = 0.8 * severity * (turns_S % 1.0 > 1.0 - 2.0 / gearbox.wheel_teeth)
    sound = gearbox_sound(gearbox, run, rng) - gap_S * mesh_sound(gearbox, run)
    return sound + impacts(strikes, gains, gearbox.resonance_hz, 0.006)


def worn_teeth(gearbox: Gearbox, run: Run, severity: float, rng: np.random.Generator) -> Array:
    """Flanks worn hollow: the mesh's upper harmonics grow, the second most, and both shafts' sidebands with them."""
    growth = 1.0 + severity * np.array([0.0, 3.0, 2.2, 1.8, 1.8, 1.8])

    def deeper(runout: Runout) -> Runout:
        return replace(runout, depth=(1.0 + severity) * runout.depth)

    worn = replace(
        gearbox,
        idle_gains=growth * gearbox.idle_gains,
        load_gains=growth * gearbox.load_gains,
        pinion=deeper(gearbox.pinion),
        wheel=deeper(gearbox.wheel),
    )
    return gearbox_sound(worn, run, rng)


def eccentric_shaft(gearbox: Gearbox, run: Run, severity: float, rng: np.random.Generator) -> Array:
    """The wheel sits out of centre: its rotation modulates the mesh several times as deeply."""
    wheel = gearbox.wheel
    bent = replace(wheel, depth=wheel.depth + 0.7 * severity, swing=wheel.swing + 3.0 * severity)
    return gearbox_sound(replace(gearbox, wheel=bent), run, rng)


def bearing(gearbox: Gearbox, run: Run, severity: float, rng: np.random.Generator) -> Array:
    """Impacts of an outer-race defect on the pinion's shaft."""
    defect = bearing_impacts(run.pinion, BEARING_ORDER, gearbox.resonance_hz, rng.spawn(1)[0])
    return gearbox_sound(gearbox, run, rng) + 2.5 * severity * defect


def lagging_oil(gearbox: Gearbox, run: Run, severity: float, rng: np.random.Generator) -> Array:
    """A sticking governor: the oil's pressure follows the load late, by up to half a cycle of work.

    For covariances: the cycle begins anywhere in a clip, so mesh and oil each keep the distribution of their levels,
    and only their correlation changes.
    """
    return gearbox_sound(gearbox, run, rng, oil_lag=np.pi * severity)


def skipping_belt(gearbox: Gearbox, run: Run, severity: float, rng: np.random.Generator) -> Array:
    """A worn belt skips on its pulley: the joint ticks early and late, by up to half a round.

    Only time tells: as many ticks as before, as loud as before, so each mel band keeps its mean and deviation.
    """
    joints = joint_passings(gearbox, run)
    period = SAMPLES / max(len(joints), 1)
    late = rng.spawn(1)[0].uniform(-0.5, 0.5, len(joints)) * severity * period
    return gearbox_sound(gearbox, run, rng, joints=np.sort((joints + late.astype(np.int64)) % SAMPLES))


FAULTS: tuple[Fault, ...] = (chipped_tooth, worn_teeth, eccentric_shaft, bearing, lagging_oil, skipping_belt)


def faulty_sound(gearbox: Gearbox, fault: Fault, severity: float, rng: np.random.Generator) -> Array:
    """A gearbox with a fault at a speed and load of its own choice, float64 (samples,)."""
    return fault(gearbox, draw_run(gearbox, rng), severity, rng)
