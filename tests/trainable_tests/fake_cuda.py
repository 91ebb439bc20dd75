"""A CUDA device that is not there: torch's public functions run as they are, the driver below them is made up."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

import torch


@dataclass
class FakeCuda:
    """What was asked of the driver, and what it answers."""

    total_bytes: int
    current: int = 0
    devices: int = 2
    fractions: dict[int, float] = field(default_factory=dict)
    """Allocator's share of each card, by its number."""
    asked: list[tuple[str, int]] = field(default_factory=list)
    """Name and device of every other call."""
    free_bytes: int = 0
    held_bytes: int = 0
    """What the allocator holds now; set by `hold`."""
    peak_bytes: int = 0
    """What it held at most since the peak was reset."""

    def hold(self, size_bytes: int) -> None:
        """The allocator now holds so many bytes."""
        self.held_bytes = size_bytes
        self.peak_bytes = max(self.peak_bytes, size_bytes)


@contextmanager
def fake_cuda(total_bytes: int, *, current: int = 0) -> Iterator[FakeCuda]:
    """Two cards of `total_bytes` each, of which `current` is in use."""
    fake = FakeCuda(total_bytes, current, free_bytes=total_bytes)

    def set_fraction(fraction: float, device: int) -> None:
        fake.fractions[device] = fraction

    def stats(device: int) -> dict[str, object]:
        fake.asked.append(("stats", device))
        return {"allocated_bytes": {"all": {"peak": fake.peak_bytes}}}

    def reset(device: int) -> None:
        fake.asked.append(("reset", device))
        fake.peak_bytes = fake.held_bytes

    with ExitStack() as stack:

        def put(where: object, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(where, name, value, create=True))

        put(torch.cuda, "_lazy_init", lambda: None)
        put(torch.cuda.memory, "_lazy_init", lambda: None)
        put(torch.cuda, "is_available", lambda: True)
        put(torch.cuda, "is_initialized", lambda: True)
        put(torch.cuda.memory, "is_initialized", lambda: True)
        put(torch.cuda, "device_count", lambda: fake.devices)
        put(torch.cuda, "_get_device_properties", lambda _: SimpleNamespace(total_memory=total_bytes, name="Fake GPU"))
        put(torch.cuda, "cudart", lambda: SimpleNamespace(cudaMemGetInfo=lambda _: (fake.free_bytes, total_bytes)))
        put(torch._C, "_cuda_getDevice", lambda: fake.current)
        put(torch._C, "_cuda_setMemoryFraction", set_fraction)
        put(torch._C, "_cuda_memoryStats", stats)
        put(torch._C, "_cuda_emptyCache", lambda: None)
        put(torch._C, "_cuda_resetPeakMemoryStats", reset)
        yield fake
