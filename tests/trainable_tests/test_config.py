"""The configuration's one door."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainable.config import DataConfig, FrontEndConfig, Knob, TrialConfig, knobs
from trainable.errors import ConfigError
from trainable.units import format_bytes, parse_bytes


def values_of(spec: Knob) -> st.SearchStrategy[object]:
    if spec.choices is not None:
        return st.sampled_from(spec.choices)
    if spec.type is bool:
        return st.booleans()
    if spec.type is int:
        return st.integers(int(spec.low or 0), int(spec.high or 0))
    return st.floats(spec.low, spec.high)


@given(st.fixed_dictionaries({}, optional={spec.name: values_of(spec) for spec in knobs()}))
def test_flat_names_round_trip(values: dict[str, object]) -> None:
    phase = float(values.get("vq_only_share", 0.2)) + float(values.get("frozen_share", 0.2))  # type: ignore[arg-type]
    if phase > 1.0:
        with pytest.raises(ConfigError, match="exceed 1"):
            TrialConfig.from_flat(values)
        return
    config = TrialConfig.from_flat(values)
    assert TrialConfig.from_flat(config.flat()) == config
    assert {name: config.flat()[name] for name in values} == values


def test_names_are_unique_and_documented() -> None:
    names = [spec.name for spec in knobs()]
    assert len(names) == len(set(names))
    assert all(spec.doc for spec in knobs())
    TrialConfig()  # every default lies in its own range


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"num_embedings": 64}, "did you mean 'num_embeddings'"),
        ({"num_embeddings": 1}, "num_embeddings is 1; it must be in 2 … 65536"),
        ({"num_embeddings": 64.0}, "must be of type int"),
        ({"num_embeddings": True}, "must be of type int"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"distance": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_a_mistake_is_named(flat: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrialConfig.from_flat(flat)


def test_an_integer_is_a_float_where_one_is_meant() -> None:
    assert TrialConfig.from_flat({"learning_rate": 1}).optim.learning_rate == 1.0


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrialConfig().seed = 3  # type: ignore[misc]


def test_data_configuration_round_trips_and_names_mistakes() -> None:
    data = DataConfig(machine_type="pump", front_end=FrontEndConfig(sample_rate=8000, n_fft=512, hop_length=16))
    assert DataConfig.from_dict(data.to_dict()) == data
    with pytest.raises(ConfigError, match="did you mean 'hop_length'"):
        DataConfig.from_dict({"hoplength": 3})
    with pytest.raises(ConfigError, match="skip samples"):
        FrontEndConfig(n_fft=256, hop_length=512)


@given(st.integers(1, 2**50))
def test_bytes_round_trip(size: int) -> None:
    assert parse_bytes(str(size)) == size
    assert parse_bytes(f"{size} B") == size


def test_sizes_are_binary() -> None:
    assert parse_bytes("24GiB") == 24 * 2**30
    assert format_bytes(24 * 2**30) == "24.0 GiB"
    assert format_bytes(1536) == "1.50 KiB"
    for wrong in ("24GB", "-3GiB", "0", "much", "1e9", ""):
        with pytest.raises(ConfigError, match="size"):
            parse_bytes(wrong)
