"""Transformations: each does what its name says, and only to its own clips."""

import torch

from trainable.model.geometry import Geometry
from trainable.model.transforms import TRANSFORMS, TransformDraws, apply_transforms, draw_transforms, noise_template


def draws_of(name: str) -> tuple[TransformDraws, torch.Tensor]:
    """Draws of 200 clips, and which of them are of one kind."""
    draws = draw_transforms(200, Geometry(), torch.Generator().manual_seed(0))
    return draws, draws.labels_B == TRANSFORMS.index(name)


def transformed(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    draws, mine = draws_of(name)
    patches = torch.randn(200, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    return patches[mine][:, 0], apply_transforms(patches, draws, noise_template(Geometry()))[mine][:, 0]


def test_every_kind_is_drawn_about_equally_often() -> None:
    labels = draw_transforms(9000, Geometry(), torch.Generator().manual_seed(0)).labels_B
    counts = torch.bincount(labels, minlength=len(TRANSFORMS))
    assert counts.min() > 850
    assert counts.max() < 1150


def test_identity_and_reversal() -> None:
    before, after = transformed("identity")
    assert torch.equal(before, after)
    before, after = transformed("time_reversal")
    assert torch.equal(before.flip(-1), after)


def test_shifts_repeat_the_edge() -> None:
    before, after = transformed("time_shift")
    held = torch.isclose(after[..., 1:], after[..., :-1]).all(dim=1).sum(dim=-1)
    assert ((held >= 16) & (held <= 48)).all(), "the vacated frames repeat the edge"
    later, earlier = (after[..., 0] == before[..., 0]).all(-1), (after[..., -1] == before[..., -1]).all(-1)
    assert (later ^ earlier).all()
    before, after = transformed("frequency_shift")
    edge = torch.isclose(after[:, 0], after[:, 1]).all(-1) | torch.isclose(after[:, -1], after[:, -2]).all(-1)
    assert edge.all(), "the vacated bins repeat the edge"


def test_masks_silence_whole_bins_or_frames() -> None:
    _, after = transformed("frequency_mask")
    silent = (after == 0).all(dim=-1).sum(dim=-1)
    assert ((silent >= 8) & (silent <= 20)).all()
    _, after = transformed("time_mask")
    silent = (after == 0).all(dim=-2).sum(dim=-1)
    assert ((silent >= 8) & (silent <= 20)).all()


def test_gain_and_noise_add() -> None:
    before, after = transformed("gain")
    gain = (after - before).flatten(1)
    assert (gain.std(dim=1) < 1e-6).all()
    assert (gain.mean(dim=1).abs() >= 0.75).all()
    before, after = transformed("noise")
    assert torch.all((after - before).flatten(1).std(dim=1) > 0.4)


def test_one_transformation_a_clip_for_all_its_patches() -> None:
    draws = draw_transforms(6, Geometry(), torch.Generator().manual_seed(2))
    patch = torch.randn(6, 1, 64, 64)
    twice = apply_transforms(patch.expand(6, 2, 64, 64), draws, noise_template(Geometry()))
    assert torch.equal(twice[:, 0], twice[:, 1])
