"""What NVML says about this process, with NVML made up."""

import os
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from trainable.device import driver
from trainable.units import MIB


class NVMLError(Exception):
    pass


class Nvml(ModuleType):
    """One card, known by its identifier, and the processes on it."""

    NVMLError = NVMLError

    def __init__(self, processes: dict[int, int | None], prefix: str = "GPU") -> None:
        super().__init__("pynvml")
        self.processes, self.prefix = processes, prefix
        self.starts = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.starts += 1

    def nvmlDeviceGetHandleByUUID(self, identifier: str) -> str:  # noqa: N802
        if identifier != f"{self.prefix}-1234":
            raise NVMLError("Not Found")
        return identifier

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.processes.items()]


@pytest.fixture(autouse=True)
def _a_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1234"))
    driver._nvml.cache_clear()
    yield
    driver._nvml.cache_clear()


def answer(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> int | None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return driver.process_bytes(0)


@pytest.mark.parametrize("prefix", ["GPU", "MIG"])
def test_it_is_the_count_of_this_process_alone(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    nvml = Nvml({os.getpid(): 638 * MIB, 1: 70 * MIB}, prefix)
    assert [answer(monkeypatch, nvml), answer(monkeypatch, nvml)] == [638 * MIB] * 2
    assert nvml.starts == 1


@pytest.mark.parametrize(
    "module",
    [
        None,  # nvidia-ml-py is not installed
        Nvml({}),  # NVML hides the processes
        Nvml({1: 70 * MIB}),  # numbers of another name space
        Nvml({os.getpid(): None}),  # a card that counts no process's memory
        Nvml({os.getpid(): MIB}, "OTHER"),  # it does not know the card
    ],
)
def test_it_is_none_where_nvml_does_not_tell(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    assert answer(monkeypatch, module) is None


def test_it_is_none_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise NVMLError("NVML Shared Library Not Found")

    nvml = Nvml({os.getpid(): MIB})
    monkeypatch.setattr(nvml, "nvmlInit", fail)
    assert answer(monkeypatch, nvml) is None
