"""The exported scorer's density models give what the library's own give, from plain arrays."""

import io
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.export.arrays import ArrayStore, density_entry
from analysis.export.graphs import surprise_model
from analysis.export.scorer.combined import density_of
from analysis.export.scorer.density import Density, PositionDensity
from analysis.export.scorer.errors import DetectorError, RecordingError
from trainable.config import ScoreConfig
from trainable.data.clips import Split
from trainable.errors import ConfigError
from trainable.registry import DENSITIES
from trainable.scoring import density as library
from trainable.scoring.autoregressive import Autoregressive
from trainable.scoring.codes import ClipCodes
from trainable.scoring.registry import make_density

CODES = 24
"""In each codebook."""


def some_codes(clips: int, codebooks: int, split: Split, *, columns: int = 8, seed: int = 0) -> ClipCodes:
    """Codes that prefer some values in each row, so that counts, pairs and moments all have something to learn."""
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, 4, 8, columns, codebooks)
    around = torch.arange(8)[:, None, None] * 2
    codes = (around + torch.randint(0, 9, shape, generator=generator)) % CODES
    ids = tuple(("00", "02")[index % 2] for index in range(clips))
    return ClipCodes(codes + torch.arange(codebooks) * CODES, torch.zeros(clips, 4, dtype=torch.int64), ids, split)


def fitted(name: str, config: ScoreConfig, codebooks: int, **shape: int) -> library.DensityModel:
    codebook = torch.randn(codebooks * CODES, 12, generator=torch.Generator().manual_seed(1))
    model = make_density(config, name=name, seed=3)
    return model.fit(some_codes(20, codebooks, Split.TRAIN, **shape), codebook)


def exported(model: library.DensityModel, folder: Path) -> Density:
    store = ArrayStore()
    entry = density_entry(model, store, "density")
    if isinstance(model, Autoregressive):
        entry["network"] = "surprise.onnx"
        (folder / "surprise.onnx").write_bytes(surprise_model(model, 8, 8))
    with np.load(io.BytesIO(store.to_bytes())) as archive:
        return density_of(entry, dict(archive), folder)


def assert_equal(model: library.DensityModel, own: Density, asked: ClipCodes) -> None:
    scores = [own.score(codes.numpy(), machine) for codes, machine in zip(asked.codes_BPHWM, asked.ids, strict=True)]
    assert scores == pytest.approx(model.score_samples(asked), rel=2e-5, abs=2e-5)
    if isinstance(model, library.PositionModel):
        assert isinstance(own, PositionDensity)
        for codes, machine, expected in zip(asked.codes_BPHWM, asked.ids, model.position_scores(asked), strict=True):
            assert own.positions(codes.numpy(), machine) == pytest.approx(expected.numpy(), rel=2e-4, abs=2e-4)


@pytest.mark.parametrize("name", sorted(DENSITIES.own))
@pytest.mark.parametrize("codebooks", [1, 2])
def test_every_density_model_scores_as_in_the_library(name: str, codebooks: int, tmp_path: Path) -> None:
    model = fitted(name, ScoreConfig(radius_power=0.5), codebooks)
    assert_equal(model, exported(model, tmp_path), some_codes(6, codebooks, Split.HELD_OUT, seed=9))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *itertools.product(
            ("counts", "bigram", "grid_neighbours", "shifted_neighbours", "interpolation"),
            (ScoreConfig(aggregation="max"), ScoreConfig(aggregation="top_k", top_k_share=0.2)),
        ),
        ("fused", ScoreConfig(density_per_id=False)),
        ("mahalanobis", ScoreConfig(density_per_id=False)),
    ],
)
def test_whatever_the_configuration(name: str, config: ScoreConfig, tmp_path: Path) -> None:
    model = fitted(name, config, 2)
    assert_equal(model, exported(model, tmp_path), some_codes(4, 2, Split.HELD_OUT, seed=9))


@pytest.mark.parametrize("columns", [1, 2, 16])
def test_grids_of_few_and_of_many_columns(columns: int, tmp_path: Path) -> None:
    for name in ("interpolation", "grid_neighbours", "counts", "mahalanobis", "coarse_cross_mahalanobis"):
        model = fitted(name, ScoreConfig(), 1, columns=columns)
        assert_equal(model, exported(model, tmp_path), some_codes(3, 1, Split.HELD_OUT, columns=columns, seed=9))


def test_pairs_of_one_training_share_what_they_learned() -> None:
    store = ArrayStore()
    density_entry(fitted("fused", ScoreConfig(), 2), store, "fused")
    alone = len(store.to_bytes())
    for name in ("combined", "mahalanobis", "grid_neighbours"):
        density_entry(fitted(name, ScoreConfig(), 2), store, name)
    assert len(store.to_bytes()) < 1.05 * alone


def test_a_model_that_the_scorer_does_not_know_is_refused() -> None:
    class Mine(type(fitted("counts", ScoreConfig(), 1))):  # type: ignore[misc]
        name = "mine"

    with pytest.raises(ConfigError, match="density model 'mine' cannot be exported; the exported scorer has autoreg"):
        density_entry(Mine(ScoreConfig()), ArrayStore(), "density")
    with pytest.raises(DetectorError, match="knows no density model 'mine'"):
        density_of({"name": "mine"}, {}, Path())


def test_a_machine_that_was_not_in_training_is_refused(tmp_path: Path) -> None:
    own = exported(fitted("counts", ScoreConfig(), 1), tmp_path)
    asked = replace(some_codes(1, 1, Split.HELD_OUT), ids=("09",))
    with pytest.raises(RecordingError, match="machine id 09 was not in training"):
        own.score(asked.codes_BPHWM[0].numpy(), "09")
