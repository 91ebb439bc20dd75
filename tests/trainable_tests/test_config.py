"""The configuration's one door."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainable.config import DataConfig, FrontEndConfig, Knob, TrialConfig, knobs
from trainable.errors import ConfigError


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


@pytest.mark.parametrize(
    "value",
    [10**400, 16**5000, [[[]] * 9] * 9, {"a": 1}, None, "x" * 100_000, -(2**70)],
    ids=["float", "digits", "lists", "mapping", "none", "text", "negative"],
)
@pytest.mark.parametrize("name", ["stride", "learning_rate", "density", "revival"])
def test_any_wrong_value_is_refused_in_a_short_line(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is ") as caught:
        TrialConfig.from_flat({name: value})
    assert len(str(caught.value)) < 400
    with pytest.raises(ConfigError, match="validation_share is "):
        DataConfig.from_dict({"validation_share": value})


def test_a_name_that_is_no_text_is_unknown() -> None:
    with pytest.raises(ConfigError, match="unknown parameter 3"):
        TrialConfig.from_flat({3: 4})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="unknown data parameter None"):
        DataConfig.from_dict({None: 4})  # type: ignore[dict-item]
