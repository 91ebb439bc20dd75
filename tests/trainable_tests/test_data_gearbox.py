"""The embedded gearbox: lines where theory puts them, and faults that change what they say they change."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import jv

from trainable.config import FrontEndConfig
from trainable.data.embedded import gearbox_faults
from trainable.data.embedded.acoustics import CLIP_SECONDS, SAMPLE_RATE, SAMPLES
from trainable.data.embedded.gearbox import (
    FULL_LOAD_SLIP,
    Gearbox,
    Run,
    Runout,
    draw_run,
    gearbox_sound,
    joint_passings,
    load_at,
    make_gearbox,
    mesh_sound,
    wheel_motion,
)
from trainable.data.embedded.motion import Motion
from trainable.data.frontend import log_mel

OIL_BAND = 54
"""A mel band about 5 kHz, above every harmonic of the mesh."""
PINION_HZ, WHEEL_HZ, MESH_HZ = 24.0, 8.0, 480.0
TRUE = Runout(depth=0.0, swing=0.0, angle=0.0)
SIMPLE = replace(
    make_gearbox(0),
    pinion_teeth=20,
    wheel_teeth=60,
    pinion=TRUE,
    wheel=TRUE,
    idle_gains=np.array([1.0, 0.5]),
    load_gains=np.zeros(2),
)
"""20 to 60 teeth, out of true nowhere; every frequency is a whole number of cycles a clip at 24 rotations a second."""


def steady(pinion_hz: float = PINION_HZ) -> Run:
    phase_S = 2 * np.pi * pinion_hz * np.arange(SAMPLES) / SAMPLE_RATE
    return Run(Motion(phase_S, np.full(SAMPLES, pinion_hz)), np.full(SAMPLES, np.pi), 0.0)


def amplitudes(sound: np.ndarray) -> np.ndarray:
    """Amplitude of each line, 1 / 4.5 Hz apart."""
    return np.abs(np.fft.rfft(sound)) / (SAMPLES / 2)


def line(hz: float) -> int:
    return round(hz * CLIP_SECONDS)


def test_teeth_sound_at_the_meshing_frequency_and_its_harmonics_alone() -> None:
    heard = amplitudes(mesh_sound(SIMPLE, steady()))
    assert heard[line(MESH_HZ)] == pytest.approx(1.0)
    assert heard[line(2 * MESH_HZ)] == pytest.approx(0.5)
    assert (heard > 1e-9).sum() == 2


@pytest.mark.parametrize(("shaft", "hz"), [("pinion", PINION_HZ), ("wheel", WHEEL_HZ)])
def test_a_shaft_out_of_true_makes_sidebands_at_its_rotation(shaft: str, hz: float) -> None:
    """Amplitude modulation of depth m gives sidebands of m/2; phase modulation of β radians J₁(β) beside J₀(β)."""
    one = replace(SIMPLE, idle_gains=np.array([1.0, 0.0]))

    def heard(runout: Runout) -> np.ndarray:
        untrue = replace(one, pinion=runout) if shaft == "pinion" else replace(one, wheel=runout)
        return amplitudes(mesh_sound(untrue, steady()))

    deep, swung = heard(Runout(depth=0.2, swing=0.0, angle=1.0)), heard(Runout(depth=0.0, swing=0.7, angle=1.0))
    for side in (-1, 1):
        assert deep[line(MESH_HZ + side * hz)] == pytest.approx(0.1)
        assert swung[line(MESH_HZ + side * hz)] == pytest.approx(jv(1, 0.7))
        assert swung[line(MESH_HZ + 2 * side * hz)] == pytest.approx(jv(2, 0.7))
    assert deep[line(MESH_HZ)] == pytest.approx(1.0)
    assert swung[line(MESH_HZ)] == pytest.approx(jv(0, 0.7))
    assert (deep > 1e-9).sum() == 3


def test_load_slows_the_shafts_and_brings_harmonics_of_its_own() -> None:
    gearbox = make_gearbox(1)
    runs = [draw_run(gearbox, np.random.default_rng(number)) for number in range(60)]
    loads = np.array([load_at(run.work_S).mean() for run in runs])
    assert loads.min() > 0.2
    assert loads.max() < 1.0
    assert loads.std() > 0.2
    slowed = draw_run(replace(gearbox, speeds_hz=(20.0,)), np.random.default_rng(0))
    free_hz = slowed.pinion.speed_hz_S / (1.0 - FULL_LOAD_SLIP * load_at(slowed.work_S))
    assert free_hz.mean() == pytest.approx(20.0, rel=0.03)
    idle = amplitudes(mesh_sound(replace(SIMPLE, load_gains=np.array([0.0, 0.4])), steady()))
    assert idle[line(2 * MESH_HZ)] == pytest.approx(0.5 + 0.4), "full load at half the cycle of work"


def healthy(gearbox: Gearbox, run: Run) -> np.ndarray:
    return gearbox_sound(gearbox, run, np.random.default_rng(3))


def test_a_chipped_tooth_strikes_once_a_rotation_of_the_wheel() -> None:
    struck = gearbox_faults.chipped_tooth(SIMPLE, steady(), 1.0, np.random.default_rng(3))
    envelope = np.abs(struck - healthy(SIMPLE, steady()))
    rhythm = np.abs(np.fft.rfft(envelope - envelope.mean()))[: line(60.0)]
    lines = np.flatnonzero(rhythm > 0.2 * rhythm.max())
    assert lines[0] == line(WHEEL_HZ)
    assert set(lines % line(WHEEL_HZ)) == {0}


def test_an_eccentric_wheel_and_worn_teeth_raise_sidebands() -> None:
    gearbox = replace(SIMPLE, pinion=Runout(0.1, 0.0, 0.0), wheel=Runout(0.1, 0.2, 0.0))
    before = amplitudes(healthy(gearbox, steady()))
    bent = amplitudes(gearbox_faults.eccentric_shaft(gearbox, steady(), 0.6, np.random.default_rng(3)))
    assert bent[line(MESH_HZ + WHEEL_HZ)] > 2 * before[line(MESH_HZ + WHEEL_HZ)]
    six = np.exp(-0.5 * np.arange(6))
    gearbox = replace(gearbox, idle_gains=six, load_gains=six)
    before = amplitudes(healthy(gearbox, steady()))
    worn = amplitudes(gearbox_faults.worn_teeth(gearbox, steady(), 0.6, np.random.default_rng(3)))
    assert worn[line(2 * MESH_HZ)] > 2 * before[line(2 * MESH_HZ)]
    assert worn[line(MESH_HZ + PINION_HZ)] > 1.4 * before[line(MESH_HZ + PINION_HZ)]
    assert worn[line(MESH_HZ)] == pytest.approx(before[line(MESH_HZ)], rel=0.05)


def test_the_wheel_turns_by_the_ratio_of_teeth_and_the_joint_passes_once_a_round() -> None:
    assert wheel_motion(SIMPLE, steady()).speed_hz_S[0] == WHEEL_HZ
    joints = joint_passings(replace(SIMPLE, belt_turns=4.0), steady())
    assert len(joints) == 8  # 2 a second; the ninth would be at the clip's very end
    assert np.ptp(np.diff(joints)) <= 1


def log_mels(sound: np.ndarray) -> np.ndarray:
    return log_mel(torch.from_numpy((0.05 * sound).astype(np.float32)), FrontEndConfig()).numpy()


def test_a_skipping_belt_changes_the_rhythm_and_neither_means_nor_deviations() -> None:
    gearbox, gaps, changes = make_gearbox(2), [], []
    for number in range(24):
        run = draw_run(gearbox, np.random.default_rng([7, number]))
        skipping = gearbox_faults.skipping_belt(gearbox, run, 1.0, np.random.default_rng(3))
        before, after = log_mels(healthy(gearbox, run)), log_mels(skipping)
        changes.append([after.mean(axis=0) - before.mean(axis=0), after.std(axis=0) - before.std(axis=0)])
        loud = [frames[:, 30:36].max(axis=1) for frames in (before, after)]
        gaps.append([np.diff(np.flatnonzero(level > np.quantile(level, 0.9))).std() for level in loud])
    # Other clips' means and deviations differ by several decibels; here they differ by hundredths.
    assert np.abs(np.mean(changes, axis=0)).max() < 0.25
    regular, irregular = np.mean(gaps, axis=0)
    assert irregular > 1.1 * regular


def test_lagging_oil_keeps_the_levels_of_each_band_and_changes_which_occur_together() -> None:
    gearbox = make_gearbox(3)
    loads, levels = [], []
    for number in range(40):
        run = draw_run(gearbox, np.random.default_rng([9, number]))
        late = gearbox_faults.lagging_oil(gearbox, run, 1.0, np.random.default_rng(number))
        prompt = gearbox_sound(gearbox, run, np.random.default_rng(number))
        loads.append(load_at(run.work_S).mean())
        levels.append([log_mels(sound).mean(axis=0)[OIL_BAND] for sound in (prompt, late)])
    prompt_dB, late_dB = np.transpose(levels)
    assert abs(late_dB.mean() - prompt_dB.mean()) < 0.45 * prompt_dB.std(), "within two standard errors"
    assert late_dB.std() == pytest.approx(prompt_dB.std(), rel=0.25)
    assert np.corrcoef(loads, prompt_dB)[0, 1] > 0.9
    assert np.corrcoef(loads, late_dB)[0, 1] < -0.9
