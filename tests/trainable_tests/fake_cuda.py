"""A CUDA device that is not there: torch's public functions run as they are, the driver below them is made up,
as are the functions of ours that allocate on the card to see what it does."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

import torch

from trainable.device import cap, driver, warm_up
from trainable.execution_plan import Precision


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

    outside_bytes: int | None = None
    """What the driver counts for the process beyond what the allocator holds; None = it does not tell."""
    refuses_expandable: bool = False
    """Whether each allocation in an expandable segment fails."""
    started_without_them: bool = False
    """Whether the allocator read its settings before they were pinned."""
    settings: list[str] = field(default_factory=list)
    """Settings that the running allocator was given."""
    touched: list[tuple[torch.device, str]] = field(default_factory=list)
    """Card and mixed precision for which the libraries were loaded."""

    def allocates_expandable(self, index: int) -> bool:
        wanted = not self.started_without_them
        for settings in self.settings:
            wanted = settings == cap.EXPANDABLE
        if wanted and self.refuses_expandable:
            raise RuntimeError("CUDA driver error: operation not supported")
        return wanted

    def process_bytes(self, device: int) -> int | None:
        """Of the card in use; the process holds nothing on the other."""
        counts = self.outside_bytes is not None and device == self.current
        return (self.outside_bytes or 0) + self.held_bytes if counts else None

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
        held = {"all": {"peak": fake.peak_bytes, "current": fake.held_bytes}}
        return {"allocated_bytes": held, "reserved_bytes": held}

    def reset(device: int) -> None:
        fake.asked.append(("reset", device))
        fake.peak_bytes = fake.held_bytes

    def touch(device: torch.device, precision: Precision) -> None:
        fake.touched.append((device, precision))

    with ExitStack() as stack:
        for known in (cap._outside_bytes, cap._expandable):
            stack.enter_context(mock.patch.dict(known, clear=True))

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
        put(cap, "allocates_expandable", fake.allocates_expandable)
        put(cap, "set_allocator_settings", fake.settings.append)
        put(cap, "clear_workspaces", lambda: None)
        put(warm_up, "touch_libraries", touch)
        put(driver, "process_bytes", fake.process_bytes)
        put(torch.cuda, "synchronize", lambda *_: None)
        yield fake
