"""Which normal training clips are held back from training and density: blocks of each machine id's recording order.

Neighbours in time sound alike. Clips drawn at random would leave each of them between two neighbours that training has
seen, and would sound more normal than a recording of another day does.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

SHARE = 0.2
"""Of each machine id's normal training clips."""
BLOCKS = 2
"""Stretches of the recording order, evenly spaced: one alone might hold an hour that is unlike all others."""
FEWEST = 2
"""Clips of an id: fewer rank nothing."""
FEW = 8
"""Held-back clips of a machine id below which its pseudo-AUC is rough: each is more than an eighth of it."""


def held_back_mask(machine_ids: Sequence[str]) -> np.ndarray:
    """Which clips are held back, bool (n,), of clips in the order in which they were recorded.

    `SHARE` of each machine id's clips, at least `FEWEST`, as `BLOCKS` stretches in the middle of equal parts of its
    order. An id with fewer than 2 · `FEWEST` clips has none: training needs the others.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, machine_id in enumerate(machine_ids):
        members[machine_id].append(index)
    mask = np.zeros(len(machine_ids), dtype=bool)
    for indices in members.values():
        if len(indices) < 2 * FEWEST:
            continue
        count = max(FEWEST, round(SHARE * len(indices)))
        parts = np.array_split(np.array(indices), BLOCKS)
        for block, part in enumerate(parts):
            length = count // BLOCKS + (block < count % BLOCKS)
            begin = (len(part) - length) // 2
            mask[part[begin : begin + length]] = True
    return mask
