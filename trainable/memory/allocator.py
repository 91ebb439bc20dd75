"""The rules by which PyTorch's CUDA allocator reserves memory for blocks, so that what it will reserve can be computed.

Follows ``CUDACachingAllocator.cpp`` of torch 2.11 … 2.13. Blocks up to 1 MiB and larger ones live in two pools. A block
goes to the smallest free block that holds it, at the lowest address; what it leaves stays free, neighbouring free
blocks merge. Only if none is large enough the pool grows. Memory is given back only when a cap is reached, so what a
pool has mapped is what a process without a cap holds at its end.
"""

from bisect import bisect_left, insort

from trainable.units import MIB

SMALL_BLOCK_BYTES = 1 * MIB
"""Blocks up to this size share a pool (``kSmallSize``)."""
SMALL_UNIT_BYTES = 2 * MIB
"""Unit in which its memory is mapped (``kSmallBuffer``)."""
LARGE_UNIT_BYTES = 20 * MIB
"""Unit of the other pool's (``kLargeBuffer``)."""
LARGE_REQUEST_BYTES = 10 * MIB
"""From this size on a request is rounded up to 2 MiB instead of that unit (``kMinLargeAlloc``)."""


class Pool:
    """A pool with expandable segments: one range of addresses, which grows by the units that are missing.

    `needed_bytes` is the smallest cap with which no request is refused. It is more than `mapped_bytes` where the last
    unit has free space that a request would use: the allocator compares the whole request with what is left below the
    cap before it maps anything.
    """

    least_split_bytes = 512
    """What a block leaves stays free if it is at least this much (``should_split``)."""

    def __init__(self, unit_bytes: int):
        self.unit_bytes = unit_bytes
        self.mapped_bytes = 0
        self.needed_bytes = 0
        self._taken: dict[int, int] = {}
        """Size of every block in use by its begin."""
        self._free: list[tuple[int, int]] = []
        """Size and begin of every free block, sorted: the best fit comes first."""
        self._ends: dict[int, int] = {}
        """Begin of a free block by its end."""
        self._sizes: dict[int, int] = {}
        """Size of a free block by its begin."""

    def allocate(self, size_bytes: int) -> int:
        """Takes a block (a multiple of 512 bytes) and returns its address."""
        found = self._best_fit(size_bytes)
        if found is None:
            before = self.mapped_bytes
            found = self._grown(size_bytes)
            self.needed_bytes = max(self.needed_bytes, self.mapped_bytes, before + request_bytes(size_bytes))
        begin, size = found
        if size - size_bytes >= self.least_split_bytes:
            self._add(begin + size_bytes, size - size_bytes)
            size = size_bytes
        self._taken[begin] = size
        return begin

    def free(self, begin: int) -> None:
        """Returns a block, which merges with its free neighbours."""
        end = begin + self._taken.pop(begin)
        before = self._ends.get(begin)
        if before is not None:
            self._remove(before, begin - before)
            begin = before
        after = self._sizes.get(end)
        if after is not None:
            self._remove(end, after)
            end += after
        self._add(begin, end - begin)

    def _best_fit(self, size_bytes: int) -> tuple[int, int] | None:
        """Begin and size of the free block to use, which is free no longer; None if all are too small."""
        place = bisect_left(self._free, (size_bytes, -1))
        if place == len(self._free):
            return None
        size, begin = self._free[place]
        # The last block counts as large as the range can grow, so any other that is large enough goes before it.
        if begin + size == self.mapped_bytes and place + 1 < len(self._free):
            size, begin = self._free[place + 1]
        self._remove(begin, size)
        return begin, size

    def _grown(self, size_bytes: int) -> tuple[int, int]:
        """Begin and size of the free space at the end once that holds a block."""
        begin = self._ends.get(self.mapped_bytes, self.mapped_bytes)
        if begin < self.mapped_bytes:
            self._remove(begin, self.mapped_bytes - begin)
        self.mapped_bytes = -(-(begin + size_bytes) // self.unit_bytes) * self.unit_bytes
        return begin, self.mapped_bytes - begin

    def _add(self, begin: int, size: int) -> None:
        insort(self._free, (size, begin))
        self._ends[begin + size] = begin
        self._sizes[begin] = size

    def _remove(self, begin: int, size: int) -> None:
        del self._free[bisect_left(self._free, (size, begin))]
        del self._ends[begin + size]
        del self._sizes[begin]


class FixedPool(Pool):
    """The pool of large blocks where the driver refuses expandable segments: segments of 20 MiB, or of one large block.

    Blocks of different segments never merge, and what a block leaves stays free only above 1 MiB.
    """

    least_split_bytes = SMALL_BLOCK_BYTES + 512

    def __init__(self) -> None:
        super().__init__(LARGE_UNIT_BYTES)
        self._next = 0

    def _best_fit(self, size_bytes: int) -> tuple[int, int] | None:
        place = bisect_left(self._free, (size_bytes, -1))
        if place == len(self._free):
            return None
        size, begin = self._free[place]
        self._remove(begin, size)
        return begin, size

    def _grown(self, size_bytes: int) -> tuple[int, int]:
        begin, size = self._next, request_bytes(size_bytes)
        self._next += size + self.unit_bytes  # a gap, so that segments have no neighbours
        self.mapped_bytes += size
        return begin, size


def request_bytes(size_bytes: int) -> int:
    """What a block that no free one holds is rounded up to (``get_allocation_size``)."""
    if size_bytes <= SMALL_BLOCK_BYTES:
        return SMALL_UNIT_BYTES
    if size_bytes < LARGE_REQUEST_BYTES:
        return LARGE_UNIT_BYTES
    return -(-size_bytes // SMALL_UNIT_BYTES) * SMALL_UNIT_BYTES
