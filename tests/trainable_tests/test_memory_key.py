"""Configurations with one key need the same memory, and larger sizes never need less."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainable.config import TrialConfig, knobs
from trainable.execution_plan import ExecutionPlan
from trainable.memory.key import memory_key
from trainable.memory.planner import Planner
from trainable.memory.predict import DataSizes

DATA = DataSizes(train_frames=100_000, test_frames=20_000, train_clips=300, test_clips=40, n_ids=4)
OTHER_VALUES: dict[str, Any] = {
    "density": "counts",
    "aggregation": "max",
    "distance": "cosine",
    "code_gradient": "rotation",
    "columns": 16,
    "stem": "full",
}


def changed(name: str) -> TrialConfig | None:
    """The default configuration with one knob changed."""
    spec = next(spec for spec in knobs() if spec.name == name)
    value = OTHER_VALUES.get(name)
    if spec.type is bool:
        value = not spec.default
    elif value is None and spec.type is str:
        return None  # a registry with one name
    elif value is None:
        half = type(spec.default)(spec.default / 2 if spec.default else spec.high or 1)
        value = half if spec.low is None or half >= spec.low else spec.high
    return None if value == spec.default else TrialConfig.from_flat({name: value})


@pytest.mark.slow
def test_a_knob_that_is_not_in_the_key_changes_no_prediction() -> None:
    planner = Planner(DATA, budget_bytes=None)
    plan = ExecutionPlan(micro_batch_clips=8)
    base = TrialConfig()
    expected = planner.predict(base, plan)
    same = 0
    for spec in knobs():
        config = changed(spec.name)
        if config is not None and memory_key(config) == memory_key(base):
            same += 1
            assert planner.predict(config, plan) == expected, spec.name
    assert same >= 12


sizes = st.fixed_dictionaries(
    {
        "num_embeddings": st.integers(2, 4096),
        "latent_dim": st.integers(2, 512),
        "n_patches": st.integers(1, 64),
        "head_hidden": st.integers(4, 512),
    }
)
plans = st.builds(
    ExecutionPlan,
    micro_batch_clips=st.sampled_from([1, 4, 16]),
    quantizer_chunk_rows=st.sampled_from([256, 4096, 16_384]),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(one=sizes, other=sizes, plan=plans)
def test_larger_sizes_need_no_less(one: dict[str, int], other: dict[str, int], plan: ExecutionPlan) -> None:
    larger = {name: max(value, other[name]) for name, value in one.items()}
    planner = Planner(DATA, budget_bytes=None)
    small, large = (TrialConfig.from_flat(values) for values in (one, larger))
    assert memory_key(small).rest == memory_key(large).rest
    assert planner.predict(small, plan).predicted_bytes <= planner.predict(large, plan).predicted_bytes
