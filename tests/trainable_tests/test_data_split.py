"""Validation and held out: disjoint, stratified, and decided by names alone. And test clips train nothing."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.noise_clips import noise_train_clips
from trainable.config import ScoreConfig, TrialConfig
from trainable.data.clips import ClipSet, Split, TestClips, TrainClips
from trainable.data.load import Dataset
from trainable.data.split import validation_mask
from trainable.errors import DataLeakError
from trainable.execution_plan import ExecutionPlan
from trainable.scoring.codes import ClipCodes
from trainable.scoring.registry import make_density
from trainable.training.trainer import Trainer

Clip = tuple[str, int, int]
CLIPS = st.lists(
    st.tuples(st.sampled_from(["00", "02", "x"]), st.integers(0, 1), st.integers(0, 99_999)), min_size=1, unique=True
)


def name_of(clip: Clip) -> str:
    return f"{'anomaly' if clip[1] else 'normal'}_id_{clip[0]}_{clip[2]:08d}.wav"


def chosen(clips: list[Clip], share: float = 0.5) -> set[Clip]:
    mask = validation_mask(
        [name_of(clip) for clip in clips], [clip[0] for clip in clips], [clip[1] for clip in clips], share
    )
    return {clip for clip, validation in zip(clips, mask, strict=True) if validation}


@given(CLIPS, st.randoms(use_true_random=False), st.floats(0.05, 0.95))
def test_order_does_not_move_a_clip(clips: list[Clip], rng: random.Random, share: float) -> None:
    shuffled = clips[:]
    rng.shuffle(shuffled)
    assert chosen(clips, share) == chosen(shuffled, share)


@given(CLIPS, st.floats(0.05, 0.95))
def test_every_id_and_label_is_shared_out(clips: list[Clip], share: float) -> None:
    validation = chosen(clips, share)
    for machine_id in ("00", "02", "x"):
        for label in (0, 1):
            group = [clip for clip in clips if clip[:2] == (machine_id, label)]
            inside = len(validation & set(group))
            if len(group) >= 2:
                assert 1 <= inside <= len(group) - 1
            assert abs(inside - share * len(group)) <= 1


@given(CLIPS, CLIPS)
def test_other_groups_do_not_move_a_clip(clips: list[Clip], others: list[Clip]) -> None:
    mine = [clip for clip in clips if clip[0] == "00"]
    mixed = mine + [clip for clip in others if clip[0] != "00"]
    if mine:
        assert {clip for clip in chosen(mixed) if clip[0] == "00"} == chosen(mine)


def test_the_split_is_the_same_for_ever() -> None:
    """The three smallest of ``printf normal_id_00_0000000N.wav | sha256sum``, N = 0 … 5, are those of 1, 3 and 5."""
    assert chosen([("00", 0, number) for number in range(6)]) == {("00", 0, number) for number in (1, 3, 5)}


def test_a_group_stays_on_one_side_and_each_side_has_one() -> None:
    groups = [f"run {number // 4}" for number in range(16)]
    names = [f"{number:02d}.wav" for number in range(16)]
    mask = validation_mask(names, ["00"] * 16, [0] * 16, 0.5, groups=groups)
    assert all(len({side for side, other in zip(mask, groups, strict=True) if other == group}) == 1 for group in groups)
    assert mask.sum() == 8
    # A run that begins healthy and ends broken has clips of both labels.
    labels = [int(number % 4 == 3) for number in range(16)]
    mask = validation_mask(names, ["00"] * 16, labels, 0.5, groups=groups)
    assert mask.sum() == 8
    assert all(len({side for side, other in zip(mask, groups, strict=True) if other == group}) == 1 for group in groups)
    two = validation_mask(["a", "b"], ["00"] * 2, [0] * 2, 0.5, groups=["x", "y"])
    assert two.sum() == 1


def test_a_recording_has_its_half_in_every_format() -> None:
    names = [f"normal_id_00_{number:08d}" for number in range(40)]
    masks = [
        validation_mask([name + suffix for name in names], ["00"] * 40, [0] * 40, 0.5)
        for suffix in (".wav", ".npy", ".FLAC", "")
    ]
    for mask in masks:
        np.testing.assert_array_equal(mask, masks[0])
    earlier = [
        validation_mask([name + suffix for name in names], ["00"] * 40, [0] * 40, 0.5, by_file=True)
        for suffix in (".wav", ".npy")
    ]
    np.testing.assert_array_equal(earlier[0], masks[0])
    assert (earlier[1] != masks[0]).any()


def test_halves_of_a_data_set_have_no_clip_in_common(tiny_dataset: Dataset) -> None:
    validation, held_out = set(tiny_dataset.validation.names), set(tiny_dataset.held_out.names)
    assert validation.isdisjoint(held_out)
    assert len(validation) == len(held_out) == 8
    assert tiny_dataset.validation.split is Split.VALIDATION
    assert tiny_dataset.held_out.split is Split.HELD_OUT


def as_train_clips(clips: ClipSet, split: Split) -> TrainClips:
    return TrainClips(clips.frames_TF, clips.offsets, clips.machine_ids, clips.names, split)


def test_test_clips_cannot_be_made_training_clips(tiny_dataset: Dataset) -> None:
    for clips in (tiny_dataset.validation, tiny_dataset.held_out):
        with pytest.raises(DataLeakError, match=f"clips of the {clips.split} split were offered for training"):
            as_train_clips(clips, clips.split)
        with pytest.raises(DataLeakError, match="is not a normal clip"):
            as_train_clips(clips, Split.TRAIN)


def test_training_clips_cannot_be_evaluated(tiny_dataset: Dataset) -> None:
    train = tiny_dataset.train
    with pytest.raises(DataLeakError, match="have no labels"):
        TestClips(train.frames_TF, train.offsets, train.machine_ids, train.names, Split.TRAIN)


def test_the_trainer_takes_training_clips_only(tiny_dataset: Dataset) -> None:
    config, plan = TrialConfig.from_flat({"width": 0.25, "latent_dim": 4}), ExecutionPlan(micro_batch_clips=4)
    Trainer(config, noise_train_clips(), ("00", "01", "02"), plan=plan, device=torch.device("cpu"))
    with pytest.raises(DataLeakError, match="validation clips were offered for training"):
        Trainer(config, tiny_dataset.validation, tiny_dataset.ids, plan=plan, device=torch.device("cpu"))  # type: ignore[arg-type]


@pytest.mark.parametrize("split", [Split.VALIDATION, Split.HELD_OUT])
def test_a_density_model_is_fitted_to_training_clips_only(split: Split) -> None:
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 8, (6, 2, 8, 8, 1)))
    starts = torch.zeros(6, 2, dtype=torch.int64)
    model, codebook = make_density(ScoreConfig(density="counts")), torch.zeros(8, 4)
    model.fit(ClipCodes(codes, starts, ("00",) * 6, Split.TRAIN), codebook)
    with pytest.raises(DataLeakError, match=f"was offered {split} clips to fit"):
        model.fit(ClipCodes(codes, starts, ("00",) * 6, split), codebook)
