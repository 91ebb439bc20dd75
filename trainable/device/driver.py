"""What the driver counts for this process, asked of NVML; the allocator sees only what it reserved itself."""

import functools
import logging
import os
from typing import Any

import torch

_log = logging.getLogger(__name__)


def process_bytes(device: int) -> int | None:
    """GPU memory of this process on a card as NVML counts it: context, libraries and what the allocator reserved.

    None where NVML does not tell: without the package nvidia-ml-py, without NVIDIA's driver, where it hides processes,
    or in a container whose process numbers are not the host's.
    """
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        running = nvml.nvmlDeviceGetComputeRunningProcesses(_handle(nvml, device))
    except nvml.NVMLError as error:
        _log.debug("NVML does not list the processes of card %d: %s", device, error)
        return None
    mine = [each.usedGpuMemory for each in running if each.pid == os.getpid() and each.usedGpuMemory is not None]
    return sum(int(size) for size in mine) if mine else None


@functools.cache
def _nvml() -> Any:
    """NVML's module, initialised once; None where there is none or no driver for it."""
    try:
        import pynvml
    except ModuleNotFoundError:
        _log.debug("the package nvidia-ml-py is not installed")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        _log.debug("NVML does not start: %s", error)
        return None
    return pynvml


def _handle(nvml: Any, device: int) -> Any:
    """NVML's handle of a card, found by its identifier: NVML's numbers ignore CUDA_VISIBLE_DEVICES."""
    identifier = torch.cuda.get_device_properties(device).uuid
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{identifier}")
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{identifier}")
