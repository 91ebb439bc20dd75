"""The embedded machines: the same sounds every time, and faults that can be heard."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from trainable.commandline import MACHINE_HELP
from trainable.config import DataConfig, FrontEndConfig
from trainable.data.embedded import (
    Amount,
    EmbeddedClip,
    embedded_clips,
    embedded_fault,
    embedded_sound,
    make_recordings,
)
from trainable.data.embedded.acoustics import SAMPLES, band_noise
from trainable.data.embedded.machines import MACHINE_IDS, MACHINE_TYPES, MACHINES, SEVERITIES, Fault
from trainable.data.embedded.shaft import KINDS
from trainable.data.features import pack
from trainable.data.frontend import log_mel
from trainable.data.load import load_dataset
from trainable.errors import ConfigError, DataError

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


TIME_ONLY = ("skipping_belt", "swapped_ramps")
SOON_ANOTHER = (*TIME_ONLY, "slipping_belt", "eccentric_shaft")
"""Faults that move events or tones' phases: a little already gives quite other samples."""
FAULTS = [(kind, fault) for kind in MACHINE_TYPES for fault in MACHINES[kind].faults]


def healthy_and_faulty(machine_type: str, fault: Fault, severity: float) -> tuple[np.ndarray, np.ndarray]:
    """The same machine at the same work with the same noise, without and with a fault."""
    family = MACHINES[machine_type]
    machine = family.make(0)
    healthy = family.healthy(machine, np.random.default_rng(5))
    return healthy, family.faulty(machine, fault, severity, np.random.default_rng(5))


@pytest.mark.parametrize(("machine_type", "fault"), FAULTS, ids=[f"{kind}-{fault.__name__}" for kind, fault in FAULTS])
def test_each_fault_changes_the_sound_more_the_severer_it_is(machine_type: str, fault: Fault) -> None:
    pairs = [healthy_and_faulty(machine_type, fault, severity) for severity in (0.0, *SEVERITIES)]
    changes = [float(np.abs(faulty - healthy).std()) for healthy, faulty in pairs]
    assert changes[0] == pytest.approx(0.0, abs=1e-5)  # a speed is a numerical derivative
    assert changes[1] > 0.005
    assert all(np.isfinite(faulty).all() for _, faulty in pairs)
    if fault.__name__ not in SOON_ANOTHER:
        assert changes == sorted(changes)
    healthy, faulty = pairs[-1]
    difference = np.abs(decibels(0.05 * faulty) - decibels(0.05 * healthy))
    if fault.__name__ in TIME_ONLY:
        assert difference.max() < 2.0, "the few events of one clip fall into frames differently"
    else:
        assert difference.max() > 0.5, "half a decibel in some mel band"


@pytest.mark.parametrize("machine_type", MACHINE_TYPES)
def test_every_fault_and_severity_is_among_the_test_clips(machine_type: str) -> None:
    clips = embedded_clips(Amount())
    faults = {embedded_fault(machine_type, clip) for clip in clips if clip.label == 1 and clip.machine_id == "00"}
    assert faults == {(fault, severity) for fault in MACHINES[machine_type].faults for severity in SEVERITIES}
    assert all(embedded_fault(machine_type, clip) is None for clip in clips if clip.label == 0)
    assert not any(clip.part == "train" and clip.label == 1 for clip in clips)


RECORDED = {
    "fan": [(0.018087277, -0.124215387, -0.102155380), (-0.036198135, 0.049227927, 0.093229383)],
    "pump": [(0.159852505, -0.061970741, 0.009080498), (-0.056965120, 0.023724385, -0.020137090)],
    "valve": [(-0.043655112, 0.010533612, 0.015820228), (0.100110501, 0.004804943, 0.008115964)],
}
"""Samples 1,000, 30,000 and 60,000 of a normal and of an anomalous clip, recorded before other machine types came."""


@pytest.mark.parametrize("machine_type", KINDS)
def test_fan_pump_and_valve_sound_as_they_always_did(machine_type: str) -> None:
    clips = (HEALTHY, EmbeddedClip("04", "test", 1, 9))
    heard = [embedded_sound(machine_type, clip)[[1_000, 30_000, 60_000]] for clip in clips]
    np.testing.assert_allclose(heard, RECORDED[machine_type], atol=1e-7)  # sines differ in the last bit between CPUs
    names = [fault.__name__ for fault in MACHINES[machine_type].faults]
    assert names == ["bearing", "imbalance", "rubbing", "whine", "hunting"]


def test_noise_of_a_band_has_unit_variance_there() -> None:
    noise = band_noise(3000.0, 600.0, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequencies = np.fft.rfftfreq(SAMPLES, 1 / 16_000)
    assert noise.std() == pytest.approx(1.0, rel=0.05)
    # A resonance's half-power points lie half a width to either side; a little over half of the power is between them.
    inside = power[np.abs(frequencies - 3000.0) < 300.0].sum() / power.sum()
    assert inside == pytest.approx(0.55, abs=0.05)


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
    monkeypatch.setattr("trainable.data.load.Amount", lambda **_: TINY)
    dataset = load_dataset(DataConfig(), cache_dir=tmp_path)
    assert dataset.ids == TINY.machine_ids
    assert (len(dataset.train), len(dataset.validation), len(dataset.held_out)) == (4, 4, 4)
    assert set(dataset.train.lengths) == {141}
    assert load_dataset(DataConfig(), cache_dir=tmp_path).digest == dataset.digest


def test_more_test_clips_are_other_data_and_the_default_amount_keeps_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(machine_type: str, clips: list[EmbeddedClip], front_end: FrontEndConfig) -> Mapping[str, np.ndarray]:
        return pack([np.zeros((64, 64), dtype=np.float32)] * len(clips))

    monkeypatch.setattr("trainable.data.embedded.dataset._make_all", silence)
    large = load_dataset(DataConfig(embedded_test_clips=125), cache_dir=tmp_path)
    default = load_dataset(DataConfig(), cache_dir=tmp_path)
    assert (len(default.train), len(large.train)) == (400, 400)
    assert (len(default.validation), len(default.held_out)) == (160, 160)
    assert default.digest != large.digest
    assert "f18336c2c22fce1c0b1289a1508f8add" in {path.stem for path in tmp_path.glob("*.npz")}, (
        "the name of its cache entry since 0.1.0"
    )
    for clips in (large.validation, large.held_out):
        counts = Counter(zip(clips.machine_ids, clips.labels.tolist(), strict=True))
        assert counts.keys() == {(one, label) for one in MACHINE_IDS for label in (0, 1)}
        assert set(counts.values()) <= {62, 63}
    assert len(large.validation) + len(large.held_out) == 1_000


def test_only_embedded_machines_have_a_number_of_test_clips_to_choose() -> None:
    for wrong in (1, 10_001, 2.5, True, "125"):
        with pytest.raises(ConfigError, match=r"embedded_test_clips is .*; it must be a whole number in 2 … 10000"):
            DataConfig.from_dict({"embedded_test_clips": wrong})
    with pytest.raises(ConfigError, match="embedded_test_clips is 125, but data_root names recordings"):
        DataConfig(data_root="/recordings", embedded_test_clips=125)
    many = DataConfig(embedded_test_clips=125)
    assert DataConfig.from_dict(many.to_dict()) == many
    # A run saved before the option existed compares as equal when it is resumed.
    assert "embedded_test_clips" not in DataConfig().to_dict()


def test_help_names_every_embedded_machine() -> None:
    for machine_type in MACHINE_TYPES:
        assert machine_type in MACHINE_HELP
    with pytest.raises(DataError, match=f"there are {', '.join(MACHINE_TYPES)}"):
        load_dataset(DataConfig(machine_type="lathe"))
