"""Validation and held-out halves of the labelled test clips: once, by a hash of each recording's name."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

_SUFFIX = re.compile(r"\.[0-9A-Za-z]{1,5}$")
_HASHED_SUFFIX = ".wav"
"""Hashed after every recording's name, whatever its file is: converted recordings keep their half."""


def recording_of(name: str) -> str:
    """A file's name without its suffix: the same recording in every format."""
    return _SUFFIX.sub("", name)


def validation_mask(
    names: Sequence[str],
    machine_ids: Sequence[str],
    labels: Sequence[int],
    share: float,
    *,
    groups: Sequence[str] = (),
    domains: Sequence[str] = (),
    by_file: bool = False,
) -> np.ndarray:
    """Which clips are validation (True) and which held out (False), bool (n,).

    Within each machine id, label and domain the recordings are ordered by the SHA-256 of their names. The first `share`
    of their clips (at least one recording, and all but one at most where there are two) is validation. The order
    depends on names alone, so neither the order of files nor other clips' features can move a clip.

    Parameters
    ----------
    groups
        Per clip, what it and others were cut from: a group is one recording. Empty = the clip's own name.
    domains
        Per clip; none = one domain.
    by_file
        Order files by their names with suffixes, as runs did before recordings were told from files.
    """
    if by_file:
        keys = list(names)
    else:
        given = groups or [""] * len(names)
        keys = [(group or recording_of(name)) + _HASHED_SUFFIX for name, group in zip(names, given, strict=True)]
    strata: dict[tuple[str, int, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, (key, machine_id, label) in enumerate(zip(keys, machine_ids, labels, strict=True)):
        strata[machine_id, label, domains[index] if domains else ""][key].append(index)
    side: dict[str, bool] = {}
    for stratum in sorted(strata):
        _share_out(strata[stratum], share, side)
    return np.array([side[key] for key in keys], dtype=bool)


def _share_out(members: dict[str, list[int]], share: float, side: dict[str, bool]) -> None:
    """Decides the side of each recording of a stratum that an earlier stratum has not decided."""
    clips = sum(map(len, members.values()))
    wanted = min(max(round(share * clips), 1), max(clips - 1, 1))
    taken = sum(len(indices) for key, indices in members.items() if side.get(key))
    for key in sorted(members.keys() - side.keys(), key=_order):
        size = len(members[key])
        side[key] = taken == 0 or (abs(taken + size - wanted) <= abs(taken - wanted) and taken < wanted)
        taken += size * side[key]


def _order(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
