"""The embedded machine types by name, each with its individuals, its healthy sound and its faults.

Around each a factory hall hums and clanks, louder in one clip than in another. So level alone says nothing, and as
every machine works at several speeds or loads, a single Gaussian does not describe a healthy one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np

from trainable.data.embedded import gearbox, gearbox_faults, shaft, shaft_faults, slider, slider_faults
from trainable.data.embedded.acoustics import Array

M = TypeVar("M")
Fault = Callable[..., Array]
"""A fault of one machine type; its module says what it takes and gives."""


@dataclass(frozen=True)
class MachineType(Generic[M]):
    """What the data set needs to know about a type of machine."""

    make: Callable[[int], M]
    """The individual behind an index 0 …, the same every time."""
    healthy: Callable[[M, np.random.Generator], Array]
    """Its sound without the hall, float64 (samples,)."""
    faulty: Callable[[M, Any, float, np.random.Generator], Array]
    """Its sound with one of `faults` at a severity 0 … 1, likewise."""
    faults: tuple[Fault, ...]


def _driven_by_a_shaft(kind: str) -> MachineType[shaft.Machine]:
    make = partial(shaft.make_machine, kind)
    return MachineType(make, shaft.healthy_sound, shaft_faults.faulty_sound, shaft_faults.FAULTS)


MACHINES: dict[str, MachineType[Any]] = {
    **{kind: _driven_by_a_shaft(kind) for kind in shaft.KINDS},
    "gearbox": MachineType(
        gearbox.make_gearbox, gearbox.healthy_sound, gearbox_faults.faulty_sound, gearbox_faults.FAULTS
    ),
    "slider": MachineType(slider.make_slider, slider.healthy_sound, slider_faults.faulty_sound, slider_faults.FAULTS),
}
MACHINE_TYPES = tuple(MACHINES)
"""Clips are drawn by a type's index here: append new types, or the others' sounds change."""
MACHINE_IDS = ("00", "02", "04", "06")
"""The ids that DCASE 2020's development set uses."""
SEVERITIES = (0.3, 0.6, 1.0)
"""From what only a trained ear hears to what anybody hears."""
