"""Nearest-neighbour models: how far a clip's codes lie from those of the nearest normal clips.

A distance is divided by the radius of the neighbour that it leads to.
"""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from .density import Arrays, Density, PositionDensity, code_vectors, smallest, squared_distances

NEIGHBOURS = 4
"""Nearest neighbours that are averaged."""


@dataclass(frozen=True)
class Known:
    """What a clip is compared with."""

    vectors: np.ndarray
    """float32 (N, …)."""
    squares: np.ndarray
    """Squared length of each vector."""
    codes: np.ndarray
    """int64 (N, …, M); empty where positions are not asked for."""
    radii_N: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, codes: np.ndarray, radii_N: np.ndarray) -> "Known":
        return cls(vectors, np.square(vectors).sum(axis=-1), codes, radii_N)

    def nearest(self, distances_MN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The smallest distances in radii, and the neighbours they lead to: two of (M, ≤ NEIGHBOURS)."""
        return smallest(distances_MN / self.radii_N, NEIGHBOURS)


class HistogramNeighbours(Density):
    """Hellinger distance between code histograms per frequency row, each code shared with codes nearby."""

    def prepare(self, group: Arrays) -> Known:
        return Known.of(group["histograms"], np.empty(0, np.int64), group["radii"])

    def score(self, codes_PHWM: np.ndarray, machine_id: str) -> float:
        known: Known = self.prepared(self.group_of(machine_id))
        distances = squared_distances(self._histogram(codes_PHWM)[None], known.vectors, known.squares)
        return float(known.nearest(distances)[0].mean(dtype=np.float64))

    def _histogram(self, codes_PHWM: np.ndarray) -> np.ndarray:
        """Square roots of the shared histograms of all codebooks and rows, float32 (M · H · L,)."""
        roots = []
        for stage, kernel_KL in enumerate(self.shared["kernel"]):
            codes_PHW = codes_PHWM[..., stage] - stage * len(kernel_KL)
            for row in range(codes_PHW.shape[1]):
                counts_K = np.bincount(codes_PHW[:, row].ravel(), minlength=len(kernel_KL)).astype(np.float32)
                roots.append(np.sqrt(counts_K @ kernel_KL / np.float32(codes_PHW[:, row].size)))
        return np.concatenate(roots)


class _Neighbours(PositionDensity):
    """What the two densities below share: training codes, of which the nearest give a clip its score."""

    stored: str
    """Which of a group's arrays holds the training codes."""

    def prepare(self, group: Arrays) -> Known:
        codes = self.absolute(group[self.stored])
        return Known.of(self._flat(codes), codes, group["radii"])

    def score(self, codes_PHWM: np.ndarray, machine_id: str) -> float:
        if self.config["aggregation"] != "mean":
            return super().score(codes_PHWM, machine_id)
        distances, _ = self._nearest(self.prepared(self.group_of(machine_id)), codes_PHWM)
        return float(distances.mean(dtype=np.float64))

    @abstractmethod
    def _nearest(self, known: Known, codes_PHWM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances to the nearest training codes, and which they are."""

    @abstractmethod
    def _flat(self, codes: np.ndarray) -> np.ndarray:
        """One vector of code vectors for each of what is compared."""


class GridNeighbours(_Neighbours):
    """The nearest training patches, compared position by position by the distance between code vectors."""

    stored = "patches"

    def positions(self, codes_PHWM: np.ndarray, machine_id: str) -> np.ndarray:
        known: Known = self.prepared(self.group_of(machine_id))
        _, nearest_PN = self._nearest(known, codes_PHWM)
        asked = code_vectors(codes_PHWM, self.shared["embedding"])
        total = np.zeros(codes_PHWM.shape[:-1], np.float32)
        for neighbour_P in nearest_PN.T:
            found = code_vectors(known.codes[neighbour_P], self.shared["embedding"])
            total += np.square(asked - found).sum(axis=-1) / known.radii_N[neighbour_P, None, None]
        return total / nearest_PN.shape[1]

    def _nearest(self, known: Known, codes_PHWM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return known.nearest(squared_distances(self._flat(codes_PHWM), known.vectors, known.squares))

    def _flat(self, codes_XHWM: np.ndarray) -> np.ndarray:
        """(X, H · W · D); ‖a − b‖² of two is the mean over positions of their vectors' squared distance."""
        return _scaled_vectors(codes_XHWM, self.shared["embedding"]).reshape(len(codes_XHWM), -1)


class ShiftedNeighbours(_Neighbours):
    """The nearest training clips, compared patch by patch, where a patch may lie up to an eighth of a clip elsewhere.

    The distance of two clips is the larger of both directions: each patch of one to its nearest in the other.
    """

    stored = "clips"

    def positions(self, codes_PHWM: np.ndarray, machine_id: str) -> np.ndarray:
        known: Known = self.prepared(self.group_of(machine_id))
        distances_1N, nearest_1N = self._nearest(known, codes_PHWM)
        total = np.zeros(codes_PHWM.shape[:-1], np.float32)
        for distance, neighbour in zip(distances_1N[0], nearest_1N[0], strict=True):
            matched = self._matched(codes_PHWM, known.codes[neighbour]) / known.radii_N[neighbour]
            # What the other clip has and this one lacks lies at no position of this one: all positions share it.
            total += matched + (distance - matched.mean())
        return total / nearest_1N.shape[1]

    def _nearest(self, known: Known, codes_PHWM: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked = self._flat(codes_PHWM[None])[0]
        squares_P = np.square(asked).sum(axis=1)
        n_clips, n_patches = known.squares.shape
        there, back = np.full((n_patches, n_clips), np.inf), np.full((n_patches, n_clips), np.inf)
        for mine, other in _shifts(n_patches):
            products = np.einsum("pf,npf->pn", asked[mine], known.vectors[:, other], optimize=True)
            distances = squares_P[mine, None] + known.squares[:, other].T - 2 * products
            there[mine] = np.minimum(there[mine], distances)
            back[other] = np.minimum(back[other], distances)
        larger_N = np.maximum(there.mean(axis=0), back.mean(axis=0)).clip(min=0)
        return known.nearest(larger_N[None])

    def _matched(self, codes_PHWM: np.ndarray, known_PHWM: np.ndarray) -> np.ndarray:
        """Squared distance at each position of each patch to the patch of the other clip that it is nearest to."""
        asked, known = (code_vectors(codes, self.shared["embedding"]) for codes in (codes_PHWM, known_PHWM))
        best_P = np.full(len(asked), np.inf)
        result = np.empty(codes_PHWM.shape[:-1], np.float32)
        for mine, other in _shifts(len(asked)):
            squares_PHW = np.square(asked[mine] - known[other]).sum(axis=-1)
            means_P = squares_PHW.mean(axis=(1, 2))
            better_P = means_P < best_P[mine]
            result[mine] = np.where(better_P[:, None, None], squares_PHW, result[mine])
            best_P[mine] = np.minimum(best_P[mine], means_P)
        return result

    def _flat(self, codes_BPHWM: np.ndarray) -> np.ndarray:
        """(B, P, H · W · D)"""
        return _scaled_vectors(codes_BPHWM, self.shared["embedding"]).reshape(*codes_BPHWM.shape[:2], -1)


def _scaled_vectors(codes: np.ndarray, embedding_KD: np.ndarray) -> np.ndarray:
    """Vectors (…, H, W, D) of codes (…, H, W, M), of which sums over positions are means."""
    positions = codes.shape[-3] * codes.shape[-2]
    return code_vectors(codes, embedding_KD / np.float32(positions**0.5))


def _shifts(n_patches: int) -> list[tuple[slice, slice]]:
    """Which patches of one clip are compared with which of another: for each shift by up to an eighth of a clip."""
    most = min(n_patches - 1, max(1, n_patches // 8))
    return [
        (slice(max(0, -shift), n_patches - max(0, shift)), slice(max(0, shift), n_patches - max(0, -shift)))
        for shift in range(-most, most + 1)
    ]
