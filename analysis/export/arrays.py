"""What density models learned, as plain arrays and entries that name them; equal arrays are kept once."""

import hashlib
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from trainable.errors import ConfigError
from trainable.scoring.autoregressive import Autoregressive
from trainable.scoring.combined import Combined, Fused
from trainable.scoring.counts import Bigram, Counts, KernelCounts
from trainable.scoring.density import DensityModel
from trainable.scoring.interpolation import Interpolation
from trainable.scoring.mahalanobis import CoarseCrossMahalanobis, CoarseMahalanobis, CrossMahalanobis, Mahalanobis
from trainable.scoring.neighbours import GridNeighbours, HistogramNeighbours, ShiftedNeighbours

Group = dict[str, np.ndarray]


class ArrayStore:
    """Arrays by name, for one ``.npz`` file. Pairs of one training often learned the same ones."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._names: dict[str, str] = {}

    def add(self, name: str, array: np.ndarray) -> str:
        """Keeps an array; returns the name under which it, or an equal one, is kept."""
        content = np.ascontiguousarray(array)
        digest = hashlib.sha256(content.tobytes() + f"{content.dtype} {content.shape}".encode()).hexdigest()
        if digest not in self._names:
            self._names[digest] = name
            self._arrays[name] = content
        return self._names[digest]

    def add_all(self, prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Keeps some arrays; returns the name of each."""
        return {name: self.add(f"{prefix}/{name}", array) for name, array in arrays.items()}

    def to_bytes(self) -> bytes:
        """All arrays as an ``.npz`` file, compressed."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **self._arrays)
        return buffer.getvalue()


def density_entry(density: DensityModel, store: ArrayStore, prefix: str) -> dict[str, Any]:
    """What ``detector.json`` says of a density model; its arrays go into the store.

    Raises
    ------
    ConfigError
        If the scorer has no such model.
    """
    make = _ENTRIES.get(type(density))
    if make is None:
        known = ", ".join(sorted(model.name for model in _ENTRIES))
        raise ConfigError(
            f"the density model {density.name!r} cannot be exported; the exported scorer has {known}: "
            "retrain with one of these"
        )
    shared, groups = make(density)
    config = density.config
    return {
        "name": density.name,
        "codebooks": density.codebooks,
        "config": {
            "density_per_id": config.density_per_id,
            "aggregation": config.aggregation,
            "top_k_share": config.top_k_share,
        },
        "shared": store.add_all(prefix, shared),
        "groups": {group: store.add_all(f"{prefix}/{group}", arrays) for group, arrays in groups.items()},
        **({"members": _members(density, store, prefix)} if isinstance(density, Combined) else {}),
    }


def _members(density: Combined, store: ArrayStore, prefix: str) -> list[dict[str, Any]]:
    return [density_entry(each, store, f"{prefix}/{index}") for index, each in enumerate(density.fitted_members())]


# ---- each model's arrays: what all groups share, and what each has ---------------------------------------------------

Entry = tuple[Group, dict[str, Group]]


def _as_learned(density: DensityModel) -> Entry:
    return {}, _groups(density, lambda group: {name: value.numpy() for name, value in group.items()})


def _bigram(density: Bigram) -> Entry:
    return {}, _groups(
        density,
        lambda group: {
            "keys": group["keys"].numpy(),
            "counts": _smallest(group["counts"].numpy().astype(np.int64)),
            "before": _smallest(group["before"].numpy().astype(np.int64)),
            "log_probability": group["log_probability"].numpy(),
        },
    )


def _histograms(density: HistogramNeighbours) -> Entry:
    return {"kernel": density.kernel_MKL.numpy()}, _as_learned(density)[1]


def _neighbours(density: GridNeighbours | ShiftedNeighbours) -> Entry:
    kept = density.kept_codes
    assert kept is not None
    groups = _groups(
        density,
        lambda group: {kept: _relative(group[kept], density), "radii": group["radii"].numpy()},
    )
    return {"embedding": density.embedding_KD.numpy()}, groups


def _mahalanobis(density: Mahalanobis) -> Entry:
    return {"embedding": density.embedding_KD.numpy()}, _groups(
        density,
        lambda group: {"centre": group["centre"].numpy(), "precision": _upper(group["precision"])},
    )


def _interpolation(density: Interpolation) -> Entry:
    return {"embedding": density.embedding_KD.numpy()}, _groups(
        density,
        lambda group: {
            "mean": group["mean"].numpy(),
            "weights": group["weights"].numpy(),
            "whitening": _upper(group["whitening"]),
        },
    )


def _combined(density: Combined) -> Entry:
    def calibration(group: Mapping[str, Tensor]) -> Group:
        members = range(len(density.members))
        return {
            "centres": np.array([float(group[f"{index}/centre"]) for index in members]),
            "scales": np.array([float(group[f"{index}/scale"]) for index in members]),
        }

    return {}, _groups(density, calibration)


def _groups(density: DensityModel, arrays: Callable[[Mapping[str, Tensor]], Group]) -> dict[str, Group]:
    return {name: arrays(group) for name, group in density.groups.items()}


def _relative(codes: Tensor, density: DensityModel) -> np.ndarray:
    """Codes (…, M) counted from 0 in every codebook, in the smallest type that holds them."""
    per_codebook = len(density.codebook_KD) // density.codebooks
    return _smallest(codes.numpy().astype(np.int64) - np.arange(density.codebooks) * per_codebook)


def _smallest(values: np.ndarray) -> np.ndarray:
    """Whole numbers, not negative, in the smallest type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _upper(matrix: Tensor) -> np.ndarray:
    """The upper triangle of a symmetric matrix row by row, float32: half the numbers, in half the bytes."""
    values = matrix.double().numpy()
    return ((values + values.T) / 2)[np.triu_indices(len(values))].astype(np.float32)


_ENTRIES: dict[type[DensityModel], Callable[[Any], Entry]] = {
    Counts: _as_learned,
    KernelCounts: _as_learned,
    Autoregressive: _as_learned,
    Bigram: _bigram,
    HistogramNeighbours: _histograms,
    GridNeighbours: _neighbours,
    ShiftedNeighbours: _neighbours,
    Mahalanobis: _mahalanobis,
    CrossMahalanobis: _mahalanobis,
    CoarseMahalanobis: _mahalanobis,
    CoarseCrossMahalanobis: _mahalanobis,
    Interpolation: _interpolation,
    Combined: _combined,
    Fused: _combined,
}
