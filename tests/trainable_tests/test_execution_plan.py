"""The execution plan: what is accepted, and that it survives a checkpoint."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan, today

PLANS = st.builds(
    ExecutionPlan,
    micro_batch_clips=st.integers(1, 4096),
    recompute_encoder=st.booleans(),
    recompute_decoder=st.booleans(),
    quantizer_chunk_rows=st.integers(1, 2**20),
    data_placement=st.sampled_from(["device", "host"]),
    precision=st.sampled_from(["float32", "amp_bfloat16", "amp_float16"]),
)


@given(PLANS)
def test_a_plan_is_rebuilt_from_plain_values(plan: ExecutionPlan) -> None:
    assert ExecutionPlan.from_dict(plan.to_dict()) == plan
    assert plan.uses_amp == (plan.precision != "float32")
    assert f"{plan.micro_batch_clips} clips" in plan.describe()
    assert plan.precision in plan.describe()
    assert ("recompute" in plan.describe()) == (plan.recompute_encoder or plan.recompute_decoder)


def test_a_description_names_every_part() -> None:
    plan = ExecutionPlan(micro_batch_clips=4, recompute_encoder=True, recompute_decoder=True, data_placement="host")
    assert plan.describe() == "4 clips, recompute enc+dec, chunk 16384, host, float32"
    assert dataclasses.replace(plan, recompute_encoder=False).describe().startswith("4 clips, recompute dec, chunk")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "the field 'micro_batch_clips' is missing"),
        ({"micro_batch_clips": 1, "chunk": 3}, "unknown field 'chunk'"),
        ({"micro_batch_clips": "many"}, "micro_batch_clips is 'many', which is not of type int"),
        ({"micro_batch_clips": 1.0}, "micro_batch_clips is 1.0, which is not of type int"),
        ({"micro_batch_clips": True}, "micro_batch_clips is True, which is not of type int"),
        ({"micro_batch_clips": 1, "precision": "float8"}, "precision is 'float8'"),
        ({"micro_batch_clips": 1, "data_placement": "disk"}, "data_placement is 'disk'"),
        ({"micro_batch_clips": 0}, "micro_batch_clips is 0; it must be at least 1"),
        ({"micro_batch_clips": 1, "quantizer_chunk_rows": 0}, "quantizer_chunk_rows is 0; it must be at least 1"),
    ],
)
def test_a_plan_that_is_none_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ExecutionPlan.from_dict(values)
    assert message in str(caught.value)


@pytest.mark.parametrize(("was", "now"), [(None, []), ("runs/fan", ["runs/fan"]), (["runs/a"], ["runs/a"])])
def test_a_warm_start_of_before_is_read_as_a_list(was: object, now: list[str]) -> None:
    assert today({"warm_start": was}) == {"warm_start": now}
