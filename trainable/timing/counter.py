"""Counts the work of a computation on meta tensors, as a formula of the sizes it was run at.

Run at prime sizes, each number of elements and of operations shows by its factors which sizes it is a product of: one
run then tells the work at all sizes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from trainable.device._torch_private import TorchDispatchMode
from trainable.memory.metadata import run_on_meta

_aten = torch.ops.aten


@dataclass(frozen=True)
class Work:
    """What a computation asks of a device."""

    flops: float = 0.0
    """Floating-point operations of matrix products and convolutions; a multiplication and its addition are two."""
    moved_bytes: float = 0.0
    """Inputs that operators read and outputs that they write."""
    launches: float = 0.0
    """Operators that start a kernel: all but views and allocations."""

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.moved_bytes + other.moved_bytes, self.launches + other.launches)

    def __mul__(self, times: float) -> "Work":
        return Work(self.flops * times, self.moved_bytes * times, self.launches * times)


Powers = tuple[int, ...]
"""Exponent of each size in a product."""


@dataclass(frozen=True)
class Formula:
    """Work as a sum of products of sizes, and a number of launches, which depends on none."""

    names: tuple[str, ...]
    terms: Mapping[Powers, Work]

    def at(self, sizes: Mapping[str, int]) -> Work:
        """The work at some sizes; KeyError if one is missing."""
        total = Work()
        for powers, work in self.terms.items():
            product = 1
            for name, power in zip(self.names, powers, strict=True):
                product *= sizes[name] ** power
            total += work * product
        return total

    @property
    def launches(self) -> float:
        """Launches, at any sizes."""
        return sum(work.launches for work in self.terms.values())

    def less(self, other: "Formula") -> "Formula":
        """The difference of two formulas of the same sizes."""
        every = {**self.terms, **other.terms}
        none = Work()
        terms = {powers: self.terms.get(powers, none) + other.terms.get(powers, none) * -1 for powers in every}
        return Formula(self.names, terms)


class WorkCounter(TorchDispatchMode):
    """Counts what runs on meta tensors while it is active; a copy to the host copies nothing.

    Parameters
    ----------
    primes
        Sizes that the computation is run at, by name: distinct primes that divide no other number in it. Without any
        the formula has a constant term alone, the work at the sizes of this run.
    """

    def __init__(self, primes: Mapping[str, int]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._primes = dict(primes)
        self._constant = (0,) * len(primes)
        self._terms: defaultdict[Powers, Work] = defaultdict(Work)
        self._factored: dict[int, tuple[Powers, int]] = {}

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    @property
    def formula(self) -> Formula:
        """What was counted so far."""
        return Formula(tuple(self._primes), dict(self._terms))

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is _aten._to_copy.default and args[0].is_meta and kwargs.get("device") == torch.device("cpu"):
            return torch.empty(0, dtype=kwargs.get("dtype") or args[0].dtype)
        inputs = [*_meta_tensors(args), *_meta_tensors(kwargs.values())]
        result = run_on_meta(func, args, kwargs)
        outputs = list(_meta_tensors((result,)))
        if _launches(func, inputs, outputs):
            self._terms[self._constant] += Work(launches=1)
            for tensor in (*inputs, *outputs):
                self._add(tensor.numel(), Work(moved_bytes=tensor.element_size()))
            self._add(flops_of(func, args, outputs), Work(flops=1))
        return result

    def _add(self, amount: int, each: Work) -> None:
        """Adds work for an amount of elements or operations, as a product of sizes and a number."""
        if amount:
            powers, number = self._factors(amount)
            self._terms[powers] += each * number

    def _factors(self, amount: int) -> tuple[Powers, int]:
        if amount not in self._factored:
            powers, rest = [], amount
            for prime in self._primes.values():
                power = 0
                while rest % prime == 0:
                    rest, power = rest // prime, power + 1
                powers.append(power)
            self._factored[amount] = tuple(powers), rest
        return self._factored[amount]


def flops_of(func: Callable[..., Any], args: tuple[Any, ...], outputs: list[Tensor]) -> int:
    """Operations of a matrix product or convolution, forward or backward; 0 for any other operator.

    The same numbers as those of torch's `FlopCounterMode`, which sees no operator whose result is known already.
    """
    if func in (_aten.mm.default, _aten.bmm.default):
        return 2 * outputs[0].numel() * int(args[0].shape[-1])
    if func in (_aten.addmm.default, _aten.baddbmm.default):
        return 2 * outputs[0].numel() * int(args[1].shape[-1])
    if func is _aten.convolution.default:
        return _convolution_flops(args[0], args[1], outputs[0], transposed=args[6])
    if func is _aten.convolution_backward.default:
        gradients = sum(args[10][:2])  # of the input and of the weights
        return gradients * _convolution_flops(args[1], args[2], args[0], transposed=args[7])
    return 0


def _convolution_flops(image: Tensor, weights: Tensor, result: Tensor, *, transposed: bool) -> int:
    """Every element of the result (of the image, where transposed) meets the weights of one output channel."""
    positions = (image if transposed else result).numel()
    return 2 * positions * (weights.numel() // weights.shape[0])


def _launches(func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether an operator starts a kernel; a profiler's marks have no tensors."""
    return bool(inputs or outputs) and not func.is_view and func.overloadpacket not in _WITHOUT_KERNEL


_WITHOUT_KERNEL = frozenset(
    {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided, _aten._unsafe_view}
)


def _meta_tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            if value.is_meta:
                yield value
        elif isinstance(value, list | tuple):
            yield from _meta_tensors(value)
