"""The embedded slider: tones that follow its speed, friction of Stribeck's kind, and faults that are what they say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainable.config import FrontEndConfig
from trainable.data.embedded import slider_faults
from trainable.data.embedded.acoustics import SAMPLE_RATE, SAMPLES
from trainable.data.embedded.slider import (
    Slider,
    Strokes,
    clicks,
    draw_strokes,
    friction,
    make_slider,
    move,
    slider_sound,
    tones,
)
from trainable.data.frontend import log_mel

SLOW = Strokes(np.array([0.0]), np.array([4.4]))
"""A single stroke in slow motion: speed changes little within a spectrum."""


def test_every_stroke_goes_from_one_end_to_the_other_and_dwells_there() -> None:
    slider = make_slider(0)
    longest = 0.0
    for number in range(30):
        strokes = draw_strokes(slider, np.random.default_rng(number))
        travel = move(slider, strokes)
        assert travel.speed_S.shape == travel.position_S.shape == (SAMPLES,)
        assert travel.position_S.min() == 0.0
        assert travel.position_S.max() == pytest.approx(1.0, abs=0.01)
        ends = travel.position_S[travel.stops]
        np.testing.assert_allclose(np.minimum(ends, 1.0 - ends), 0.0, atol=0.01)
        assert (travel.speed_S[travel.stops] < 0.01).all()
        dwells = strokes.starts_K[1:] - strokes.starts_K[:-1] - strokes.seconds_K[:-1]
        assert dwells.min() > 0.7 * slider.dwell_seconds
        longest = max(longest, dwells.max())
    assert longest > 0.3, "now and then a long dwell"


SILENT = replace(make_slider(1), screw_gains=np.zeros(2), guide_gains=np.zeros(2), hold_level=0.0)
ONE = np.array([1.0, 0.0])


@pytest.mark.parametrize(
    "slider",
    [replace(SILENT, screw_turns=2_000.0, screw_gains=ONE), replace(SILENT, guide_rollers=2_000.0, guide_gains=ONE)],
    ids=["screw", "guide"],
)
def test_tones_follow_the_speed(slider: Slider) -> None:
    travel = move(slider, SLOW)
    sound = tones(slider, travel)
    pitches = []
    for begin in range(0, SAMPLES - 4096, 4096):
        window = slice(begin, begin + 4096)
        spectrum = np.abs(np.fft.rfft(np.hanning(4096) * sound[window]))
        speed = travel.speed_S[window]
        if speed.min() > 0.1:
            hz = spectrum.argmax() * SAMPLE_RATE / 4096
            assert 2_000.0 * speed.min() - 8 <= hz <= 2_000.0 * speed.max() + 8
            pitches.append(hz)
    top = int(np.argmax(pitches))
    assert pitches[: top + 1] == sorted(pitches[: top + 1]), "rises"
    assert pitches[top:] == sorted(pitches[top:], reverse=True), "and falls"
    assert max(pitches) > 1.5 * pitches[0]


def test_friction_is_loudest_while_creeping_and_silent_at_rest() -> None:
    slider = make_slider(2)
    travel = move(slider, SLOW)
    power_S = friction(slider, travel, np.random.default_rng(0)) ** 2
    speed_S, cruise = travel.speed_S, travel.speed_S.max()
    creeping = power_S[(speed_S > 0) & (speed_S < 0.2 * cruise)].mean()
    assert creeping > 1.2 * power_S[speed_S > 0.9 * cruise].mean()
    assert power_S[speed_S == 0.0].max() == 0.0
    fast = move(slider, Strokes(np.array([0.0, 1.0, 2.0, 3.0]), np.full(4, 0.6)))
    quick = friction(slider, fast, np.random.default_rng(0)) ** 2
    assert quick[fast.speed_S > 1.5].mean() > power_S[speed_S > 0.9 * cruise].mean(), "viscosity"


def test_both_ends_of_a_stroke_click() -> None:
    slider = make_slider(0)
    travel = move(slider, Strokes(np.array([1.0, 2.0]), np.array([0.5, 0.5])))
    sound = np.abs(clicks(slider, travel))
    np.testing.assert_array_equal(travel.starts, [16_000, 32_000])
    np.testing.assert_array_equal(travel.stops, [24_000, 40_000])
    for begin, end in zip(travel.starts, travel.stops, strict=True):
        assert sound[begin : begin + 400].max() > 1.5 * sound[end : end + 400].max() > 0.5
    assert sound[:16_000].max() == 0.0


def strokes_of(number: int) -> Strokes:
    return draw_strokes(make_slider(0), np.random.default_rng([4, number]))


def change(fault: slider_faults.Fault, strokes: Strokes, severity: float = 1.0) -> np.ndarray:
    """What a fault adds to the healthy sound."""
    slider = make_slider(0)
    healthy = slider_sound(slider, move(slider, strokes), np.random.default_rng(1))
    return fault(slider, strokes, severity, np.random.default_rng(1)) - healthy


def test_a_dent_is_struck_at_one_place_of_every_stroke() -> None:
    travel = move(make_slider(0), strokes_of(0))
    added = np.abs(change(slider_faults.dented_guide, strokes_of(0)))
    loud = np.flatnonzero(added > 0.3 * added.max())
    first = loud[np.diff(loud, prepend=-SAMPLES) > 0.1 * SAMPLE_RATE]
    assert len(first) >= 3
    assert np.ptp(travel.position_S[first]) < 0.01


def test_play_doubles_the_click_at_each_turning_point() -> None:
    travel = move(make_slider(0), strokes_of(0))
    for severity in (0.3, 1.0):
        added = np.abs(change(slider_faults.play, strokes_of(0), severity))
        loud = np.flatnonzero(added > 1e-9)
        begins = loud[np.diff(loud, prepend=-SAMPLES) > 0.1 * SAMPLE_RATE]
        gap = int((0.02 + 0.04 * severity) * SAMPLE_RATE)
        np.testing.assert_allclose(begins, travel.starts[travel.starts + gap < SAMPLES] + gap, atol=3)


def test_a_slipping_belt_jitters_the_speed_and_a_dry_guide_leaves_the_tones() -> None:
    slider = replace(make_slider(0), friction_level=0.0)
    strokes = strokes_of(1)
    healthy = slider_sound(slider, move(slider, strokes), np.random.default_rng(1))
    dry = slider_faults.dry_guide(slider, strokes, 1.0, np.random.default_rng(1))
    np.testing.assert_array_equal(dry, healthy)
    slipping = slider_faults.slipping_belt(slider, strokes, 1.0, np.random.default_rng(1))
    assert (slipping - healthy).std() > 0.3 * healthy.std()
    assert slipping.std() == pytest.approx(healthy.std(), rel=0.1)


def test_swapped_ramps_reverse_strokes_in_time_and_keep_means_and_deviations() -> None:
    slider = make_slider(3)
    swapped = replace(slider, rise_share=slider.fall_share, fall_share=slider.rise_share)
    one = Strokes(np.array([0.5]), np.array([3.0]))
    there, back = move(slider, one).speed_S, move(swapped, one).speed_S
    stroke = slice(SAMPLE_RATE // 2, 7 * SAMPLE_RATE // 2 + 1)
    np.testing.assert_allclose(there[stroke], back[stroke][::-1], atol=1e-9)
    changes = []
    for number in range(24):
        strokes = draw_strokes(slider, np.random.default_rng([5, number]))
        sounds = [
            slider_sound(slider, move(slider, strokes), np.random.default_rng(number)),
            slider_faults.swapped_ramps(slider, strokes, 1.0, np.random.default_rng(number)),
        ]
        before, after = (
            log_mel(torch.from_numpy((0.05 * sound).astype(np.float32)), FrontEndConfig()).numpy() for sound in sounds
        )
        assert np.abs(after - before).mean() > 1.0, "frame by frame they are different sounds"
        changes.append([after.mean(axis=0) - before.mean(axis=0), after.std(axis=0) - before.std(axis=0)])
    assert np.abs(np.mean(changes, axis=0)).max() < 0.7
