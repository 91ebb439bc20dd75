"""Several codebooks in sequence: each quantizes, and learns from, what those before it left over."""

import itertools
import json

import pytest
import torch
from torch import Tensor

from tests.noise_clips import IDS, noise_train_clips
from trainable.config import ModelConfig, QuantizerConfig, TrialConfig
from trainable.data.load import Dataset
from trainable.execution_plan import ExecutionPlan
from trainable.model.codebook import Codebook
from trainable.model.geometry import Geometry
from trainable.model.quantizer import code_vectors, quantize
from trainable.record import EpochReport
from trainable.training.trainer import Trainer
from trainable.trial import PlannedTrial, Trial

WIDTH = 3


def codebook(codebooks: int, **flat: object) -> Codebook:
    config = QuantizerConfig(**{"num_embeddings": 4, "codebooks": codebooks} | flat)  # type: ignore[arg-type]
    return Codebook(config, ModelConfig(latent_dim=WIDTH), Geometry()).double()


def rows(count: int = 50) -> Tensor:
    return torch.randn(count, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def left_over(rows_ND: Tensor, books: list[Tensor]) -> list[Tensor]:
    """What each of some codebooks gets to quantize, worked out row by row."""
    lefts = [rows_ND]
    for book in books:
        nearest = torch.stack([book[int((row - book).square().sum(1).argmin())] for row in lefts[-1]])
        lefts.append(lefts[-1] - nearest)
    return lefts


def test_each_code_is_the_nearest_to_what_is_left_and_a_vector_is_their_sum() -> None:
    several, rows_ND = codebook(3), rows()
    books = list(several.codebook_KD.split(4))
    lefts = left_over(rows_ND, books)
    quantized = several.quantize(rows_ND, chunk_rows=7)
    assert quantized.codes_NM.shape == (50, 3)
    for stage, book in enumerate(books):
        expected = torch.cdist(lefts[stage], book).argmin(dim=1)
        assert torch.equal(quantized.codes_NM[:, stage], expected + 4 * stage)
    assert torch.allclose(quantized.vectors_ND, rows_ND - lefts[3])
    assert float(quantized.commitment_loss) == pytest.approx(float(lefts[3].square().mean()))
    assert torch.allclose(code_vectors(quantized.codes_NM, several.codebook_KD), rows_ND - lefts[3])


def test_with_cosine_distance_only_the_first_codebook_holds_unit_vectors() -> None:
    several, rows_ND = codebook(2, distance="cosine"), rows()
    several.start_from(rows_ND.clone(), torch.Generator().manual_seed(0), chunk_rows=16)
    assert torch.allclose(several.codebook_KD[:4].norm(dim=1), torch.ones(4, dtype=torch.float64))
    assert float(several.codebook_KD[4:].norm(dim=1).max()) < 0.9
    one = several.quantize(rows_ND, chunk_rows=16)
    assert torch.equal(one.codes_NM, several.quantize(5.0 * rows_ND, chunk_rows=16).codes_NM)


def test_a_codebook_learns_from_what_is_left_as_the_only_one_learns_from_rows() -> None:
    several, rows_ND = codebook(3, revival=False), rows()
    books = [book.clone() for book in several.codebook_KD.split(4)]
    statistics = several.new_statistics()
    statistics.add(several.statistics(rows_ND, several.quantize(rows_ND, chunk_rows=16).codes_NM))
    several.take(several.updated(statistics))
    for stage, (book, left) in enumerate(zip(books, left_over(rows_ND, books), strict=False)):
        alone = codebook(1, revival=False)
        alone.codebook_KD.copy_(book)
        alone.ema_sums_KD.copy_(book)
        own = alone.new_statistics()
        own.add(alone.statistics(left, alone.quantize(left, chunk_rows=16).codes_NM))
        alone.take(alone.updated(own))
        mine = slice(4 * stage, 4 * stage + 4)
        assert torch.allclose(several.codebook_KD[mine], alone.codebook_KD)
        assert torch.allclose(several.ema_counts_K[mine], alone.ema_counts_K)


def test_a_dead_code_is_replaced_by_what_its_codebook_gets_of_a_latent() -> None:
    several, rows_ND = codebook(2, dead_threshold=0.9), rows()
    several.codebook_KD[5] = 100.0  # nothing chooses it
    books = [book.clone() for book in several.codebook_KD.split(4)]
    candidates = torch.arange(8) + 20
    statistics = several.new_statistics()
    several.ema_counts_K.zero_()
    codes_NM = several.quantize(rows_ND, chunk_rows=16).codes_NM
    statistics.add(several.statistics(rows_ND, codes_NM))
    for first in (0, 25):  # two micro-batches; the candidates lie in the first and the second
        part = slice(first, first + 25)
        several.offer(statistics, rows_ND[part], codes_NM[part], candidates, first)
    several.take(several.updated(statistics))
    assert torch.allclose(several.codebook_KD[5], left_over(rows_ND, books)[1][25])


def test_the_start_is_kmeans_of_what_is_left_and_every_codebook_halves_the_error() -> None:
    rows_ND = rows(2000)
    errors = []
    for codebooks in (1, 2, 3, 4):
        several = codebook(codebooks)
        several.start_from(rows_ND.clone(), torch.Generator().manual_seed(0), chunk_rows=500)
        errors.append(float(several.quantize(rows_ND, chunk_rows=500).commitment_loss))
    assert all(after < 0.7 * before for before, after in itertools.pairwise(errors)), errors


def test_perplexity_and_dead_codes_are_counted_per_codebook() -> None:
    flat = {"width": 0.25, "latent_dim": 8, "head_hidden": 8, "batch_size": 7, "n_patches": 2, "num_embeddings": 8}
    config = TrialConfig.from_flat(flat | {"codebooks": 3, "epochs": 2, "revival": False})
    plan = ExecutionPlan(micro_batch_clips=7)
    trainer = Trainer(config, noise_train_clips(), IDS, plan=plan, device=torch.device("cpu"))
    losses = trainer.train_epoch()
    assert len(losses.perplexities) == 3
    assert all(1.0 < value <= 8.0 for value in losses.perplexities)
    assert losses.perplexity == pytest.approx(sum(losses.perplexities) / 3)
    trainer.state.model.codebook.codebook_KD[8:16] += 1e6  # the second codebook uses one code from now on
    codes = trainer.encode(trainer.train)[1].codes_BPHWM
    assert codes.shape[-1] == 3
    assert len(codes[..., 1].unique()) == 1
    assert set(codes[..., 2].unique().tolist()) <= set(range(16, 24))


def test_a_trial_reports_each_codebook_and_scores_by_every_model(tiny_dataset: Dataset) -> None:
    """A whole epoch with everything new switched on, of a grid that is finer in time than in frequency."""
    flat = {"width": 0.125, "latent_dim": 8, "num_embeddings": 8, "codebooks": 3, "linear_path": True, "columns": 16}
    config = TrialConfig.from_flat(flat | {"n_patches": 2, "epochs": 2, "head_hidden": 4, "density": "fused"})
    report = Trial(PlannedTrial.whole_batch(config), tiny_dataset).step()
    assert len(report.perplexities) == 3
    assert report.perplexity == pytest.approx(sum(report.perplexities) / 3)
    assert {"fused", "cross_mahalanobis", "interpolation"} <= set(report.auc_by_density)
    assert report.auc_by_density["fused"] == report.validation_auc
    assert EpochReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_one_codebook_is_what_a_codebook_always_was() -> None:
    one, rows_ND = codebook(1), rows()
    plain = quantize(rows_ND, one.codebook_KD, chunk_rows=16)
    assert torch.equal(plain.codes_NM[:, 0], torch.cdist(rows_ND, one.codebook_KD).argmin(dim=1))
    assert one.codebook_KD.shape == (4, WIDTH)
