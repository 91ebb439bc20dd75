"""What bounds a process on its GPU, with the driver made up below torch's own functions."""

import os
from unittest import mock

import pytest
import torch

from tests.trainable_tests.fake_cuda import fake_cuda
from trainable.device.cap import cap_process_memory, index_of, pin_settings
from trainable.errors import BudgetError
from trainable.memory.profile import DeviceProfile
from trainable.units import GIB, MIB

OUTSIDE = DeviceProfile(context_bytes=500 * MIB, library_bytes=12 * MIB)


@pytest.fixture(autouse=True)
def _environment_and_switches_as_before():
    benchmark = torch.backends.cudnn.benchmark
    with mock.patch.dict(os.environ):
        yield
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.parametrize(
    ("device", "index"), [("cuda", 1), ("cuda:0", 0), (torch.device("cuda"), 1), (torch.device("cuda", 0), 0)]
)
def test_the_cap_is_set_on_the_device_that_is_meant(device: str | torch.device, index: int) -> None:
    """A plain "cuda" is what every caller passes; torch's function wants a number."""
    with fake_cuda(8 * GIB, current=1) as fake:
        cap_process_memory(2 * GIB, device, OUTSIDE.outside_bytes)
    assert fake.fractions == {index: pytest.approx((2 * GIB - 512 * MIB) / (8 * GIB))}


def test_a_budget_beyond_the_card_is_refused() -> None:
    with fake_cuda(8 * GIB) as fake, pytest.raises(BudgetError, match=r"more than the 8\.00 GiB"):
        cap_process_memory(9 * GIB, "cuda", OUTSIDE.outside_bytes)
    assert fake.fractions == {}


def test_every_other_call_of_ours_takes_a_device_without_an_index() -> None:
    """The calls that `Trial`, `Trainer` and the benchmarks make with the device as they have it."""
    device = torch.device("cuda")
    with fake_cuda(8 * GIB, current=1) as fake:
        torch.cuda.reset_peak_memory_stats(device)
        assert torch.cuda.max_memory_allocated(device) == torch.cuda.max_memory_reserved(device) == 0
        assert torch.cuda.get_device_properties(device).total_memory == 8 * GIB
        assert torch.cuda.mem_get_info(device) == (8 * GIB, 8 * GIB)
        assert index_of(device) == 1
    assert fake.asked == [("reset", 1), ("stats", 1), ("stats", 1)]


def test_the_workspace_of_cublaslt_is_cublass_own_and_counted_once() -> None:
    environment = {"TORCH_CUBLASLT_UNIFIED_WORKSPACE": "0"}
    pin_settings(environment)
    assert environment["TORCH_CUBLASLT_UNIFIED_WORKSPACE"] == "1"
    blocks = [int(part) for part in environment["CUBLAS_WORKSPACE_CONFIG"].split(":")[1:]]
    kib = sum(size * count for size, count in zip(blocks[::2], blocks[1::2], strict=True))
    assert int(environment["CUBLASLT_WORKSPACE_SIZE"]) <= kib, "it lies within"
    # One for the thread of the forward pass and one for that of the backward pass.
    assert DeviceProfile().workspace_bytes == 2 * kib * 1024


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_old_variable_does_not_hide_the_new_one(empty: str) -> None:
    """torch reads the old name wherever it is set: empty, it would switch expandable segments off."""
    environment = {"PYTORCH_CUDA_ALLOC_CONF": empty, "PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}
    pin_settings(environment)
    assert "PYTORCH_CUDA_ALLOC_CONF" not in environment
    assert environment["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64,expandable_segments:True"
