"""The rules by which PyTorch's CUDA allocator reserves memory for blocks, so that what it will reserve can be computed.

Follows ``CUDACachingAllocator.cpp`` of torch 2.11 … 2.13 with expandable segments: blocks up to 1 MiB and larger ones
live in two pools. A pool is one range of addresses, mapped from its beginning in units of 2 or 20 MiB. A block goes to
the smallest free block that holds it, at the lowest address; what it leaves of it stays free, neighbouring free blocks
merge. Only if none is large enough the range grows, by the units that are missing. Memory is given back only when a
cap is reached, so the mapped bytes are what a process without a cap holds at its end.
"""

from bisect import bisect_left, insort

from trainable.units import MIB

SMALL_BLOCK_BYTES = 1 * MIB
"""Blocks up to this size share a pool (``kSmallSize``)."""
SMALL_UNIT_BYTES = 2 * MIB
"""Unit of its range (``kSmallBuffer``)."""
LARGE_UNIT_BYTES = 20 * MIB
"""Unit of the other pool's range (``kLargeBuffer``)."""
LARGE_REQUEST_BYTES = 10 * MIB
"""From this size on a request is not rounded up to a whole unit where the cap is checked (``kMinLargeAlloc``)."""


class Pool:
    """One pool's range of addresses."""

    def __init__(self, unit_bytes: int):
        self.unit_bytes = unit_bytes
        self.mapped_bytes = 0
        self._free: list[tuple[int, int]] = []
        """Size and begin of every free block, sorted: the best fit comes first."""
        self._ends: dict[int, int] = {}
        """Begin of a free block by its end."""
        self._sizes: dict[int, int] = {}
        """Size of a free block by its begin."""

    def allocate(self, size_bytes: int) -> int:
        """Takes a block and returns its address."""
        place = bisect_left(self._free, (size_bytes, -1))
        if place < len(self._free):
            size, begin = self._free[place]
            # The last block counts as large as the range can grow, so any other that is large enough goes before it.
            if begin + size == self.mapped_bytes and place + 1 < len(self._free):
                size, begin = self._free[place + 1]
            self._remove(begin, size)
        else:
            begin = self._ends.get(self.mapped_bytes, self.mapped_bytes)
            size = self.mapped_bytes - begin
            if size:
                self._remove(begin, size)
            units = -(-(begin + size_bytes) // self.unit_bytes)
            self.mapped_bytes = units * self.unit_bytes
            size = self.mapped_bytes - begin
        if size > size_bytes:
            self._add(begin + size_bytes, size - size_bytes)
        return begin

    def free(self, begin: int, size_bytes: int) -> None:
        """Returns a block, which merges with its free neighbours."""
        end = begin + size_bytes
        before = self._ends.get(begin)
        if before is not None:
            self._remove(before, begin - before)
            begin = before
        after = self._sizes.get(end)
        if after is not None:
            self._remove(end, after)
            end += after
        self._add(begin, end - begin)

    def _add(self, begin: int, size: int) -> None:
        insort(self._free, (size, begin))
        self._ends[begin + size] = begin
        self._sizes[begin] = size

    def _remove(self, begin: int, size: int) -> None:
        del self._free[bisect_left(self._free, (size, begin))]
        del self._ends[begin + size]
        del self._sizes[begin]


class Allocator:
    """Both pools, and how large a cap must be so that none of its requests is refused.

    `needed_bytes` is more than `reserved_bytes` where a request that the last unit would hold is counted as a whole
    unit: the allocator compares the request, rounded up, with what is left below the cap before it maps anything.
    """

    def __init__(self) -> None:
        self._small, self._large = Pool(SMALL_UNIT_BYTES), Pool(LARGE_UNIT_BYTES)
        self.needed_bytes = 0

    @property
    def reserved_bytes(self) -> int:
        return self._small.mapped_bytes + self._large.mapped_bytes

    def allocate(self, size_bytes: int) -> int:
        """Takes a block (a multiple of 512 bytes) and returns its address."""
        pool, before = self._pool(size_bytes), self.reserved_bytes
        address = pool.allocate(size_bytes)
        if self.reserved_bytes > before:
            self.needed_bytes = max(self.needed_bytes, self.reserved_bytes, before + request_bytes(size_bytes))
        return address

    def free(self, address: int, size_bytes: int) -> None:
        """Returns a block."""
        self._pool(size_bytes).free(address, size_bytes)

    def _pool(self, size_bytes: int) -> Pool:
        return self._small if size_bytes <= SMALL_BLOCK_BYTES else self._large


def request_bytes(size_bytes: int) -> int:
    """What the cap is compared with for a block that no free one holds (``get_allocation_size``)."""
    if size_bytes <= SMALL_BLOCK_BYTES:
        return SMALL_UNIT_BYTES
    if size_bytes < LARGE_REQUEST_BYTES:
        return LARGE_UNIT_BYTES
    return -(-size_bytes // SMALL_UNIT_BYTES) * SMALL_UNIT_BYTES
