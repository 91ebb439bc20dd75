"""Gaussian models: how a clip's code vectors lie and move over time, and how a column is told by its neighbours."""

import numpy as np

from .density import Arrays, Density, PositionDensity, code_vectors, symmetric

COARSE = 8
"""Rows and columns of a coarse grid."""


class Mahalanobis(Density):
    """Squared distance of a clip's moments from those of normal clips, divided by their number.

    The moments are mean, deviation and roughness (root mean square of the step from column to column) of each row's
    code vectors.
    """

    def prepare(self, group: Arrays) -> tuple[np.ndarray, np.ndarray]:
        return group["centre"], symmetric(group["precision"])

    def score(self, codes_PHWM: np.ndarray, machine_id: str) -> float:
        centre, precision = self.prepared(self.group_of(machine_id))
        vectors_HPWD = code_vectors(codes_PHWM.transpose(1, 0, 2, 3), self.shared["embedding"])
        gaps = self._summary(vectors_HPWD) - centre
        return float(gaps @ precision @ gaps) / len(gaps)

    def _summary(self, vectors_HPWD: np.ndarray) -> np.ndarray:
        means = vectors_HPWD.mean(axis=(1, 2))
        deviations = np.sqrt(np.square(vectors_HPWD - means[:, None, None]).mean(axis=(1, 2)))
        one_column = vectors_HPWD.shape[2] == 1  # of which no step leads to another
        steps = np.zeros_like(vectors_HPWD) if one_column else np.diff(vectors_HPWD, axis=2)
        roughness = np.sqrt(np.square(steps).mean(axis=(1, 2)))
        return np.stack([means, deviations, roughness]).ravel().astype(np.float64)


class CrossMahalanobis(Mahalanobis):
    """`Mahalanobis` on a clip's moments and the correlations of its rows: which bands move together."""

    def _summary(self, vectors_HPWD: np.ndarray) -> np.ndarray:
        rows = len(vectors_HPWD)
        gaps_HN = (vectors_HPWD - vectors_HPWD.mean(axis=(1, 2), keepdims=True)).reshape(rows, -1)
        products_HH = gaps_HN @ gaps_HN.T
        # A row that never changes moves with no other.
        lengths_H = np.sqrt(products_HH.diagonal().clip(min=1e-9))
        pairs = np.triu_indices(rows, k=1)
        correlations = products_HH[pairs] / (lengths_H[pairs[0]] * lengths_H[pairs[1]])
        return np.concatenate([super()._summary(vectors_HPWD), correlations.astype(np.float64)])


class CoarseMahalanobis(Mahalanobis):
    """`Mahalanobis` on cells pooled to a coarse grid, and on how a clip's patches differ."""

    def _summary(self, vectors_HPWD: np.ndarray) -> np.ndarray:
        coarse_HPWD = _pooled(_pooled(vectors_HPWD, axis=0), axis=2)
        deviations_HD = coarse_HPWD.mean(axis=2).std(axis=1)
        return np.concatenate([super()._summary(coarse_HPWD), deviations_HD.ravel().astype(np.float64)])


class CoarseCrossMahalanobis(CoarseMahalanobis, CrossMahalanobis):
    """`CoarseMahalanobis` with the correlations of the coarse grid's rows."""


def _pooled(vectors: np.ndarray, axis: int) -> np.ndarray:
    """Means of neighbours along an axis: at least `COARSE` of them, from equally many cells each."""
    length = vectors.shape[axis]
    parts = next(parts for parts in range(min(COARSE, length), length + 1) if length % parts == 0)
    shape = (*vectors.shape[:axis], parts, length // parts, *vectors.shape[axis + 1 :])
    return vectors.reshape(shape).mean(axis=axis + 1)


class Interpolation(PositionDensity):
    """Surprise of a column's code vectors, given those of the column before and the column after.

    A linear prediction whose residuals are whitened; the first and the last column take the surprise of the column
    beside them. Grids of fewer than three columns are compared with their mean.
    """

    def prepare(self, group: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return group["mean"], group["weights"], symmetric(group["whitening"]).astype(np.float32)

    def positions(self, codes_PHWM: np.ndarray, machine_id: str) -> np.ndarray:
        mean, weights, whitening = self.prepared(self.group_of(machine_id))
        vectors_PWHD = code_vectors(codes_PHWM.transpose(0, 2, 1, 3), self.shared["embedding"])
        beside, middle = _beside_and_middle(vectors_PWHD.reshape(*vectors_PWHD.shape[:2], -1))
        size = middle.shape[-1]
        predicted = mean[-size:] + (beside - mean[:-size]) @ weights
        whitened = ((middle - predicted) @ whitening).reshape(*middle.shape[:2], *vectors_PWHD.shape[2:])
        squares_PHW = np.square(whitened).mean(axis=-1).transpose(0, 2, 1)
        if squares_PHW.shape[2] == codes_PHWM.shape[2]:
            return squares_PHW
        return np.concatenate([squares_PHW[:, :, :1], squares_PHW, squares_PHW[:, :, -1:]], axis=2)


def _beside_and_middle(columns_PWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both neighbours of each column that has two, and the column itself; without neighbours where none has."""
    if columns_PWC.shape[1] < 3:
        return columns_PWC[..., :0], columns_PWC
    return np.concatenate([columns_PWC[:, :-2], columns_PWC[:, 2:]], axis=-1), columns_PWC[:, 1:-1]
