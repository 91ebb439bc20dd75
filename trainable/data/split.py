"""Validation and held-out halves of the labelled test clips: once, by a hash of each file's name."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np


def validation_mask(
    names: Sequence[str], machine_ids: Sequence[str], labels: Sequence[int], share: float
) -> np.ndarray:
    """Which clips are validation (True) and which held out (False), bool (n,).

    Within each machine id and label the clips are ordered by the SHA-256 of their names. The first `share` of them
    (at least one, and all but one at most where there are two) is validation. The order depends on names alone, so
    neither the order of files nor other clips' features can move a clip.
    """
    groups: dict[tuple[str, int], list[int]] = defaultdict(list)
    for index, (machine_id, label) in enumerate(zip(machine_ids, labels, strict=True)):
        groups[machine_id, label].append(index)
    mask = np.zeros(len(names), dtype=bool)
    for indices in groups.values():
        ordered = sorted(indices, key=lambda index: hashlib.sha256(names[index].encode()).digest())
        count = min(max(round(share * len(ordered)), 1), max(len(ordered) - 1, 1))
        mask[ordered[:count]] = True
    return mask
