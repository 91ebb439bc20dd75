"""CUDA's mixed precision on meta tensors, so that a step can be traced as the GPU will run it.

`torch.autocast` dispatches on a tensor's device and has no meta device. Fake CUDA tensors (`FakeTensorMode`) would
get the right casts, but on a build of PyTorch without CUDA their backward pass aborts the process ("PyTorch is not
linked with support for cuda devices", torch 2.13), and on a machine with a GPU they create a CUDA context in the
planning process. So the casts are made here, one level higher, from PyTorch's published list
(https://pytorch.org/docs/stable/amp.html, "Autocast Op Reference", CUDA). A test compares them, layer by layer, with
PyTorch's own on fake CUDA tensors in a forward pass, which works everywhere.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainable.execution_plan import Precision

AMP_DTYPES: Mapping[Precision, torch.dtype] = {"amp_bfloat16": torch.bfloat16, "amp_float16": torch.float16}
"""The lower type of each mixed precision."""
_LOWER: frozenset[Any] = frozenset(
    {torch.conv1d, torch.conv2d, torch.conv_transpose2d, F.linear, torch.addmm, torch.mm, torch.matmul, torch.bmm}
    | {Tensor.addmm, Tensor.mm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm}
)
"""Operators whose inputs are cast to the lower precision."""
_FLOAT32: frozenset[Any] = frozenset(
    # Overridable functions of torch.nn.functional hide the operator they call, so both are named.
    {torch.group_norm, F.group_norm, torch.layer_norm, F.layer_norm, F.mse_loss, F.nll_loss}
    | {torch.softmax, torch.log_softmax, F.softmax, F.log_softmax, F.cross_entropy, torch.norm, Tensor.norm}
    | {torch.sum, Tensor.sum, torch.prod, torch.cumsum, torch.exp, torch.log, torch.pow, Tensor.pow, F.normalize}
)
"""Operators whose inputs are cast to float32."""


class CudaAutocastOnMeta(TorchFunctionMode):
    """Casts the floating-point meta tensors that autocast would cast on CUDA.

    Parameters
    ----------
    dtype
        The lower precision, `torch.bfloat16` or `torch.float16`.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self._weights: dict[int, Tensor] = {}
        """Casts of parameters, kept while the region lasts, as autocast keeps them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        target = self.dtype if func in _LOWER else torch.float32 if func in _FLOAT32 else None
        if target is None:
            return func(*args, **kwargs)
        args = tuple(self._cast(arg, target) for arg in args)
        return func(*args, **{name: self._cast(value, target) for name, value in kwargs.items()})

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or value.device.type != "meta" or not value.is_floating_point():
            return value
        if value.dtype in (dtype, torch.float64):
            return value
        # Autocast caches only casts to the lower precision of float32 leaves that require a gradient.
        keeps = dtype == self.dtype and value.is_leaf and value.requires_grad and value.dtype == torch.float32
        if not keeps:
            return value.to(dtype)
        if id(value) not in self._weights:
            self._weights[id(value)] = value.to(dtype)
        return self._weights[id(value)]
