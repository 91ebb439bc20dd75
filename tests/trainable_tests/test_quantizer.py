"""Quantizer and codebook against their definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from trainable.config import ModelConfig, QuantizerConfig
from trainable.model.codebook import Codebook
from trainable.model.geometry import Geometry
from trainable.model.quantizer import code_statistics, nearest_codes, quantize


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 60), codes=st.integers(2, 30), width=st.integers(1, 9), chunk=st.integers(1, 70),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_nearest_codes_are_those_of_the_full_distance_matrix(
    rows: int, codes: int, width: int, chunk: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    codebook = torch.randn(codes, width, generator=generator, dtype=torch.float64)
    full = torch.cdist(latents, codebook).argmin(dim=1)
    assert torch.equal(nearest_codes(latents, codebook, chunk_rows=chunk), full)


def test_statistics_are_those_of_the_one_hot_matrix() -> None:
    latents = torch.randn(50, 4, dtype=torch.float64)
    codes = torch.randint(0, 7, (50,))
    one_hot = F.one_hot(codes, 7).double()
    statistics = code_statistics(latents, codes, 7)
    assert torch.equal(statistics.counts_K, one_hot.sum(0))
    assert torch.allclose(statistics.sums_KD, one_hot.T @ latents, atol=1e-12)


def test_straight_through_passes_the_gradient_unchanged() -> None:
    latents = torch.randn(6, 3, requires_grad=True)
    quantized = quantize(latents, torch.randn(5, 3), chunk_rows=4)
    weights = torch.randn(6, 3)
    (quantized.vectors_ND * weights).sum().backward()
    assert torch.equal(latents.grad, weights)


def test_the_rotation_trick_forwards_the_code_and_rotates_the_gradient() -> None:
    latents = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    codebook = torch.randn(5, 4, dtype=torch.float64)
    quantized = quantize(latents, codebook, chunk_rows=8, code_gradient="rotation")
    assert torch.allclose(quantized.vectors_ND, codebook[quantized.codes_NM[:, 0]], atol=1e-6)
    weights = torch.randn(8, 4, dtype=torch.float64)
    (quantized.vectors_ND * weights).sum().backward()
    # A rotation and a scaling keep angles: the gradient makes the angle with e that the incoming one makes with q.
    code = codebook[quantized.codes_NM[:, 0]]
    assert torch.allclose(
        F.cosine_similarity(latents.grad, latents.detach()), F.cosine_similarity(weights, code), atol=1e-6
    )


def test_cosine_distance_ignores_length() -> None:
    codebook = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    latents = torch.tensor([[0.1, 0.05], [30.0, 40.0]])
    assert quantize(latents, codebook, chunk_rows=8, distance="cosine").codes_NM.tolist() == [[0], [1]]


@pytest.mark.parametrize("chunk", [10, 1000])
def test_no_rows_times_codes_matrix_ever_exists(chunk: int) -> None:
    """The largest tensor made is a chunk's scores, whatever N is."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes: list[int] = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            sizes.extend(item.numel() for item in (result,) if isinstance(item, torch.Tensor))
            return result

    rows, codes, width = 3000, 128, 4
    latents = torch.randn(rows, width, requires_grad=True)
    with Record():
        quantized = quantize(latents, torch.randn(codes, width), chunk_rows=chunk)
        quantized.vectors_ND.sum().backward()
        code_statistics(latents.detach(), quantized.codes_NM[:, 0], codes)
    assert max(sizes) <= max(chunk * codes, rows * width)


def make_codebook(**flat: object) -> Codebook:
    return Codebook(QuantizerConfig(**flat), ModelConfig(latent_dim=4), Geometry())  # type: ignore[arg-type]


def test_ema_update_is_the_papers() -> None:
    book = make_codebook(num_embeddings=3, ema_decay=0.9, revival=False).double()
    counts, sums = book.ema_counts_K.clone(), book.ema_sums_KD.clone()
    rows = torch.randn(20, 4, dtype=torch.float64)
    codes = torch.tensor([0] * 12 + [1] * 8)
    batch = book.new_statistics()
    batch.add(book.statistics(rows, codes[:, None]))
    book.take(book.updated(batch))
    expected_counts = 0.9 * counts + 0.1 * torch.tensor([12.0, 8.0, 0.0], dtype=torch.float64)
    expected_sums = 0.9 * sums + 0.1 * torch.stack([rows[:12].sum(0), rows[12:].sum(0), torch.zeros(4).double()])
    assert torch.allclose(book.ema_counts_K, expected_counts)
    assert torch.allclose(book.codebook_KD, expected_sums / expected_counts[:, None], rtol=1e-4)


def test_dead_codes_become_latents_of_the_batch() -> None:
    book = make_codebook(num_embeddings=4, ema_decay=0.0, dead_threshold=0.5)
    rows = torch.randn(30, 4)
    batch = book.new_statistics()
    codes = torch.tensor([[0], [1]] * 15)
    batch.add(book.statistics(rows, codes))
    book.offer(batch, rows, codes, torch.tensor([3, 7, 11, 13]), first_row=0)
    book.take(book.updated(batch))
    assert torch.equal(book.codebook_KD[2], rows[11])
    assert torch.equal(book.codebook_KD[3], rows[13])
    assert float(book.ema_counts_K[2]) == pytest.approx(7.5), "a revived code weighs as much as an average one"


def test_kmeans_start_puts_codes_into_clusters() -> None:
    book = make_codebook(num_embeddings=3)
    centres = torch.tensor([[10.0, 0, 0, 0], [0, 10.0, 0, 0], [0, 0, 10.0, 0]])
    rows = centres.repeat_interleave(40, 0) + 0.1 * torch.randn(120, 4, generator=torch.Generator().manual_seed(1))
    book.start_from(rows, torch.Generator().manual_seed(0), chunk_rows=50)
    gaps = torch.cdist(rows, book.codebook_KD).min(dim=1).values
    assert float(gaps.max()) < 1.5, "every row has a code in its own cluster"


def test_amp_keeps_distances_and_statistics_in_float32() -> None:
    book = make_codebook(num_embeddings=8)
    rows = book.rows(torch.randn(2, 4, 8, 8, dtype=torch.bfloat16))
    quantized = book.quantize(rows, chunk_rows=64)
    assert rows.dtype == quantized.vectors_ND.dtype == torch.float32
    assert book.statistics(rows, quantized.codes_NM).sums_KD.dtype == torch.float32
