"""The GPU benchmarks on a machine without one: refusal, arguments, and the processes of the packing on a CPU."""

import time

import pytest
import torch

from benchmarks import gpu_memory, gpu_packing
from trainable.errors import ConfigError

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


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
