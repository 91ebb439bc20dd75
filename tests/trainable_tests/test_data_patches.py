"""Patches: which windows of a clip are kept, and that cutting them copies nothing but them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainable.data.patches import gather_patches, patch_starts
from trainable.model.geometry import Geometry

PATCH_FRAMES = Geometry().patch_frames
LENGTHS = st.lists(st.integers(PATCH_FRAMES, 400), min_size=1, max_size=6)


def starts_of(lengths: list[int], n_patches: int, stride: int, seed: int | None) -> torch.Tensor:
    """Starts relative to each clip's beginning (B, P)."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    clips_B = torch.arange(len(lengths))
    starts_BP = patch_starts(
        offsets, clips_B, n_patches=n_patches, stride=stride, patch_frames=PATCH_FRAMES, generator=generator
    )
    return starts_BP - torch.from_numpy(offsets[:-1].copy())[:, None]


@settings(max_examples=150, deadline=None)
@given(
    lengths=LENGTHS,
    n_patches=st.integers(1, 24),
    stride=st.integers(1, 64),
    seed=st.one_of(st.none(), st.integers(0, 2**31)),
)
def test_windows_lie_on_the_grid_within_their_clip_in_the_order_of_time(
    lengths: list[int], n_patches: int, stride: int, seed: int | None
) -> None:
    starts_BP = starts_of(lengths, n_patches, stride, seed)
    assert starts_BP.shape == (len(lengths), n_patches)
    assert (starts_BP % stride == 0).all()
    assert (starts_BP >= 0).all()
    assert (starts_BP.diff(dim=1) >= 0).all()
    for length, starts_P in zip(lengths, starts_BP, strict=True):
        windows = (length - PATCH_FRAMES) // stride + 1
        assert int(starts_P.max()) + PATCH_FRAMES <= length
        # Sampled without replacement where there are enough, repeated evenly where there are not.
        counts = starts_P.unique(return_counts=True)[1]
        assert len(counts) == min(windows, n_patches)
        assert int(counts.max() - counts.min()) <= 1


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, n_patches=st.integers(2, 24), stride=st.integers(1, 64))
def test_evenly_spaced_windows_reach_from_the_first_to_the_last(
    lengths: list[int], n_patches: int, stride: int
) -> None:
    starts_BP = starts_of(lengths, n_patches, stride, None)
    for length, starts_P in zip(lengths, starts_BP.tolist(), strict=True):
        windows = (length - PATCH_FRAMES) // stride + 1
        assert starts_P[0] == 0
        assert starts_P[-1] == (windows - 1) * stride
        if windows >= n_patches:
            steps = np.diff(starts_P) // stride
            assert steps.max() - steps.min() <= 1


def test_a_single_window_lies_in_the_middle() -> None:
    assert starts_of([64 + 16 * 10], 1, 16, None).tolist() == [[80]]


def test_every_window_is_sampled_sometimes() -> None:
    drawn = {start for seed in range(200) for start in starts_of([64 + 9 * 8], 2, 8, seed)[0].tolist()}
    assert drawn == {8 * window for window in range(10)}


@pytest.mark.parametrize("frames", [64, 200])
def test_a_patch_is_the_frames_it_begins_at(frames: int) -> None:
    frames_TF = torch.arange(frames * 64, dtype=torch.float32).view(frames, 64)
    starts_BP = torch.tensor([[0, frames - 64], [frames - 64, 0]])
    patches_BPFT = gather_patches(frames_TF, starts_BP, patch_frames=PATCH_FRAMES)
    assert patches_BPFT.shape == (2, 2, 64, 64)
    assert torch.equal(patches_BPFT[0, 1], frames_TF[frames - 64 :].T)
    assert torch.equal(patches_BPFT[1, 1], frames_TF[:64].T)
