"""Follows tensor storages through a computation: what allocated each, when, and when it was freed.

Works on meta tensors, which have sizes and no memory, and on real ones; a test runs the same step on both.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.module_tracker import ModuleTracker

from trainable.device._torch_private import TorchDispatchMode, shares_storage
from trainable.memory.metadata import run_on_meta
from trainable.memory.program import Allocation

CUBLAS = ("cuBLAS", "cuBLAS, backward")
"""Labels of cuBLAS's workspaces, of the main thread and of the one that runs backward passes: made by the thread's
first matrix product, and kept. A profile says how large one is; here it has one byte."""
WORKSPACE = "workspace"
"""Label of a library's workspace beside a convolution's tensors: their input and output bytes, to be scaled."""
SPLIT_SUMS = "split sums"
"""Label of the partial sums beside the gradient of a convolution's weights: the bytes of one, to be scaled."""
BACKWARD = "backward"
"""Label of gradients of activations and other temporaries of the backward pass."""
PATCHES = "patches"
"""Label of a micro-batch's input, and of what is made before the encoder."""

_MODULES = ModuleTracker()
"""Never entered; used to test whether a backward pass is running."""
_aten = torch.ops.aten
_PRODUCTS = frozenset({_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default})


class MemoryTracker(TorchDispatchMode):
    """Records every storage of one kind of device while it is active.

    Parameters
    ----------
    device_type
        Kind of device whose storages count.
    """

    def __init__(self, device_type: str):
        super().__init__()  # type: ignore[no-untyped-call]
        self.device_type = device_type
        self.allocations: list[Allocation] = []
        self.order: list[int] = []
        self.label = PATCHES
        """Label of storages that no module makes."""
        self._inside: list[str] = []
        self._live: dict[int, tuple[int, Any]] = {}
        self._was_backward = False
        self._products: set[str] = set()
        self._update: int | None = None
        self.marks: list[int] = []
        """Positions in `order` where `mark` was called."""
        self.after_backward: list[int] = []
        """Positions in `order` where a backward pass ended."""
        self.held = 0
        """How many storages existed before the tracker was entered."""

    def __enter__(self) -> Self:
        self.held = len(self.allocations)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        on_meta = self.device_type == "meta"
        if func is _aten.add.Tensor and _in_backward() and _adds_in_place(args):
            # PyTorch's engine does so itself, but not while a mode like this one watches it.
            func = _aten.add_.Tensor
        result = run_on_meta(func, args, kwargs or {}) if on_meta else func(*args, **(kwargs or {}))
        if func is _aten.mse_loss.default:
            self._squares(args, result)
        elif func is _aten.convolution.default:
            self._convolution(result, args[0], result, groups=args[8])
        elif func is _aten.convolution_backward.default:
            self._convolution(result[0], args[1], args[0], groups=args[9])
            self._convolution(result[1], args[1], args[0], groups=args[9], weights=args[2])
            self._convolution(result[2])
        elif isinstance(result, Tensor):
            self._see(result)
        elif isinstance(result, (tuple, list)):
            for item in result:
                if isinstance(item, Tensor):
                    self._see(item)
        if func in _PRODUCTS:
            self._product(args)
        return result

    def hold(self, tensors: Iterable[Tensor | None], label: str) -> None:
        """Counts tensors that exist already, or relabels them."""
        for tensor in tensors:
            if tensor is not None and tensor.device.type == self.device_type:
                known = self._live.get(id(tensor.untyped_storage()))
                if known is None:
                    self._see(tensor, label)
                else:
                    old = self.allocations[known[0]]
                    self.allocations[known[0]] = Allocation(old.size_bytes, label)

    def mark(self) -> None:
        """Marks the current position in the record."""
        self.marks.append(len(self.order))

    def mark_update(self) -> None:
        """Marks the current position as the one where the optimizer begins."""
        self._update = len(self.order)

    @property
    def since_update(self) -> int:
        """How many events were recorded since `mark_update`; 0 if it was not called."""
        return 0 if self._update is None else len(self.order) - self._update

    @contextmanager
    def watching(
        self,
        module: nn.Module,
        label: str,
        *,
        then: str | None = None,
        recomputing: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> Iterator[None]:
        """Labels what a module makes in its forward pass, and labels what follows it `then`.

        `recomputing` makes the context of a forward pass within the backward pass, which does not restore the original.
        """
        contexts: list[AbstractContextManager[Any]] = []

        def enter(*_: Any) -> None:
            self._inside.append(label)
            contexts.append(recomputing() if _in_backward() else nullcontext())
            contexts[-1].__enter__()

        def leave(*_: Any) -> None:
            self._inside.pop()
            contexts.pop().__exit__(None, None, None)
            if then is not None and not self._inside and not _in_backward():
                self.label = then

        handles = [
            module.register_forward_pre_hook(enter),
            # Recomputation stops a segment by an exception once it has what it needs; the hook must still run.
            module.register_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _current_label(self) -> str:
        backward = _in_backward()
        if self._was_backward and not backward:
            self.label = PATCHES  # the next micro-batch begins
            self.after_backward.append(len(self.order))
        self._was_backward = backward
        if self._inside:
            return self._inside[-1]
        return BACKWARD if backward else self.label

    def _squares(self, args: tuple[Any, ...], loss: Tensor) -> None:
        """PyTorch's kernel makes every square twice: once for the sum, and once in the storage of the loss itself,
        which it shrinks to a scalar without giving memory back (``Loss.cpp``). On meta tensors neither is made."""
        size_bytes = args[0].numel() * loss.element_size()
        self._see(loss, size_bytes=max(size_bytes, loss.untyped_storage().nbytes()))
        if loss.device.type == self.device_type and loss.dim() == 0:
            self._moment([(size_bytes, self._current_label())])

    def _see(self, tensor: Tensor, label: str | None = None, size_bytes: int | None = None) -> None:
        if tensor.device.type != self.device_type:
            return
        storage = tensor.untyped_storage()
        key = id(storage)  # PyTorch keeps one Python object per storage while the storage lives
        if key in self._live:
            return
        index = len(self.allocations)
        self.allocations.append(Allocation(size_bytes or storage.nbytes(), label or self._current_label()))
        self.order.append(index)
        live = self._live

        def freed(_: Any) -> None:
            live.pop(key, None)
            self.order.append(~index)

        self._live[key] = (index, weakref.ref(storage, freed))

    def _product(self, args: tuple[Any, ...]) -> None:
        label = CUBLAS[_in_backward()]
        if args[0].device.type == self.device_type and label not in self._products:
            self._products.add(label)
            self.order.append(len(self.allocations))
            self.allocations.append(Allocation(1, label))

    def _convolution(
        self, result: Tensor | None, *sides: Tensor, groups: int = 0, weights: Tensor | None = None
    ) -> None:
        """A result of a convolution and the temporary allocation beside it, as large as the convolution's input and
        output (`sides`); depthwise ones need none. A gradient of weights is summed up in parts beside these, each as
        large as the weights in float32."""
        if result is None:
            return
        self._see(result)
        if groups == 1 and result.device.type == self.device_type:
            moment = [(side.numel() * side.element_size(), WORKSPACE) for side in sides]
            if weights is not None:
                moment.append((weights.numel() * torch.float32.itemsize, SPLIT_SUMS))
            self._moment(moment)

    def _moment(self, storages: list[tuple[int, str]]) -> None:
        """Storages (bytes and label) in one block that a kernel makes for itself and frees before it ends."""
        indices = range(len(self.allocations), len(self.allocations) + len(storages))
        self.allocations += [
            Allocation(size_bytes, label, joined=index > 0) for index, (size_bytes, label) in enumerate(storages)
        ]
        self.order += [*indices, *(~index for index in indices)]

    def close(self) -> None:
        """Forgets live storages; later frees are not recorded."""
        self._live.clear()


def _adds_in_place(args: tuple[Any, ...]) -> bool:
    """Whether the engine adds a gradient to one it has without a third (``accumulate`` in ``input_buffer.cpp``): it
    does if nothing else uses the first one."""
    both = len(args) == 2 and all(isinstance(arg, Tensor) for arg in args)
    return both and args[0].shape == args[1].shape and args[0].is_contiguous() and not shares_storage(args[0])


def _in_backward() -> bool:
    return bool(_MODULES.is_bw)
