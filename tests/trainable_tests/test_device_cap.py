"""What bounds a process on its GPU, with the driver made up below torch's own functions."""

import logging
import os
import re
from unittest import mock

import pytest
import torch

from tests.reader import ROOT
from tests.trainable_tests.fake_cuda import fake_cuda
from trainable.device import cap
from trainable.device.cap import (
    KERNELS_BYTES,
    NOT_COUNTED,
    NOT_EXPANDABLE,
    cap_process_memory,
    driver_peak_bytes,
    expandable_segments_work,
    gpu_name,
    index_of,
    measured_outside_bytes,
    memory_in_use,
    pin_settings,
    shortcomings,
)
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


# ---- what the driver counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counted", "taken", "measured"),
    [
        (640 * MIB, 640 * MIB + KERNELS_BYTES, True),
        (512 * MIB - KERNELS_BYTES + 1, 512 * MIB + 1, True),
        (100 * MIB, 512 * MIB, True),  # never less than the prediction counts: kernels of later trials are not loaded
        (None, 512 * MIB, False),
    ],
)
def test_the_cap_leaves_room_for_what_the_driver_counts(counted: int | None, taken: int, measured: bool) -> None:
    with fake_cuda(8 * GIB) as fake:
        fake.outside_bytes = counted
        found = cap_process_memory(2 * GIB, "cuda", OUTSIDE.outside_bytes, "amp_float16")
    assert found is not None
    assert (found.outside_bytes, found.measured) == (taken, measured)
    assert found.cap_bytes == 2 * GIB - taken
    assert fake.fractions == {0: pytest.approx((2 * GIB - taken) / (8 * GIB))}
    assert fake.touched == [(torch.device("cuda", 0), "amp_float16")]


def test_it_is_measured_once_a_process_and_raised_by_what_a_trial_left() -> None:
    with fake_cuda(8 * GIB) as fake:
        fake.outside_bytes = 600 * MIB
        caps = [cap_process_memory(2 * GIB, "cuda", OUTSIDE.outside_bytes)]
        fake.outside_bytes = 620 * MIB  # while a trial trains
        caps.append(cap_process_memory(2 * GIB, "cuda", OUTSIDE.outside_bytes))
        assert measured_outside_bytes() == 600 * MIB
        assert memory_in_use().outside_bytes == 620 * MIB
        caps.append(cap_process_memory(2 * GIB, "cuda", OUTSIDE.outside_bytes))
    assert [each and each.outside_bytes - KERNELS_BYTES for each in caps] == [600 * MIB, 600 * MIB, 620 * MIB]
    assert len(fake.touched) == 1


def test_a_driver_that_does_not_tell_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with fake_cuda(8 * GIB):
        for _ in range(2):
            cap_process_memory(2 * GIB, "cuda", OUTSIDE.outside_bytes)
        assert driver_peak_bytes(torch.device("cuda")) == 0
        assert shortcomings("cuda") == (NOT_COUNTED,)
    assert [record.getMessage() for record in caplog.records] == [NOT_COUNTED]


def test_a_count_below_the_allocators_is_anothers() -> None:
    """In a container another process outside may have this one's number."""
    with fake_cuda(8 * GIB) as fake:
        fake.outside_bytes = -MIB
        fake.hold(2 * MIB)
        assert driver_peak_bytes(torch.device("cuda")) == 0
        found = cap_process_memory(2 * GIB, "cuda", OUTSIDE.outside_bytes)
    assert found is not None
    assert not found.measured


def test_a_context_larger_than_the_budget_is_refused() -> None:
    with fake_cuda(8 * GIB) as fake:
        fake.outside_bytes = 700 * MIB
        with pytest.raises(BudgetError, match=r"700 MiB leaves nothing after the 715 MiB"):
            cap_process_memory(700 * MIB, "cuda", OUTSIDE.outside_bytes)


def test_the_peak_by_the_driver_is_that_of_the_allocator_and_what_lies_outside() -> None:
    with fake_cuda(8 * GIB) as fake:
        fake.outside_bytes = 600 * MIB
        fake.hold(3 * GIB)
        fake.hold(1 * GIB)
        assert driver_peak_bytes(torch.device("cuda")) == 3 * GIB + 600 * MIB
    assert driver_peak_bytes(torch.device("cpu")) == 0


# ---- settings of the allocator ---------------------------------------------------------------------------------------


def test_expandable_segments_are_pinned_by_the_first_question_to_the_card() -> None:
    """The allocator reads its settings when CUDA starts, which the card's name does."""
    seen: list[str | None] = []
    with fake_cuda(8 * GIB):
        for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
            os.environ.pop(name, None)
        properties = torch.cuda._get_device_properties  # type: ignore[attr-defined]

        def asked(index: int) -> object:
            seen.append(os.environ.get("PYTORCH_ALLOC_CONF"))
            return properties(index)

        with mock.patch.object(torch.cuda, "_get_device_properties", asked):
            assert gpu_name("cuda") == "Fake GPU"
    assert set(seen) == {"expandable_segments:True"}
    assert gpu_name("cpu") is None


def test_no_other_module_starts_cuda_before_the_settings_are_pinned() -> None:
    starts = re.compile(r"torch\.cuda\.(get_device_name|get_device_properties|mem_get_info|init|set_device)\(")
    found = {
        str(path.relative_to(ROOT))
        for package in ("search", "spaces", "trainable", "analysis")
        for path in sorted((ROOT / package).rglob("*.py"))
        if starts.search(path.read_text())
    }
    # The session asks the nodes in a task, which pins them first.
    assert found == {"trainable/device/cap.py", "trainable/device/driver.py", "search/runners/ray_session.py"}


def test_they_work_where_the_driver_has_them(caplog: pytest.LogCaptureFixture) -> None:
    assert expandable_segments_work("cpu"), "the prediction is for a GPU elsewhere"
    with fake_cuda(8 * GIB) as fake:
        fake.outside_bytes = 1
        assert expandable_segments_work("cuda")
        assert shortcomings("cuda") == ()
    assert fake.settings == []
    assert not caplog.records


def test_an_allocator_that_started_before_gets_them_while_it_runs() -> None:
    with fake_cuda(8 * GIB) as fake:
        fake.started_without_them = True
        assert expandable_segments_work("cuda")
    assert fake.settings == ["expandable_segments:True"]


def test_a_driver_that_refuses_them_goes_on_without_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with fake_cuda(8 * GIB) as fake, caplog.at_level(logging.WARNING):
        fake.refuses_expandable, fake.outside_bytes = True, 1
        assert not expandable_segments_work("cuda")
        assert not expandable_segments_work("cuda:0")
        assert shortcomings("cuda") == (NOT_EXPANDABLE,)
    assert fake.settings == ["expandable_segments:False"]
    assert [record.getMessage() for record in caplog.records] == [NOT_EXPANDABLE]


def test_a_full_card_is_no_refusal() -> None:
    def full(index: int) -> bool:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with fake_cuda(8 * GIB) as fake:
        with mock.patch.object(cap, "allocates_expandable", full), pytest.raises(torch.OutOfMemoryError):
            expandable_segments_work("cuda")
        assert expandable_segments_work("cuda")
    assert fake.settings == []
