"""What the allocator reserves over a whole training: the passes of a trial, one after another, under its own rules.

Only the order of the passes is made up here; blocks and their order come from the traces. A training is: weights and
codebook, training features, the start of the codebook, then twice a step (gradients and the optimizer's moments appear
in the first one) and a scoring pass. Later epochs repeat these and find their blocks in what is reserved already.
"""

import numpy as np

from trainable.memory.allocator import LARGE_UNIT_BYTES, SMALL_BLOCK_BYTES, SMALL_UNIT_BYTES, FixedPool, Pool
from trainable.memory.program import Ints, Timeline
from trainable.memory.tracker import CUBLAS

MADE_BY_STEPS = ("gradients", "optimizer")
"""Labels of what the first step does not find and leaves behind."""


class Replay:
    """A process' allocator, through one pass after another.

    Large blocks go through the allocator's rules one by one. Small ones (up to 1 MiB) are many and little: their
    pool is taken as their largest sum, rounded up to its unit, and one unit more for the gaps between them.

    Parameters
    ----------
    workspace_bytes
        Size of the workspace that cuBLAS takes for every thread that uses it.
    expandable
        Whether the driver allows expandable segments.
    """

    def __init__(self, workspace_bytes: int, *, expandable: bool = True) -> None:
        self._workspace_bytes = workspace_bytes
        self._threads: set[str] = set()
        self._pool = Pool(LARGE_UNIT_BYTES) if expandable else FixedPool()
        self._small_bytes, self._most_small_bytes = 0, 0
        self._left: list[int] = []
        """Addresses of large blocks that the last step left: gradients and losses."""
        self._left_small_bytes = 0

    @property
    def needed_bytes(self) -> int:
        """The smallest cap with which no request is refused; at least what is reserved without a cap."""
        small = -(-self._most_small_bytes // SMALL_UNIT_BYTES) + 1
        return self._pool.needed_bytes + small * SMALL_UNIT_BYTES

    def hold(self, sizes_bytes: Ints) -> None:
        """Takes blocks (bytes, rounded up) that stay."""
        for size_bytes in sizes_bytes.tolist():
            if size_bytes > SMALL_BLOCK_BYTES:
                self._pool.allocate(size_bytes)
            else:
                self._small_bytes += size_bytes

    def begin(self, step: Timeline) -> None:
        """Takes what exists before the first pass: weights, codebook and the sums of the losses."""
        labels = step.labels[: step.held]
        made = np.logical_or.reduce([labels == label for label in MADE_BY_STEPS])
        self.hold(step.blocks[: step.held][~made])

    def step(self, step: Timeline, *, first: bool) -> None:
        """A step. The first one finds no gradients, and its update makes the moments of the optimizer, which stay."""
        for block in self._left:
            self._pool.free(block)
        self._left_small_bytes = 0
        moments = step.blocks[: step.held][step.labels[: step.held] == "optimizer"]
        self._left, self._left_small_bytes = self._run(step, moments if first else None)

    def other(self, timeline: Timeline) -> None:
        """Any other pass, which leaves nothing behind."""
        left, _ = self._run(timeline)
        for block in left:
            self._pool.free(block)

    def _run(self, timeline: Timeline, moments: Ints | None = None) -> tuple[list[int], int]:
        """Runs a pass; returns the addresses of large blocks that it leaves, and the bytes of the small ones."""
        sizes, events = timeline.blocks, timeline.order[timeline.held :]
        blocks = np.where(events >= 0, events, ~events)
        own = blocks >= timeline.held
        before_update = int(own[: len(events) - timeline.update].sum())
        events, blocks = events[own], blocks[own]
        live: dict[int, int] = {}
        small_bytes = 0
        for part, makes in ((slice(before_update), None), (slice(before_update, None), moments)):
            if makes is not None:
                self.hold(makes)
            workspace = np.logical_or.reduce([timeline.labels[blocks[part]] == label for label in CUBLAS])
            small = (sizes[blocks[part]] <= SMALL_BLOCK_BYTES) & ~workspace
            sums: Ints = np.cumsum(np.where(events[part] >= 0, 1, -1)[small] * sizes[blocks[part][small]])
            most = self._small_bytes + self._left_small_bytes + small_bytes + int(sums.max(initial=0))
            self._most_small_bytes = max(self._most_small_bytes, most)
            small_bytes += int(sums[-1]) if len(sums) else 0
            for event in events[part][~small].tolist():
                if event < 0:
                    self._pool.free(live.pop(~event))
                elif (label := timeline.labels[event]) in CUBLAS:
                    self._hold_once(label)
                else:
                    live[event] = self._pool.allocate(int(sizes[event]))
        return list(live.values()), small_bytes

    def _hold_once(self, label: str) -> None:
        if label not in self._threads:
            self._threads.add(label)
            self._pool.allocate(self._workspace_bytes)
