"""Private names of torch that we use where it has no public ones, looked up when used (`trainable.private_name`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainable.private_name import PrivateName, replaced

if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode

_WRITTEN_FOR = "2.11 … 2.13"

CLEAR_WORKSPACES = PrivateName(
    "torch",
    "torch._C",
    "_cuda_clearCublasWorkspaces",
    "releases cuBLAS's workspaces after a trial; without it they count as memory that the trial kept, "
    "and every trial gets a new worker",
    _WRITTEN_FOR,
)
"""Only in builds with CUDA."""
FUSED_DEVICES = PrivateName(
    "torch",
    "torch.optim.optimizer",
    "_get_fused_kernels_supported_devices",
    "lets fused AdamW run on meta tensors; without it no memory can be predicted",
    _WRITTEN_FOR,
)
SCALE = PrivateName(
    "torch",
    "torch.amp",
    "GradScaler._lazy_init_scale_growth_tracker",
    "makes the two tensors of a GradScaler (`_scale`, `_growth_tracker`); without them the prediction misses them",
    _WRITTEN_FOR,
)
DISPATCH_MODE = PrivateName(
    "torch",
    "torch.utils._python_dispatch",
    "TorchDispatchMode",
    "shows the memory tracker every operator; without it no memory can be predicted",
    _WRITTEN_FOR,
)
FAKE_TENSOR_MODE = PrivateName(
    "torch",
    "torch._subclasses.fake_tensor",
    "FakeTensorMode",
    "is the reference for benchmarks.prediction and the test of autocast on meta tensors",
    _WRITTEN_FOR,
)
MEM_TRACKER = PrivateName(
    "torch",
    "torch.distributed._tools.mem_tracker",
    "MemTracker",
    "is the reference for benchmarks.prediction",
    _WRITTEN_FOR,
)
ALLOCATOR_SETTINGS = PrivateName(
    "torch",
    "torch._C",
    "_accelerator_setAllocatorSettings",
    "changes the allocator's settings after it has started; without it a driver that refuses expandable segments, "
    "or code that used CUDA before, cannot be made up for",
    _WRITTEN_FOR,
)
STORAGE_USES = PrivateName(
    "torch",
    "torch._C",
    "_storage_Use_Count",
    "tells the memory tracker which gradients PyTorch adds up in place; without it no memory can be predicted",
    _WRITTEN_FOR,
)
RECORD_HISTORY = PrivateName(
    "torch",
    "torch.cuda.memory",
    "_record_memory_history",
    "records what the allocator does, event by event, for benchmarks.gpu_session; without it there are no traces",
    _WRITTEN_FOR,
)
SNAPSHOT = PrivateName(
    "torch",
    "torch.cuda.memory",
    "_snapshot",
    "gives what the allocator did, event by event, for benchmarks.gpu_session; without it there are no traces",
    _WRITTEN_FOR,
)
NAMES = (
    *(CLEAR_WORKSPACES, FUSED_DEVICES, SCALE, DISPATCH_MODE, FAKE_TENSOR_MODE, MEM_TRACKER),
    *(ALLOCATOR_SETTINGS, RECORD_HISTORY, SNAPSHOT, STORAGE_USES),
)


def __getattr__(name: str) -> Any:
    """`TorchDispatchMode`, a base class, when its module is imported."""
    if name == DISPATCH_MODE.name:
        return DISPATCH_MODE.get()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def shares_storage(tensor: Tensor) -> bool:
    """Whether another tensor uses the storage of this one."""
    storage = tensor.untyped_storage()  # counts as a use itself
    return bool(STORAGE_USES.get()(storage._cdata) > 2)


def clear_workspaces() -> None:
    """Returns the workspaces of cuBLAS on all devices to the allocator."""
    CLEAR_WORKSPACES.get()()


def set_allocator_settings(settings: str) -> None:
    """Gives a running allocator other settings, in the form of ``PYTORCH_ALLOC_CONF``."""
    ALLOCATOR_SETTINGS.get()(settings)


@contextmanager
def fused_optimizer_on_meta() -> Iterator[None]:
    """Lets fused AdamW run on meta tensors: its kernel supports them, only torch's list of devices omits them."""
    supported = [*FUSED_DEVICES.get()(), "meta"]
    # A new list per call, since torch removes devices from it.
    with replaced(import_module(FUSED_DEVICES.module), FUSED_DEVICES.name, lambda: [*supported]):
        yield


def scaler_tensors(scaler: torch.amp.GradScaler) -> Iterator[Tensor]:
    """The scale and the counter of an enabled scaler, once it has scaled something."""
    SCALE.get()
    yield from (value for value in (scaler._scale, scaler._growth_tracker) if value is not None)


@contextmanager
def allocator_events(device_index: int, most: int = 1_000_000) -> Iterator[list[dict[str, Any]]]:
    """What a card's allocator does in the block, filled in at its end: ``action``, ``addr`` and ``size`` (bytes) of
    the last `most` events. Nothing is recorded after the block, whatever ends it."""
    events: list[dict[str, Any]] = []
    RECORD_HISTORY.get()(context=None, max_entries=most)
    try:
        yield events
        events += SNAPSHOT.get()()["device_traces"][device_index]
    finally:
        RECORD_HISTORY.get()(enabled=None)
