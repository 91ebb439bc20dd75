"""Keeps a process within its budget on the GPU: allocator cap, pinned workspaces, and a check that all came back."""

import gc
import os

import torch

ALLOCATOR_SETTINGS = "PYTORCH_ALLOC_CONF"
"""torch's environment variable since 2.9; read when the allocator starts, so set before the first CUDA tensor."""
CUBLAS_SETTINGS = "CUBLAS_WORKSPACE_CONFIG"


def cap_process_memory(budget_bytes: int | None, device: str | torch.device) -> None:
    """Bounds torch's caching allocator in this process to the budget less what is not its own; nothing on a CPU.

    The cap leaks: context and libraries are outside it (the device profile counts them), and cuDNN picks algorithms
    by free memory, so its benchmark mode is off and cuBLAS's workspace is fixed, in prediction and training alike.

    Raises
    ------
    BudgetError
        If the budget is larger than the GPU.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return
    os.environ.setdefault(ALLOCATOR_SETTINGS, "expandable_segments:True")
    os.environ.setdefault(CUBLAS_SETTINGS, ":4096:2:16:8")
    torch.backends.cudnn.benchmark = False
    if budget_bytes is not None:
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, budget_bytes / total_bytes), device)


def bytes_left() -> int:
    """Bytes of CUDA tensors still alive in this process after everything was released; 0 on a CPU."""
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    return int(torch.cuda.memory_allocated())
