"""Keeps a process within its GPU budget, as the driver counts it.

Settings that are pinned before CUDA starts, what the process holds outside torch's allocator (measured), the cap on the
allocator, and a check that a trial freed its memory.
"""

import gc
import logging
import os
from collections.abc import MutableMapping
from dataclasses import dataclass

import torch

from trainable.device import driver, warm_up
from trainable.device._torch_private import clear_workspaces, set_allocator_settings
from trainable.device.budget import Card
from trainable.device.out_of_memory import is_out_of_memory
from trainable.errors import BudgetError
from trainable.execution_plan import Precision
from trainable.units import MIB, format_bytes

_log = logging.getLogger(__name__)

KERNELS_BYTES = 15 * MIB
"""What a measurement after `warm_up.touch_libraries` misses. On an H100 (torch 2.11) NVML counted 638 MiB for the
process, and the free memory showed 653 MiB in a training: 6 MiB of kernels that load on their first use, and 9 MiB that
NVML does not count for the process."""
CONTEXT_BYTES = 544 * MIB
"""The most that a process without tensors is taken to hold of a card where the driver does not tell."""
KEPT_BYTES = 64 * MIB
"""Growth outside the allocator after which a worker is replaced: kernels that its trials loaded stay loaded. Choice."""
CUBLAS_WORKSPACE_CONFIG = ":4096:2:16:8"
"""Two workspaces of 4096 KiB and eight of 16 KiB, cuBLAS's own default before Hopper; on Hopper it would be 32 MiB."""
CUBLASLT_WORKSPACE_KIB = 8192
"""At most cuBLAS's 8320 KiB, which contain it: the unified workspace is pinned."""
ALLOCATOR_SETTINGS = "PYTORCH_ALLOC_CONF"
"""torch's environment variable since 2.9; read when the allocator starts, so set before the first CUDA tensor."""
OLD_ALLOCATOR_SETTINGS = "PYTORCH_CUDA_ALLOC_CONF"
"""Its earlier name. If it is set, even to the empty string, torch 2.13 reads it instead of the new one
(``CUDAAllocatorConfig.h``)."""
EXPANDABLE, FIXED = "expandable_segments:True", "expandable_segments:False"
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


@dataclass(frozen=True, kw_only=True)
class ProcessCap:
    """How a process keeps to its budget."""

    budget_bytes: int
    """What the driver may count for the process."""
    outside_bytes: int
    """What it is taken to hold outside the allocator: context, libraries, kernels."""
    planned_outside_bytes: int
    """What the prediction counts for that (`DeviceProfile.outside_bytes`)."""
    measured: bool
    """Whether the driver's count went into `outside_bytes`; else it is the planned one."""

    @property
    def cap_bytes(self) -> int:
        """What the allocator may reserve."""
        return self.budget_bytes - self.outside_bytes


NOT_COUNTED = (
    "the driver does not tell what a process holds (is nvidia-ml-py installed, and do process numbers agree with the "
    "host's?): caps use the device profile's estimate of CUDA's context and libraries, and no driver bytes are reported"
)
NOT_EXPANDABLE = (
    "the driver refuses expandable segments: the allocator uses fixed ones, which reserve more than tensors need"
)

_outside_bytes: dict[int, int | None] = {}
"""What this process holds outside the allocator, by card: measured before its first trial, and raised by what
`memory_in_use` finds between trials. None where the driver does not tell."""
_expandable: dict[int, bool] = {}
"""Whether expandable segments are on, by card; tried once."""


def cap_process_memory(
    budget_bytes: int | None,
    device: str | torch.device,
    outside_bytes: int,
    precision: Precision = "amp_bfloat16",
) -> ProcessCap | None:
    """Caps torch's caching allocator in this process at the budget less what lies outside it.

    Context, libraries and kernels lie outside. They are loaded first, and the driver is asked for what the process
    holds (once per process): the cap subtracts that and `KERNELS_BYTES`, or the planned `outside_bytes` where that is
    more or where the driver does not tell. So a cap is never larger than planned, and a plan may exceed it
    (`PlannedTrial.within_cap`). cuDNN picks algorithms by free memory, so its benchmark mode is off and workspaces are
    fixed, in prediction and training alike.

    Parameters
    ----------
    outside_bytes
        What the prediction counts outside the allocator (`DeviceProfile.outside_bytes`).
    precision
        The mixed precision that plans of this process may use.

    Returns
    -------
    None on a CPU or without a budget.

    Raises
    ------
    BudgetError
        If the budget is larger than the GPU, or smaller than CUDA's context.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return None
    pin_settings(os.environ)
    torch.backends.cudnn.benchmark = False
    if budget_bytes is None:
        expandable_segments_work(device)
        return None
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    if budget_bytes > total_bytes:
        raise BudgetError(
            f"a budget of {format_bytes(budget_bytes)} is more than the {format_bytes(total_bytes)} of {device}; "
            "give a smaller --gpu-memory-budget"
        )
    expandable_segments_work(device)
    counted = _measured_outside_bytes(index_of(device), precision)
    cap = ProcessCap(
        budget_bytes=budget_bytes,
        outside_bytes=outside_bytes if counted is None else max(outside_bytes, counted + KERNELS_BYTES),
        planned_outside_bytes=outside_bytes,
        measured=counted is not None,
    )
    fraction = allocator_cap_bytes(budget_bytes, cap.outside_bytes) / total_bytes
    # This one function of torch.cuda refuses a device without an index (torch 2.13); all others take the current one.
    torch.cuda.set_per_process_memory_fraction(fraction, index_of(device))
    return cap


def shortcomings(device: str | torch.device) -> tuple[str, ...]:
    """What keeping a budget lacks on a card, one sentence each; makes a CUDA context in this process."""
    device = torch.device(device)
    lacking = [] if expandable_segments_work(device) else [NOT_EXPANDABLE]
    if _outside_now(index_of(device)) is None:
        lacking.append(NOT_COUNTED)
    return tuple(lacking)


def _measured_outside_bytes(index: int, precision: Precision) -> int | None:
    """What this process holds on a card outside the allocator, measured on the first call; None if nobody tells."""
    if index not in _outside_bytes:
        warm_up.touch_libraries(torch.device("cuda", index), precision)
        _outside_bytes[index] = _outside_now(index)
        if _outside_bytes[index] is None:
            _log.warning("%s", NOT_COUNTED)
    return _outside_bytes[index]


def _outside_now(index: int) -> int | None:
    """What the driver counts for this process on a card beyond what the allocator reserved; None if it does not tell.

    A count below the allocator's is that of another process with the same number, outside of this container.
    """
    counted, reserved = driver.process_bytes(index), torch.cuda.memory_reserved(index)
    return None if counted is None or counted < reserved else counted - reserved


def driver_peak_bytes(device: torch.device) -> int:
    """The most that the driver counted for this process on a card since the peak statistics were reset.

    Its count now outside the allocator, which never falls, and the most that the allocator had reserved. 0 on a CPU
    and where the driver does not tell.
    """
    if device.type != "cuda":
        return 0
    outside = _outside_now(index_of(device))
    return 0 if outside is None else outside + torch.cuda.max_memory_reserved(device)


def expandable_segments_work(device: str | torch.device) -> bool:
    """Whether the allocator uses expandable segments on this device, as pinned; tried once per process and card.

    Where CUDA was already in use before the settings were pinned, they are given to the running allocator. Where the
    driver refuses such segments (some virtual GPUs do), torch would fail each allocation: then they are switched off
    for this process, with one warning. True for a CPU: there the prediction is for a GPU elsewhere.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return True
    pin_settings(os.environ)
    index = index_of(device)
    if index not in _expandable:
        _expandable[index] = _try_expandable(index)
        torch.cuda.empty_cache()
        if not _expandable[index]:
            _log.warning("%s", NOT_EXPANDABLE)
    return _expandable[index]


def _try_expandable(index: int) -> bool:
    try:
        if allocates_expandable(index):
            return True
        # The allocator reads its settings once, so it had started before they were pinned.
        torch.cuda.empty_cache()
        set_allocator_settings(EXPANDABLE)
        return allocates_expandable(index)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        set_allocator_settings(FIXED)
        return allocates_expandable(index)


def allocates_expandable(index: int) -> bool:
    """Whether a new block on a card lies in an expandable segment. Raises RuntimeError if the driver refuses it."""
    block = torch.empty(1, dtype=torch.uint8, device=torch.device("cuda", index))
    address = block.data_ptr()
    return any(
        segment["is_expandable"]
        for segment in torch.cuda.memory_snapshot()
        if segment["address"] <= address < segment["address"] + segment["total_size"]
    )


def gpu_name(device: str | torch.device) -> str | None:
    """Name of a CUDA device, which selects its profile; None for a CPU. Pins the settings, then starts CUDA here."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    pin_settings(os.environ)
    return torch.cuda.get_device_name(device)


def card_of(device: str | torch.device, reserve_bytes: int) -> Card:
    """A CUDA device, and what other programs hold of it now. Pins the settings, then starts CUDA here."""
    pin_settings(os.environ)
    device = torch.device(device)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    own = driver.process_bytes(index_of(device))
    taken_bytes = total_bytes - free_bytes - (CONTEXT_BYTES if own is None else own)
    return Card(total_bytes, reserve_bytes, max(0, taken_bytes))


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

        Outside the allocator, growth up to `KEPT_BYTES` is allowed: kernels load on first use and stay.
        """
        if self.allocated_bytes > baseline.allocated_bytes:
            return f"{format_bytes(self.allocated_bytes - baseline.allocated_bytes)} of tensors"
        if self.reserved_bytes > baseline.reserved_bytes:
            return f"{format_bytes(self.reserved_bytes - baseline.reserved_bytes)} that its allocator reserves"
        if self.outside_bytes is None or baseline.outside_bytes is None:
            return None
        grown = self.outside_bytes - baseline.outside_bytes
        return f"{format_bytes(grown)} outside of its allocator" if grown > KEPT_BYTES else None


def measured_outside_bytes() -> int | None:
    """What was measured outside the allocator before this process's first trial, on all its cards; None if nothing."""
    known = [size for size in _outside_bytes.values() if size is not None]
    return sum(known) if known else None


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
    outside = {index: size for index in cards if (size := _outside_now(index)) is not None}
    for index in outside.keys() & _outside_bytes.keys():
        # Kernels that a trial loaded stay: the next trial's cap must leave room for them.
        _outside_bytes[index] = max(outside[index], _outside_bytes[index] or 0)
    return MemoryInUse(
        allocated_bytes=sum(int(torch.cuda.memory_allocated(index)) for index in cards),
        reserved_bytes=sum(int(torch.cuda.memory_reserved(index)) for index in cards),
        outside_bytes=sum(outside.values()) if outside else None,
    )
