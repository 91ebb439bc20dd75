"""Loads CUDA's libraries before training, so that what they hold can be measured and counted from the start."""

from contextlib import nullcontext

import torch
from torch.nn import functional as F

from trainable.device._torch_private import clear_workspaces
from trainable.device.autocast import AMP_DTYPES
from trainable.execution_plan import Precision


def touch_libraries(device: torch.device, precision: Precision) -> None:
    """Makes the context, cuBLAS and cuDNN on a card, in float32 and in a mixed precision, and frees what it allocated.

    A product and two convolutions (one depthwise, as in the model) forward and backward: about 20 MiB for a moment,
    with cuBLAS's workspaces. Draws no random numbers.

    Parameters
    ----------
    precision
        The mixed precision of later plans. Not touched where the card has no bfloat16, or if it is float32.
    """
    _train_a_moment(device, None)
    dtype = AMP_DTYPES.get(precision)
    if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        dtype = None
    if dtype is not None:
        _train_a_moment(device, dtype)
    torch.cuda.synchronize(device)
    clear_workspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)


def _train_a_moment(device: torch.device, dtype: torch.dtype | None) -> None:
    images = torch.ones(8, 32, 32, 32, device=device, requires_grad=True)
    pointwise = torch.ones(64, 32, 1, 1, device=device, requires_grad=True)
    depthwise = torch.ones(64, 1, 3, 3, device=device, requires_grad=True)
    square = torch.ones(64, 64, device=device, requires_grad=True)
    with nullcontext() if dtype is None else torch.autocast("cuda", dtype=dtype):
        wide = F.conv2d(images, pointwise)
        deep = F.conv2d(wide, depthwise, padding=1, groups=64)
        product = deep.mean(dim=(2, 3)) @ square
    product.float().sum().backward()
