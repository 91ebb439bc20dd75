"""What all density models share: parameters by machine id, and how surprises of positions become one score."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import DetectorError, RecordingError

POOLED = "*"
"""Name of the only group of a model that was fitted to all machine ids together."""
Arrays = Mapping[str, np.ndarray]


class Density(ABC):
    """A model of normal codes: the higher its score, the more anomalous a clip.

    Parameters
    ----------
    entry
        What ``detector.json`` says of it: ``config``, names of its ``shared`` arrays, and those of each of its
        ``groups``, which are machine ids.
    arrays
        Every array of ``arrays.npz``.
    """

    def __init__(self, entry: Mapping[str, Any], arrays: Arrays):
        self.config = entry["config"]
        self.codebooks = int(entry["codebooks"])
        self.shared = _named(entry["shared"], arrays)
        self.groups = {group: _named(names, arrays) for group, names in entry["groups"].items()}
        self._prepared: dict[str, Any] = {}

    def group_of(self, machine_id: str) -> str:
        """The group that a machine's clips are compared with. Raises RecordingError if there is none."""
        group = machine_id if self.config["density_per_id"] else POOLED
        if group not in self.groups:
            raise RecordingError(
                f"machine id {machine_id} was not in training; the detector knows {', '.join(self.groups)}"
            )
        return group

    def prepared(self, group: str) -> Any:
        """What `prepare` made for a group, made at its first use."""
        if group not in self._prepared:
            self._prepared[group] = self.prepare(self.groups[group])
        return self._prepared[group]

    def prepare(self, group: Arrays) -> Any:
        """What depends on a group's parameters alone."""
        return group

    def absolute(self, relative: np.ndarray) -> np.ndarray:
        """Kept codes (…, M), which count from 0 in every codebook, as the network numbers them."""
        per_codebook = len(self.shared["embedding"]) // self.codebooks
        return relative.astype(np.int64) + np.arange(self.codebooks) * per_codebook

    @abstractmethod
    def score(self, codes_PHWM: np.ndarray, machine_id: str) -> float:
        """Score of one clip's codes."""


class PositionDensity(Density):
    """A density model that knows the surprise of each position of the code grid."""

    @abstractmethod
    def positions(self, codes_PHWM: np.ndarray, machine_id: str) -> np.ndarray:
        """Surprise of each position, float (P, H, W)."""

    def score(self, codes_PHWM: np.ndarray, machine_id: str) -> float:
        return aggregate(self.positions(codes_PHWM, machine_id), self.config)


def aggregate(surprise_PHW: np.ndarray, config: Mapping[str, Any]) -> float:
    """A clip's score from its positions: their mean, their largest, or the mean of the top share."""
    flat = surprise_PHW.ravel()
    if config["aggregation"] == "mean":
        return float(flat.mean(dtype=np.float64))
    if config["aggregation"] == "max":
        return float(flat.max())
    count = max(1, round(config["top_k_share"] * flat.size))
    return float(np.partition(flat, -count)[-count:].mean(dtype=np.float64))


def code_vectors(codes_nM: np.ndarray, table_KD: np.ndarray) -> np.ndarray:
    """Sum over the codebooks of what a table has for each code: (…, M) → (…, D)."""
    vectors_nD = table_KD[codes_nM[..., 0]]
    for stage in range(1, codes_nM.shape[-1]):
        vectors_nD += table_KD[codes_nM[..., stage]]
    return vectors_nD


def squared_distances(a_MD: np.ndarray, b_ND: np.ndarray, squares_N: np.ndarray) -> np.ndarray:
    """‖a − b‖² of all pairs (M, N), never negative, of what the squares ‖b‖² are known of."""
    squares_M = np.square(a_MD).sum(axis=1)
    return (squares_M[:, None] + squares_N - 2 * (a_MD @ b_ND.T)).clip(min=0)


def smallest(values_MN: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` smallest of each row, ascending, and their indices: two of (M, ≤ count)."""
    count = min(count, values_MN.shape[1])
    indices = np.argpartition(values_MN, count - 1, axis=1)[:, :count]
    found = np.take_along_axis(values_MN, indices, axis=1)
    order = np.argsort(found, axis=1)
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(indices, order, axis=1)


def symmetric(upper: np.ndarray) -> np.ndarray:
    """A symmetric matrix, float64, of its upper triangle row by row."""
    size = round((np.sqrt(8 * len(upper) + 1) - 1) / 2)
    if size * (size + 1) // 2 != len(upper):
        raise DetectorError(f"arrays.npz: {len(upper)} numbers are no triangle of a matrix; export the detector again")
    matrix = np.zeros((size, size))
    matrix[np.triu_indices(size)] = upper
    return matrix + np.triu(matrix, 1).T


def _named(names: Mapping[str, str], arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: arrays[key] for name, key in names.items()}
