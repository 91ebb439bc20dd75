"""The GPU benchmarks on a machine without one: arguments, cases, refusal, and the processes on a CPU."""

import time

import pytest
import torch

from benchmarks import gpu_memory, gpu_packing
from trainable.errors import ConfigError
from trainable.memory.planner import Planner
from trainable.units import GIB, MIB

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def test_the_cases_reach_from_small_to_large_and_hold_the_recipe() -> None:
    cases = list(gpu_memory.cases())
    assert len(cases) >= 40
    assert len({(str(config.flat()), plan) for _, config, plan in cases}) >= 40
    recipe = [config for name, config, _ in cases if name == "recipe, plain"]
    assert {(config.patch.batch_size, config.patch.n_patches) for config in recipe} == {(16, 16)}
    assert {name for name, _, _ in cases} >= {"recipe, memory saver", "recipe, AMP", "large", "codes", "quantizer"}


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_the_smallest_and_the_largest_case_lie_far_apart() -> None:
    planner = Planner(gpu_memory.DATA, budget_bytes=None)
    predicted = [planner.predict(*case[1:]).allocated_bytes for case in gpu_memory.cases() if case[0] == "large"]
    small = next(case for case in gpu_memory.cases() if case[0] == "whole")
    assert planner.predict(*small[1:]).allocated_bytes < 200 * MIB
    assert max(predicted) > 16 * GIB


@no_gpu
@pytest.mark.parametrize("module", [gpu_memory, gpu_packing], ids=["gpu_memory", "gpu_packing"])
def test_without_a_gpu_one_line_says_so(module) -> None:
    with pytest.raises(ConfigError, match=r"needs a CUDA GPU.*nothing was measured"):
        module.main([])


@pytest.mark.parametrize("text", ["", "0", "two", "1,,2", "-1", "1;2"])
def test_counts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--counts"):
        gpu_packing.parse_counts(text)


def test_counts_are_sorted_and_one_at_a_time_is_always_measured() -> None:
    assert gpu_packing.parse_counts("8,2,2") == (1, 2, 8)
    assert gpu_packing.parse_counts("1,2,4,8") == gpu_packing.COUNTS


def test_trials_an_hour_are_counted_over_all_trials() -> None:
    one, four = gpu_packing.rows_of({1: 10.0, 4: 20.0}, epochs=gpu_packing.EPOCHS_OF_A_TRIAL)
    assert one["trials_an_hour"] == pytest.approx(360)
    assert four["trials_an_hour"] == pytest.approx(720)
    assert (one["ratio"], four["ratio"]) == (1.0, pytest.approx(2.0))


def told_at_once(word: str, barrier, told) -> None:
    barrier.wait(50)
    told.put((word, time.monotonic()))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_processes_begin_together_and_all_are_heard() -> None:
    told = gpu_packing.together(told_at_once, 2, "begun", between=lambda barrier: barrier.wait(50))
    assert [word for word, _ in told] == ["begun", "begun"]
