"""P-values worked out by hand, their uniformity, and when in a clip the surprise is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainable.errors import DataError
from trainable.scoring.calibration import most_surprising_span, p_values, surprise_over_time


def test_p_values_by_hand() -> None:
    normal = np.array([1.0, 2.0, 3.0, 4.0])
    # 5 above all; 3 has itself and 4 at least as high; 0 has all four.
    np.testing.assert_allclose(p_values(np.array([5.0, 3.0, 0.0]), normal), [1 / 5, 3 / 5, 5 / 5])


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.lists(st.integers(-5, 5), min_size=1, max_size=9))
def test_p_values_are_the_definition(normal: list[int], asked: list[int]) -> None:
    expected = [(1 + sum(value >= score for value in normal)) / (len(normal) + 1) for score in asked]
    np.testing.assert_allclose(p_values(np.array(asked, float), np.array(normal, float)), expected)


def test_false_alarms_on_normal_clips_stay_below_the_level() -> None:
    rng = np.random.default_rng(0)
    alarms = [(p_values(rng.standard_normal(1), rng.standard_normal(39)) <= 0.05).item() for _ in range(4000)]
    assert np.mean(alarms) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(("scores", "normal"), [([1.0], []), ([np.nan], [1.0]), ([1.0], [np.inf])])
def test_p_values_of_nothing_are_an_error(scores: list[float], normal: list[float]) -> None:
    with pytest.raises(DataError, match="p-values need"):
        p_values(np.array(scores), np.array(normal))


def test_surprise_over_time_averages_overlapping_patches() -> None:
    positions = torch.zeros(2, 8, 8)
    positions[0, :, 7] = 2.0  # frames 56 … 63
    positions[1, :, 3] = 4.0  # frames 32 + 24 … 63 of the clip
    surprise = surprise_over_time(positions, torch.tensor([0, 32]), 100)
    np.testing.assert_allclose(surprise[56:64], 3.0)
    np.testing.assert_allclose(surprise[:56], 0.0)
    assert np.isnan(surprise[96:]).all()


def test_a_repeated_patch_counts_once() -> None:
    positions = torch.zeros(3, 8, 8)
    positions[:2] = 3.0
    surprise = surprise_over_time(positions, torch.tensor([0, 0, 0]), 64)
    np.testing.assert_allclose(surprise, 3.0)


def test_the_planted_span_is_found() -> None:
    positions = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(0))
    starts = torch.arange(5) * 64
    positions[3, :, 2:4] += 5.0
    span = most_surprising_span(positions, starts, 320, length=16)
    assert (span.begin, span.end) == (3 * 64 + 16, 3 * 64 + 32)
    assert 5.0 < span.surprise < 6.5


def test_a_clip_shorter_than_the_span_is_all_of_it() -> None:
    span = most_surprising_span(torch.ones(1, 8, 8), torch.tensor([0]), 10, length=16)
    assert (span.begin, span.end, span.surprise) == (0, 10, 1.0)


def test_a_span_is_not_chosen_for_one_frame_at_the_edge_of_silence() -> None:
    """Frames that no patch covers do not let a single loud frame stand for a whole window."""
    positions = torch.ones(1, 8, 8)
    positions[0, :, 7] = 1.5
    positions[0, :, 3] = 1.6
    span = most_surprising_span(positions, torch.tensor([0]), 200, length=16)
    assert span.begin <= 56
    assert span.surprise < 1.6


def test_no_patch_within_the_clip_is_an_error() -> None:
    with pytest.raises(DataError, match="no patch lies"):
        most_surprising_span(torch.ones(1, 8, 8), torch.tensor([50]), 20)
