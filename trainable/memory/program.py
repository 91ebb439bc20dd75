"""What a traced pass allocates and frees, in order, with sizes that are known for every batch.

A pass is traced once, at sizes no real batch has: the number of clips, of patches and so on are primes above every
width a model may have (`SIZES`). The bytes of an allocation that is divisible by such a prime are proportional to that
size, and nothing else is, so one trace tells what the pass allocates for every batch size and number of patches. A
second trace at other primes verifies it (`verify`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

CONSTANT = "constant"


class NotProportional(Exception):
    """The allocations of a pass are not proportional to the sizes it was traced at: trace at the real ones."""


@dataclass(frozen=True)
class Allocation:
    """One storage of a trace."""

    size_bytes: int
    label: str
    """Whose it is: a part of `breakdown`."""


@dataclass(frozen=True)
class Peak:
    """The moment of a pass at which most bytes are allocated."""

    allocated_bytes: int
    """Sum of all blocks, each rounded as the allocator rounds it."""
    parts: Mapping[str, int]
    """Bytes by label; their sum is `allocated_bytes`."""
    largest_bytes: int
    """The largest single block of the whole pass."""


class Program:
    """The allocations of a pass as functions of sizes such as clips and patches.

    Parameters
    ----------
    allocations
        Storages in the order in which they were made.
    order
        ``i`` where storage i is made, ``~i`` where it is freed.
    probe
        Size name → value at which the pass was traced, the most specific (products) first.
    """

    def __init__(self, allocations: list[Allocation], order: list[int], probe: Mapping[str, int]):
        self.names = (*probe, CONSTANT)
        self.labels = tuple(sorted({allocation.label for allocation in allocations}))
        codes = {label: code for code, label in enumerate(self.labels)}
        self._label: Ints = np.array([codes[allocation.label] for allocation in allocations], dtype=np.int64)
        factors, sizes = [], []
        for allocation in allocations:
            name, factor = _proportional_to(allocation.size_bytes, probe)
            sizes.append(self.names.index(name))
            factors.append(factor)
        self._size: Ints = np.array(sizes, dtype=np.int64)
        self._factor: Ints = np.array(factors, dtype=np.int64)
        steps = np.array(order, dtype=np.int64)
        made = steps >= 0
        self._storage: Ints = np.where(made, steps, ~steps)
        self._sign: Ints = np.where(made, 1, -1)
        self._begin: Ints = np.full(len(allocations), len(steps), dtype=np.int64)
        self._end: Ints = np.full(len(allocations), len(steps), dtype=np.int64)
        self._begin[self._storage[made]] = np.flatnonzero(made)
        self._end[self._storage[~made]] = np.flatnonzero(~made)

    def __len__(self) -> int:
        return len(self._storage)

    def blocks(self, sizes: Mapping[str, int], round_to: int, scales: Mapping[str, float] | None = None) -> Ints:
        """Bytes of every storage at the given sizes, rounded up to the allocator's unit."""
        values = np.array([sizes[name] for name in self.names[:-1]] + [1], dtype=np.int64)
        raw = self._factor * values[self._size]
        for label, scale in (scales or {}).items():
            if label in self.labels:
                mine = self._label == self.labels.index(label)
                raw = np.where(mine, np.ceil(raw * scale).astype(np.int64), raw)
        return -(-raw // round_to) * round_to

    def peak(self, sizes: Mapping[str, int], *, round_to: int = 512, scales: Mapping[str, float] | None = None) -> Peak:
        """The largest sum of live blocks at the given sizes.

        Parameters
        ----------
        sizes
            A value for each name of the probe.
        round_to
            Bytes to a multiple of which every block is rounded up.
        scales
            Factors on the bytes of some labels, such as a workspace of which a profile knows the share.
        """
        blocks = self.blocks(sizes, round_to, scales)
        live = np.cumsum(blocks[self._storage] * self._sign)
        moment = int(np.argmax(live))
        alive = (self._begin <= moment) & (self._end > moment)
        by_label = np.zeros(len(self.labels), dtype=np.int64)
        np.add.at(by_label, self._label[alive], blocks[alive])
        parts = {label: int(size) for label, size in zip(self.labels, by_label, strict=True) if size}
        return Peak(int(live[moment]), parts, int(blocks.max()))

    def requests(self, sizes: Mapping[str, int], *, scales: Mapping[str, float] | None = None) -> list[tuple[int, int]]:
        """(storage, bytes) in order, bytes 0 where the storage is freed: what an allocator is asked for."""
        blocks = self.blocks(sizes, 1, scales)
        return [
            (int(storage), int(blocks[storage]) if sign > 0 else 0)
            for storage, sign in zip(self._storage, self._sign, strict=True)
        ]

    def same_as(self, other: "Program") -> bool:
        """Whether two traces at different sizes told the same story."""
        mine = (self._storage, self._sign, self._size, self._factor, self._label)
        theirs = (other._storage, other._sign, other._size, other._factor, other._label)
        return self.labels == other.labels and all(
            one.shape == another.shape and bool((one == another).all())
            for one, another in zip(mine, theirs, strict=True)
        )


def _proportional_to(size_bytes: int, probe: Mapping[str, int]) -> tuple[str, int]:
    """The first size of the probe that divides the bytes, and the bytes for one of it."""
    if size_bytes:
        for name, value in probe.items():
            if size_bytes % value == 0:
                return name, size_bytes // value
    return CONSTANT, size_bytes
