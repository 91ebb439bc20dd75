"""What a traced pass allocates and frees, in order, with sizes as functions of the batch's and the model's sizes.

A pass is traced once, at sizes no real batch has: the number of clips, of patches and so on are primes above every
width that a model may have, and codes, latent width and hidden width are other primes. A storage whose bytes are
divisible by such a prime is proportional to that size, any other is not, so one trace shows what the pass allocates
for every batch size, number of patches, codebook size and latent width. A second trace at other primes must agree
(`Program.same_as`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class NotProportionalError(Exception):
    """The allocations of a pass are not proportional to its sizes: it must be traced at the real ones."""


@dataclass(frozen=True)
class Allocation:
    """One storage of a trace."""

    size_bytes: int
    label: str
    """The part of the breakdown that it belongs to."""
    joined: bool = False
    """Whether it lies in one block with the storage before it: several terms of one size."""


@dataclass(frozen=True)
class Probe:
    """The sizes at which a pass is traced."""

    batch: Mapping[str, int]
    """Sizes of which a storage is proportional to at most one; products of others come first."""
    model: Mapping[str, int]
    """Sizes to each of which a storage may be proportional, once."""


@dataclass(frozen=True)
class Scale:
    """How large the blocks of a label are, in terms of the bytes that a trace recorded for them."""

    factor: float
    most_bytes: float = float("inf")


@dataclass(frozen=True)
class Peak:
    """The moment of a pass at which the most bytes are allocated."""

    allocated_bytes: int
    """Sum of all blocks, each rounded as the allocator rounds it."""
    parts: Mapping[str, int]
    """Bytes by label; their sum is `allocated_bytes`."""


@dataclass(frozen=True)
class Timeline:
    """The blocks of a pass at given sizes."""

    blocks: Ints
    """Bytes of every block, rounded up."""
    order: Ints
    """``i`` where block i is taken, ``~i`` where it is freed."""
    labels: NDArray[np.object_]
    """The part of the breakdown that every block belongs to."""
    held: int
    """How many blocks, the first in `order`, exist before the pass begins."""
    update: int
    """How many events from the end on the optimizer begins; 0 in a pass without an update of the weights."""


class Program:
    """The allocations of a pass as functions of its sizes.

    Parameters
    ----------
    allocations
        Storages in the order of allocation.
    order
        ``i`` where storage i is allocated, ``~i`` where it is freed.
    probe
        The sizes of the trace. Without it, the program holds for the traced sizes only.
    repeated
        Where in `order` the second micro-batch begins and ends; empty if there was only one.
    held
        How many storages, the first in `order`, exist before the pass begins.
    update
        How many events before the end of `order` the optimizer begins.
    """

    def __init__(
        self,
        allocations: Sequence[Allocation],
        order: Sequence[int],
        probe: Probe,
        repeated: tuple[int, int] = (0, 0),
        held: int = 0,
        update: int = 0,
    ):
        self.repeated = repeated
        self.held, self.update = held, update
        self._batch_names, self._model_names = tuple(probe.batch), tuple(probe.model)
        self.labels = tuple(sorted({allocation.label for allocation in allocations}))
        codes = {label: code for code, label in enumerate(self.labels)}
        self._label: Ints = np.array([codes[allocation.label] for allocation in allocations], dtype=np.int64)
        split = [_factors(allocation.size_bytes, probe) for allocation in allocations]
        self._factor: Ints = np.array([factor for factor, _, _ in split], dtype=np.int64)
        self._batch: Ints = np.array([index for _, index, _ in split], dtype=np.int64)
        self._model: Ints = np.array([powers for _, _, powers in split], dtype=np.int64).reshape(len(split), -1)
        self._leader: Ints = np.maximum.accumulate(
            [0 if allocation.joined else index for index, allocation in enumerate(allocations)], dtype=np.int64
        )
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

    def blocks(self, sizes: Mapping[str, int], round_to: int, scales: Mapping[str, Scale]) -> Ints:
        """Bytes of every storage at the given sizes, rounded up to the allocator's unit."""
        batch = np.array([*(sizes[name] for name in self._batch_names), 1], dtype=np.int64)
        raw: Ints = self._factor * batch[self._batch]
        for column, name in enumerate(self._model_names):
            raw = raw * np.where(self._model[:, column] == 1, sizes[name], 1)
        for label, scale in scales.items():
            if label in self.labels:
                mine = self._label == self.labels.index(label)
                raw = np.where(mine, np.minimum(np.ceil(raw * scale.factor), scale.most_bytes).astype(np.int64), raw)
        return np.asarray(-(-raw // round_to) * round_to)

    def peak(
        self,
        sizes: Mapping[str, int],
        *,
        whole: bool = False,
        round_to: int = 512,
        scales: Mapping[str, Scale] | None = None,
    ) -> Peak:
        """The largest sum of live blocks at the given sizes.

        Parameters
        ----------
        sizes
            A value for each name of the probe.
        whole
            The pass has one micro-batch: the second of the trace is left out.
        round_to
            Every block is rounded up to a multiple of this many bytes.
        scales
            Scales of some labels, such as a workspace whose share a profile gives.
        """
        blocks = self.blocks(sizes, round_to, scales or {})
        live = np.cumsum(blocks[self._storage] * self._sign)
        if whole:
            live[slice(*self.repeated)] = -1
        moment = int(np.argmax(live))
        alive = (self._begin <= moment) & (self._end > moment)
        by_label = np.zeros(len(self.labels), dtype=np.int64)
        np.add.at(by_label, self._label[alive], blocks[alive])
        parts = {label: int(size) for label, size in zip(self.labels, by_label, strict=True) if size}
        return Peak(int(live[moment]), parts)

    def timeline(
        self, sizes: Mapping[str, int], *, parts: int, round_to: int = 512, scales: Mapping[str, Scale] | None = None
    ) -> "Timeline":
        """The blocks of a pass of that many micro-batches (`parts`), in the order in which they are taken and freed."""
        apart = self.blocks(sizes, round_to, scales or {})
        blocks = np.bincount(self._leader, weights=apart, minlength=len(apart)).astype(np.int64)
        order = np.where(self._sign > 0, self._storage, ~self._storage)
        labels = np.array(self.labels, dtype=object)[self._label]
        repeats = max(1, parts - 1)
        return Timeline(
            np.tile(blocks, repeats),
            self._unrolled(blocks, order, parts),
            np.tile(labels, repeats),
            self.held,
            self.update,
        )

    def _unrolled(self, blocks: Ints, order: Ints, parts: int) -> Ints:
        """The order with the second micro-batch as often as there are others after the first.

        What a micro-batch leaves the next one frees: blocks of equal size take each other's place. Block i of repeat r
        is number ``i + r · len(blocks)``.
        """
        begin, end = self.repeated
        leads = self._leader[self._storage] == self._storage
        second = order[begin:end][leads[begin:end]].tolist()
        made = {event for event in second if event >= 0}
        freed = {~event for event in second if event < 0}
        left = [event for event in second if event >= 0 and event not in freed]
        heir: dict[int, int] = {}
        """By a block of the first micro-batch that the second one frees: the block that takes its place."""
        for block in (~event for event in second if event < 0 and ~event not in made):
            same = next((each for each in left if blocks[each] == blocks[block] and each not in heir.values()), None)
            heir[block] = -1 if same is None else same
        now = {block: block for block in heir}
        unrolled: list[int] = []
        for repeat in range(parts - 1):
            shift = repeat * len(blocks)
            for event in second:
                block = event if event >= 0 else ~event
                if block in made:
                    unrolled.append(event + shift if event >= 0 else ~(block + shift))
                elif block in now:
                    unrolled.append(~now.pop(block))
            now = {block: same + shift for block, same in heir.items() if same >= 0}
        if parts == 1:
            unrolled = [~block for block, same in heir.items() if same < 0]
        last = {same: now[block] for block, same in heir.items() if same >= 0}
        later: list[int] = []
        for event in order[end:][leads[end:]].tolist():
            block = event if event >= 0 else ~event
            if block not in made:
                later.append(event)
            elif block in last:
                later.append(~last[block])
            elif parts > 1:
                later.append(~(block + (parts - 2) * len(blocks)))
        return np.array([*order[:begin][leads[:begin]].tolist(), *unrolled, *later], dtype=np.int64)

    def same_as(self, other: "Program") -> bool:
        """Whether two traces at different sizes agree."""
        mine = (self._storage, self._sign, self._factor, self._batch, self._model, self._label)
        theirs = (other._storage, other._sign, other._factor, other._batch, other._model, other._label)
        return (self.labels, self.repeated) == (other.labels, other.repeated) and all(
            one.shape == another.shape and bool((one == another).all())
            for one, another in zip(mine, theirs, strict=True)
        )


def _factors(size_bytes: int, probe: Probe) -> tuple[int, int, list[int]]:
    """The constant factor of some bytes, the index of their batch size, and which model sizes divide them."""
    factor, index, powers = size_bytes, len(probe.batch), [0] * len(probe.model)
    if not size_bytes:
        return factor, index, powers
    for candidate, value in enumerate(probe.batch.values()):
        if value > 1 and factor % value == 0:
            factor, index = factor // value, candidate
            break
    for column, value in enumerate(probe.model.values()):
        if factor % value == 0:
            factor, powers[column] = factor // value, 1
    return factor, index, powers
