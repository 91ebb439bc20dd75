"""A revived code in the codebook's moving averages, two updates worked by hand."""

import pytest
import torch

from trainable.config import ModelConfig, QuantizerConfig
from trainable.model.codebook import BatchStatistics, Codebook
from trainable.model.geometry import Geometry


def codebook() -> Codebook:
    """Two codes of weight 1 at (1, 0) and (0, 1); decay 0.5; a code below half of the mean weight is dead."""
    config = QuantizerConfig(num_embeddings=2, ema_decay=0.5, dead_threshold=0.5, revival=True)
    book = Codebook(config, ModelConfig(latent_dim=2), Geometry()).double()
    for buffer, values in (
        (book.codebook_KD, [[1.0, 0.0], [0.0, 1.0]]),
        (book.ema_counts_K, [1.0, 1.0]),
        (book.ema_sums_KD, [[1.0, 0.0], [0.0, 1.0]]),
    ):
        buffer.copy_(torch.tensor(values, dtype=torch.float64))
    return book


def batch(counts: list[float], sums: list[list[float]], candidates: list[list[float]]) -> BatchStatistics:
    return BatchStatistics(*(torch.tensor(values, dtype=torch.float64) for values in (counts, sums, candidates)))


def close(values: torch.Tensor, expected: list[object]) -> bool:
    """Within what Laplace smoothing (1e-5) makes of the codes."""
    return torch.allclose(values, torch.tensor(expected, dtype=torch.float64), rtol=2e-5, atol=0)


def test_a_revived_code_weighs_as_much_as_the_mean_in_the_updates_that_follow() -> None:
    book = codebook()
    book.take(book.updated(batch([4, 0], [[8, 4], [0, 0]], [[9, 9], [2, 3]])))
    # Counts 0.5 · 1 + 0.5 · 4 = 2.5 and 0.5 · 1 = 0.5, mean 1.5: the second is below 0.75 and becomes its candidate.
    assert book.ema_counts_K.tolist() == [2.5, 1.5]
    assert book.ema_sums_KD.tolist() == [[4.5, 2.0], [3.0, 4.5]]
    assert close(book.codebook_KD, [[4.5 / 2.5, 2.0 / 2.5], [2.0, 3.0]])
    book.take(book.updated(batch([2, 2], [[2, 2], [6, 2]], [[9, 9], [9, 9]])))
    # Counts 0.5 · 2.5 + 0.5 · 2 and 0.5 · 1.5 + 0.5 · 2; sums 0.5 · (4.5, 2) + 0.5 · (2, 2) and
    # 0.5 · (3, 4.5) + 0.5 · (6, 2). The mean is 2, and none is below 1.
    assert book.ema_counts_K.tolist() == [2.25, 1.75]
    assert book.ema_sums_KD.tolist() == [[3.25, 2.0], [4.5, 3.25]]
    assert close(book.codebook_KD, [[3.25 / 2.25, 2.0 / 2.25], [4.5 / 1.75, 3.25 / 1.75]])


@pytest.mark.parametrize(("chosen", "revived"), [(1, False), (2, False), (3, True)])
def test_a_code_is_dead_below_its_share_of_the_mean_and_not_at_it(chosen: int, revived: bool) -> None:
    """The other code is chosen 1, 2 or 3 times: counts (1, 0.5), (1.5, 0.5), (2, 0.5), half of their means 0.375,
    0.5 and 0.625."""
    book = codebook()
    book.take(book.updated(batch([chosen, 0], [[chosen, chosen], [0, 0]], [[9, 9], [7, 5]])))
    assert book.ema_counts_K.tolist() == [0.5 + 0.5 * chosen, (1.0 + 0.5 * chosen) / 2 if revived else 0.5]
    assert close(book.codebook_KD[1], [7.0, 5.0] if revived else [0.0, 1.0])
