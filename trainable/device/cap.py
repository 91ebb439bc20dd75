"""Keeps a process within its GPU budget: allocator cap, pinned workspaces, a check that a trial freed its memory."""

import gc
import importlib
import logging
import os
from collections.abc import MutableMapping
from dataclasses import dataclass

import torch

from trainable.device._torch_private import clear_workspaces
from trainable.errors import BudgetError
from trainable.units import MIB, format_bytes

_log = logging.getLogger(__name__)

CONTEXT_BYTES = 480 * MIB
"""CUDA context of a process and the kernels loaded into it, outside PyTorch's allocator. Estimate."""
LIBRARY_BYTES = 64 * MIB
"""Handles of cuBLAS and cuDNN, outside PyTorch's allocator. Estimate."""
CUBLAS_WORKSPACE_CONFIG = ":4096:2:16:8"
"""Two workspaces of 4096 KiB and eight of 16 KiB, cuBLAS's own default before Hopper; on Hopper it would be 32 MiB."""
CUBLASLT_WORKSPACE_KIB = 8192
"""At most cuBLAS's 8320 KiB, which contain it: the unified workspace is pinned."""
ALLOCATOR_SETTINGS = "PYTORCH_ALLOC_CONF"
"""torch's environment variable since 2.9; read when the allocator starts, so set before the first CUDA tensor."""
OLD_ALLOCATOR_SETTINGS = "PYTORCH_CUDA_ALLOC_CONF"
"""Its earlier name. If it is set, even to the empty string, torch 2.13 reads it instead of the new one
(``CUDAAllocatorConfig.h``)."""
EXPANDABLE = "expandable_segments:True"
CUBLAS_SETTINGS = "CUBLAS_WORKSPACE_CONFIG"
CUBLASLT_SETTINGS = "CUBLASLT_WORKSPACE_SIZE"
UNIFIED_WORKSPACE = "TORCH_CUBLASLT_UNIFIED_WORKSPACE"
"""cuBLASLt shares cuBLAS's workspace. Open-source builds of torch 2.13 do so by default
(``torch.backends.cuda.blas_workspace_size``), others may not: pinned, so that it is counted once everywhere."""


def pin_settings(environment: MutableMapping[str, str]) -> None:
    """Sets what prediction and training must have in common; replaces a user's different setting with a warning.

    Keeps all allocator settings other than expandable segments.
    """
    if not environment.get(OLD_ALLOCATOR_SETTINGS, "x").strip():
        del environment[OLD_ALLOCATOR_SETTINGS]
    name = OLD_ALLOCATOR_SETTINGS if OLD_ALLOCATOR_SETTINGS in environment else ALLOCATOR_SETTINGS
    others = [part for part in environment.get(name, "").split(",") if part and "expandable_segments" not in part]
    wanted = {
        name: ",".join([*others, EXPANDABLE]),
        CUBLAS_SETTINGS: CUBLAS_WORKSPACE_CONFIG,
        CUBLASLT_SETTINGS: str(CUBLASLT_WORKSPACE_KIB),
        UNIFIED_WORKSPACE: "1",
    }
    for name, value in wanted.items():
        given = environment.get(name)
        if given and name in (CUBLAS_SETTINGS, CUBLASLT_SETTINGS, UNIFIED_WORKSPACE) and given != value:
            _log.warning("%s is %s; set to %s, which memory was predicted for", name, given, value)
        environment[name] = value


def allocator_cap_bytes(budget_bytes: int, outside_bytes: int) -> int:
    """The part of a budget left for PyTorch's allocator. Raises BudgetError if nothing is left."""
    cap_bytes = budget_bytes - outside_bytes
    if cap_bytes <= 0:
        raise BudgetError(
            f"a budget of {format_bytes(budget_bytes)} leaves nothing after the {format_bytes(outside_bytes)} "
            "of CUDA's context and libraries; give a larger --gpu-memory-budget"
        )
    return cap_bytes


def cap_process_memory(
    budget_bytes: int | None, device: str | torch.device, outside_bytes: int = CONTEXT_BYTES + LIBRARY_BYTES
) -> None:
    """Caps torch's caching allocator in this process at the budget less what lies outside it; does nothing on a CPU.

    The cap leaks: context and libraries are outside it (the device profile counts them), and cuDNN picks algorithms
    by free memory, so its benchmark mode is off and workspaces are fixed, in prediction and training alike.

    Parameters
    ----------
    outside_bytes
        What the process takes outside the allocator (`DeviceProfile.outside_bytes`).

    Raises
    ------
    BudgetError
        If the budget is larger than the GPU, or smaller than CUDA's context.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return
    pin_settings(os.environ)
    torch.backends.cudnn.benchmark = False
    if budget_bytes is None:
        return
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    if budget_bytes > total_bytes:
        raise BudgetError(
            f"a budget of {format_bytes(budget_bytes)} is more than the {format_bytes(total_bytes)} of {device}; "
            "give a smaller --gpu-memory-budget"
        )
    fraction = allocator_cap_bytes(budget_bytes, outside_bytes) / total_bytes
    # This one function of torch.cuda refuses a device without an index (torch 2.13); all others take the current one.
    torch.cuda.set_per_process_memory_fraction(fraction, index_of(device))


def gpu_name(device: str | torch.device) -> str | None:
    """Name of a CUDA device, which selects its profile; None for a CPU. Creates a CUDA context in this process."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def index_of(device: torch.device) -> int:
    """Index of a CUDA device; that of the current device if it has none."""
    return torch.cuda.current_device() if device.index is None else device.index


@dataclass(frozen=True)
class MemoryInUse:
    """GPU memory that a process still uses after its trial was released."""

    allocated_bytes: int = 0
    """CUDA tensors still alive."""
    reserved_bytes: int = 0
    """What the allocator has reserved from the driver."""
    outside_bytes: int | None = None
    """What the driver counts for this process beyond that: context and libraries. None if it does not say."""

    def kept_since(self, baseline: "MemoryInUse") -> str | None:
        """What was not released since a baseline, in one phrase; None if everything was.

        Outside the allocator, growth up to the estimated size is allowed: libraries load their kernels on first use.
        """
        if self.allocated_bytes > baseline.allocated_bytes:
            return f"{format_bytes(self.allocated_bytes - baseline.allocated_bytes)} of tensors"
        if self.reserved_bytes > baseline.reserved_bytes:
            return f"{format_bytes(self.reserved_bytes - baseline.reserved_bytes)} that its allocator reserves"
        if self.outside_bytes is None or baseline.outside_bytes is None:
            return None
        grown = self.outside_bytes - baseline.outside_bytes
        return f"{format_bytes(grown)} outside of its allocator" if grown > CONTEXT_BYTES + LIBRARY_BYTES else None


def memory_in_use() -> MemoryInUse:
    """What this process still uses after releasing all it can; zeros on a CPU.

    Clears cuBLAS's workspaces first: PyTorch keeps them in the same allocator for the life of the process, and they
    belong to no trial.
    """
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return MemoryInUse()
    gc.collect()
    torch.cuda.synchronize()
    clear_workspaces()
    torch.cuda.empty_cache()
    cards = range(torch.cuda.device_count())
    reserved = sum(int(torch.cuda.memory_reserved(index)) for index in cards)
    seen = _driver_bytes()
    return MemoryInUse(
        allocated_bytes=sum(int(torch.cuda.memory_allocated(index)) for index in cards),
        reserved_bytes=reserved,
        outside_bytes=None if seen is None else seen - reserved,
    )


def _driver_bytes() -> int | None:
    """What the driver counts for this process on all cards; None if NVML's Python module or its answer is missing."""
    try:
        pynvml = importlib.import_module("pynvml")
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        running = [each for handle in handles for each in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    except Exception:  # not installed, no driver, not allowed: NVML has a separate error for each
        return None
    mine = [each.usedGpuMemory for each in running if each.pid == os.getpid() and each.usedGpuMemory is not None]
    return sum(mine) if mine else None
