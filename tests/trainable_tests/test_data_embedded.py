"""The embedded machines: the same sounds every time, and faults that can be heard."""

from pathlib import Path

import numpy as np
import pytest
import torch

from trainable.config import DataConfig, FrontEndConfig
from trainable.data.embedded import Amount, EmbeddedClip, embedded_clips, embedded_sound, make_recordings
from trainable.data.embedded.faults import FAULTS, SEVERITIES, Fault, faulty_sound
from trainable.data.embedded.machines import (
    MACHINE_IDS,
    MACHINE_TYPES,
    SAMPLES,
    draw_motion,
    machine_sound,
    make_machine,
)
from trainable.data.frontend import log_mel
from trainable.data.load import load_dataset

TINY = Amount(train_clips=2, test_clips=2, machine_ids=("00", "04"))
HEALTHY = EmbeddedClip("00", "train", 0, 3)
BROKEN = EmbeddedClip("00", "test", 1, 3)


@pytest.mark.parametrize("machine_type", MACHINE_TYPES)
def test_a_clip_sounds_the_same_every_time_and_like_no_other(machine_type: str) -> None:
    sounds = [embedded_sound(machine_type, clip) for clip in (HEALTHY, HEALTHY, BROKEN)]
    np.testing.assert_array_equal(sounds[0], sounds[1])
    assert not np.array_equal(sounds[0], sounds[2])
    for sound in sounds:
        assert sound.shape == (SAMPLES,)
        assert sound.dtype == np.float32
        assert np.isfinite(sound).all()
        assert 0.01 < sound.std() < 0.3
    other = embedded_sound(machine_type, EmbeddedClip("02", "train", 0, 3))
    assert not np.array_equal(sounds[0], other)


def test_types_are_different_machines() -> None:
    fan, pump = (embedded_sound(kind, HEALTHY) for kind in ("fan", "pump"))
    assert not np.array_equal(fan, pump)


def decibels(sound: np.ndarray) -> np.ndarray:
    """Mean log-mel spectrum and its standard deviation over time, (2, 64)."""
    features = log_mel(torch.from_numpy(sound.astype(np.float32)), FrontEndConfig()).numpy()
    return np.stack([features.mean(axis=0), features.std(axis=0)])


@pytest.mark.parametrize("machine_type", MACHINE_TYPES)
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.__name__ for fault in FAULTS])
def test_each_fault_changes_the_sound_more_the_severer_it_is(machine_type: str, fault: Fault) -> None:
    machine = make_machine(machine_type, 0)

    def healthy_and_faulty(severity: float) -> float:
        rng, same = np.random.default_rng(5), np.random.default_rng(5)
        healthy = machine_sound(machine, draw_motion(machine, rng), rng)
        return float(np.abs(faulty_sound(machine, fault, severity, same) - healthy).std())

    changes = [healthy_and_faulty(severity) for severity in (0.0, *SEVERITIES)]
    assert changes[0] == pytest.approx(0.0, abs=1e-5)  # a speed is a numerical derivative
    assert changes == sorted(changes)
    assert changes[1] > 0.005
    rng, same = np.random.default_rng(5), np.random.default_rng(5)
    healthy = machine_sound(machine, draw_motion(machine, rng), rng)
    difference = np.abs(decibels(0.05 * faulty_sound(machine, fault, 1.0, same)) - decibels(0.05 * healthy))
    assert difference.max() > 0.5, "half a decibel in some mel band"


def test_every_fault_and_severity_is_among_the_test_clips() -> None:
    clips = embedded_clips(Amount())
    faults = {clip.fault for clip in clips if clip.label == 1 and clip.machine_id == "00"}
    assert faults == {(fault, severity) for fault in FAULTS for severity in SEVERITIES}
    assert all(clip.fault is None for clip in clips if clip.label == 0)
    assert not any(clip.part == "train" and clip.label == 1 for clip in clips)


def test_clips_are_named_and_counted_as_dcase_does() -> None:
    clips = embedded_clips(TINY)
    assert [clip.name for clip in clips[:4]] == [
        "normal_id_00_00000000.wav",
        "normal_id_00_00000001.wav",
        "normal_id_04_00000000.wav",
        "normal_id_04_00000001.wav",
    ]
    assert [clip.part for clip in clips] == ["train"] * 4 + ["test"] * 8
    assert len({(clip.part, clip.name) for clip in clips}) == 12
    assert len(embedded_clips(Amount())) == len(MACHINE_IDS) * (100 + 40 + 40)


def test_recordings_come_from_the_cache_the_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_recordings("fan", FrontEndConfig(), tmp_path, amount=TINY)
    monkeypatch.setattr("trainable.data.embedded.dataset.embedded_sound", None)
    second = make_recordings("fan", FrontEndConfig(), tmp_path, amount=TINY)
    assert first.digest == second.digest
    for one, other in zip(
        first.train.features + first.test.features, second.train.features + second.test.features, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    monkeypatch.undo()
    assert make_recordings("pump", FrontEndConfig(), tmp_path, amount=TINY).digest != first.digest


def test_the_front_end_applies_to_embedded_machines_too(tmp_path: Path) -> None:
    front_end = FrontEndConfig(sample_rate=8_000, n_fft=512, hop_length=256)
    recordings = make_recordings("fan", front_end, tmp_path, amount=TINY)
    assert {clip.shape for clip in recordings.train.features} == {(1 + SAMPLES // 2 // 256, 64)}


def test_the_default_data_set_is_there_without_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainable.data.embedded.dataset.Amount", lambda: TINY)
    dataset = load_dataset(DataConfig(), cache_dir=tmp_path)
    assert dataset.ids == TINY.machine_ids
    assert (len(dataset.train), len(dataset.validation), len(dataset.held_out)) == (4, 4, 4)
    assert set(dataset.train.lengths) == {141}
    assert load_dataset(DataConfig(), cache_dir=tmp_path).digest == dataset.digest
