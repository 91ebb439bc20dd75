"""Whether an error says that memory ran out; not all that do are `torch.OutOfMemoryError`."""

import re

import torch

_SIGNS = re.compile(
    r"out of memory"  # CUDA's own error (torch.AcceleratorError), HIP's, and the allocator's
    r"|CU(BLAS|DNN)_STATUS_\w*ALLOC\w*FAILED"
    r"|CUBLAS_STATUS_NOT_INITIALIZED.*cublasCreate"  # a handle needs memory outside the allocator
    r"|unable to find an engine to execute this computation"  # cuDNN: every engine's workspace was refused
    r"|DefaultCPUAllocator: (can't allocate|not enough) memory",
    re.IGNORECASE | re.DOTALL,
)
"""Messages of RuntimeErrors. cuDNN's can also mean that no engine exists for an operation; then smaller plans do not
help, and the trial ends with that message as the reason."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller plan may help against an error of a training step."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _SIGNS.search(str(error)) is not None
