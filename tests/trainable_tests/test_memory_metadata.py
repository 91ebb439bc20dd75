"""Remembered shapes give the very traces that torch's own give."""

from collections import Counter
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from tests.trainable_tests.test_memory_trace import N_IDS, cases, configs, form_and_plan
from trainable.config import TrialConfig
from trainable.memory import metadata, tracker
from trainable.memory.metadata import META, run_on_meta
from trainable.memory.trace import fused_optimizer_on_meta, meta_state, record
from trainable.memory.tracker import MemoryTracker

_aten = torch.ops.aten


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs, case=cases)
def test_a_trace_is_the_same_with_and_without_them(config: TrialConfig, case: dict) -> None:
    with mock.patch.object(tracker, "run_on_meta", lambda func, args, kwargs: func(*args, **kwargs)):
        plain = traced(config, case)
    assert plain.allocations
    for again in (traced(config, case), traced(config, case)):  # learning, then remembering
        assert (again.allocations, again.order) == (plain.allocations, plain.order)


def traced(config: TrialConfig, case: dict) -> MemoryTracker:
    form, plan, total = form_and_plan(config, case)
    seen = MemoryTracker("meta")
    with fused_optimizer_on_meta():
        record(meta_state(config, N_IDS, plan, trained=True), form, plan, total, case["n_patches"], seen)
    return seen


@pytest.mark.parametrize(
    ("func", "more"),
    [
        (_aten.t.default, ()),  # a view by its schema
        (_aten._unsafe_view.default, ([6, 4],)),  # a view in truth
        (_aten.relu_.default, ()),  # in place
    ],
)
def test_what_is_no_new_storage_is_run_each_time(func, more) -> None:
    for _ in range(2):
        tensor = torch.empty(4, 6, device=META)
        assert run_on_meta(func, (tensor, *more), {}).untyped_storage()._cdata == tensor.untyped_storage()._cdata


def test_kinds_of_numbers_are_told_apart() -> None:
    tensor = torch.empty(3, device=META, dtype=torch.int64)
    for _ in range(2):
        assert run_on_meta(_aten.mul.Tensor, (tensor, 2), {}).dtype == torch.int64
        assert run_on_meta(_aten.mul.Tensor, (tensor, 2.0), {}).dtype == torch.float32
        assert run_on_meta(_aten.add.Tensor, (tensor, tensor), {"alpha": 2}).shape == (3,)


def test_several_results_and_their_strides() -> None:
    tensor = torch.empty(2, 5, device=META).t()
    for _ in range(2):
        values, indices = run_on_meta(_aten.max.dim, (tensor, 1), {})
        assert (values.shape, values.dtype) == ((5,), torch.float32)
        assert (indices.shape, indices.dtype) == ((5,), torch.int64)
        assert run_on_meta(_aten.clone.default, (tensor,), {}).stride() == tensor.stride()


@pytest.fixture
def counted(monkeypatch) -> Counter:
    """How often each operator is really run, with nothing remembered yet."""
    monkeypatch.setattr(metadata, "_known", {})
    return Counter()


def counting(func: Any, counted: Counter) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        counted[func] += 1
        return func(*args, **kwargs)

    return run


def test_an_operator_is_run_once_for_the_same_shapes(counted: Counter) -> None:
    relu, view = counting(_aten.relu.default, counted), counting(_aten.t.default, counted)
    for size in (3, 3, 4, 3):
        assert run_on_meta(relu, (torch.empty(size, 2, device=META),), {}).shape == (size, 2)
        run_on_meta(view, (torch.empty(size, 2, device=META),), {})
    assert counted == {_aten.relu.default: 2, _aten.t.default: 4}


def test_results_that_share_a_storage_are_made_each_time(counted: Counter) -> None:
    def twice(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        new = torch.empty_like(tensor)
        return new, new.view(-1)

    func = counting(twice, counted)
    for _ in range(2):
        one, other = run_on_meta(func, (torch.empty(3, device=META),), {})
        assert one.untyped_storage()._cdata == other.untyped_storage()._cdata
    assert counted[twice] == 2


def test_only_so_many_are_kept(monkeypatch, counted: Counter) -> None:
    monkeypatch.setattr(metadata, "MOST", 5)
    for size in range(1, 20):
        run_on_meta(_aten.relu.default, (torch.empty(size, device=META),), {})
        assert 1 <= len(metadata._known) <= 5
