"""Tensors that are read back: what `trainable.typed.build` accepts in place of numbers."""

from typing import Annotated

import torch
from torch import Tensor


class AllFinite:
    """Holds a tensor without NaN and infinities; one on the meta device has no values."""

    def holds(self, value: Tensor) -> bool:
        return value.is_meta or bool(torch.isfinite(value).all())

    def __str__(self) -> str:
        return "finite throughout"


FiniteTensor = Annotated[Tensor, AllFinite()]
