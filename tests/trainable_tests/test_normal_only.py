"""Judging without anomalies: what is held back, how pseudo-anomalies are made, and which pairs they choose."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.search_tests.listeners_tests.test_progress import ended, report, start
from tests.trainable_tests.recording_trees import write_tree
from trainable.config import READING_RULES, DataConfig, FrontEndConfig, Objective, TrialConfig
from trainable.data.clips import Split
from trainable.data.load import Dataset, load_dataset
from trainable.detection.ranking import choose_members, least_epochs, rank_pairs, ranking_warnings
from trainable.errors import DataError
from trainable.normal_only.families import FAMILIES, Bursts, Roughness, Stretch
from trainable.normal_only.held_back import held_back_mask
from trainable.normal_only.objective import choose_objective
from trainable.normal_only.severity import STEPS, find_severity
from trainable.record import TrialEnd, TrialRecord
from trainable.scoring.metrics import mean_auc
from trainable.yardsticks.log_mel import LogMelMahalanobis


def load(root: Path, objective: str = "auto") -> Dataset:
    return load_dataset(DataConfig(data_root=str(root), objective=objective), cache_dir=root.parent / "cache")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fan() -> Dataset:
    """The embedded fan with its labels unused."""
    return load_dataset(DataConfig(objective="normal-only"))


def test_a_fifth_of_each_id_is_held_back_in_two_stretches_of_its_order() -> None:
    ids = ["a", "b"] * 50
    mask = held_back_mask(ids)
    for machine_id in ("a", "b"):
        mine = mask[[index for index, each in enumerate(ids) if each == machine_id]]
        assert mine.sum() == 10
        begins = np.flatnonzero(np.diff(mine.astype(int)) == 1)
        assert len(begins) == 2
        assert not mine[0]
        assert not mine[-1]


@pytest.mark.parametrize(("clips", "held"), [(1, 0), (3, 0), (4, 2), (5, 2), (9, 2), (13, 3)])
def test_an_id_with_few_clips_keeps_enough_to_train_on(clips: int, held: int) -> None:
    assert held_back_mask(["a"] * clips).sum() == held


def test_held_back_clips_are_in_neither_training_nor_test_clips(fan: Dataset) -> None:
    assert fan.pseudo is not None
    held_back = fan.pseudo.normal
    assert held_back.split is Split.HELD_BACK
    assert len(held_back) + len(fan.train) == 400
    rows = {
        clips.clip(index).tobytes()
        for clips in (fan.train, fan.validation, fan.held_out)
        for index in range(len(clips))
    }
    assert not rows & {held_back.clip(index).tobytes() for index in range(len(held_back))}


def test_each_family_is_as_severe_as_its_target_says(fan: Dataset) -> None:
    assert fan.pseudo is not None
    scores = LogMelMahalanobis().fit(fan.train).score_samples(fan.pseudo.clips)
    heard = fan.pseudo.aucs(scores)
    for family, severity in zip(FAMILIES, fan.pseudo.severities, strict=True):
        assert severity.reached
        assert heard[family.name] == pytest.approx(severity.reference_auc)
        if family.target_auc is not None:
            assert heard[family.name] == pytest.approx(family.target_auc, abs=0.02)
    assert fan.pseudo.warnings() == ()


def test_the_auc_of_a_family_compares_its_clips_with_the_held_back_ones_alone(fan: Dataset) -> None:
    assert fan.pseudo is not None
    families = np.array(fan.pseudo.families)
    scores = np.where(families == "bursts", 1.0, np.where(families == "", 0.0, -1.0))
    assert fan.pseudo.aucs(scores) == {"bursts": 1.0, "roughness": 0.0, "stretch": 0.0}


def test_roughness_raises_what_differs_from_the_frames_around() -> None:
    clip = np.full((70, 64), -20.0, dtype=np.float32)
    clip[30, 5] = -2.0
    rough = Roughness().change(clip, 0.5, np.random.default_rng(0))
    assert (rough.shape, rough.dtype) == (clip.shape, np.float32)
    assert rough[30, 5] == pytest.approx(-2.0 + 0.5 * 16.0)  # its mean of nine frames is -18
    assert rough[31, 5] == pytest.approx(-20.0 - 0.5 * 2.0)
    assert rough[:, 6] == pytest.approx(-20.0)
    assert rough[36:, 5] == pytest.approx(-20.0)


def test_changes_last_as_much_longer_in_frames_as_windows_overlap_more() -> None:
    clip = np.full((200, 64), -20.0, dtype=np.float32)
    clip[60:68, 5] = -2.0
    rough = Roughness(8).change(clip, 0.5, np.random.default_rng(0))
    assert rough[64, 5] == pytest.approx(-2.0 + 0.5 * 16.0)  # its mean of 72 frames is -18
    assert rough[:, 6] == pytest.approx(-20.0)
    for name in range(20):
        louder = Bursts(8).change(np.zeros_like(clip), 12.0, Bursts().draws(str(name)))
        assert (louder.max(axis=1) > 6.0).sum() == 64
    assert [FrontEndConfig(n_fft=512, hop_length=hop).overlap_scale for hop in (16, 100, 256, 512)] == [16, 3, 1, 1]


def test_runs_of_earlier_rules_go_on_with_the_pseudo_anomalies_that_they_had(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", train=10, normal=0, anomalous=0)

    def changed(hop_length: int, rules: int) -> np.ndarray:
        front_end = FrontEndConfig(hop_length=hop_length)
        config = DataConfig(data_root=str(tmp_path / "data"), front_end=front_end, rules=rules)
        pseudo = load_dataset(config, cache_dir=tmp_path / "cache").pseudo
        assert pseudo is not None
        return pseudo.clips.frames_TF

    assert np.array_equal(changed(512, 3), changed(512, READING_RULES))
    assert not np.array_equal(changed(128, 3), changed(128, READING_RULES))


def test_bursts_are_short_narrow_and_as_many_as_the_clip_is_long() -> None:
    for frames, bursts in ((20, 1), (141, 3)):
        clip = np.zeros((frames, 64), dtype=np.float32)
        for name in range(20):
            louder = Bursts().change(clip, 12.0, Bursts().draws(str(name)))
            assert louder.min() >= 0.0
            assert 12.0 <= louder.max() <= 12.0 * bursts
            assert 1 <= (louder.max(axis=1) > 6.0).sum() <= 8 * bursts


def test_stretching_changes_how_fast_things_happen_and_not_what() -> None:
    frames = np.arange(141)
    clip = np.repeat(np.sin(2 * np.pi * frames / 20)[:, None], 64, axis=1).astype(np.float32)
    rates = set()
    for name in range(20):
        stretched = Stretch().change(clip, 0.4, Stretch().draws(str(name)))
        assert (stretched.shape, stretched.dtype) == (clip.shape, np.float32)
        assert stretched.std() == pytest.approx(clip.std(), abs=0.05)
        crossings = int((np.diff(np.sign(stretched[:, 0])) != 0).sum())
        rates.add(round(crossings / int((np.diff(np.sign(clip[:, 0])) != 0).sum()), 1))
    assert min(rates) < 0.8 < 1.3 < max(rates)


def test_a_clip_of_one_frame_can_be_changed() -> None:
    clip = np.ones((1, 64), dtype=np.float32)
    for family in FAMILIES:
        assert np.isfinite(family.change(clip, family.severities[1], family.draws("a"))).all()


def test_a_clip_is_changed_in_the_same_way_at_every_severity() -> None:
    family, clip = Bursts(), np.zeros((70, 64), dtype=np.float32)
    mild, strong = (family.change(clip, alpha, family.draws("normal_id_00_1.wav")) for alpha in (1.0, 3.0))
    assert 3 * mild == pytest.approx(strong, abs=1e-4)
    other = family.change(clip, 3.0, family.draws("normal_id_00_2.wav"))
    assert not np.allclose(strong, other)


def test_a_family_that_a_covariance_cannot_hear_has_one_severity() -> None:
    found = find_severity(Stretch(), lambda alpha: 0.55)
    assert (found.alpha, found.reference_auc, found.reached) == (Stretch.severities[1], 0.55, True)


def test_the_severity_lies_between_two_tried_ones_where_the_reference_crosses_the_target() -> None:
    family = Bursts()
    low, high = np.log(family.severities)
    asked: list[float] = []

    def reference(alpha: float) -> float:
        asked.append(alpha)
        return float(0.5 + 0.5 * (np.log(alpha) - low) / (high - low))

    found = find_severity(family, reference)
    assert found.reached
    assert found.reference_auc == pytest.approx(family.target_auc, abs=1e-9)
    assert len(asked) < STEPS


def test_a_target_that_is_not_reached_takes_the_largest_severity_and_says_so(fan: Dataset) -> None:
    found = find_severity(Roughness(), lambda alpha: 0.55)
    assert (found.alpha, found.reached) == (pytest.approx(2.0), False)
    assert fan.pseudo is not None
    (warning,) = replace(fan.pseudo, severities=(found, *fan.pseudo.severities[1:])).warnings()
    assert "roughness" in warning
    assert "0.55" in warning


def test_a_severity_unlike_other_machines_is_pointed_out(fan: Dataset) -> None:
    assert fan.pseudo is not None
    roughness, bursts, stretch = fan.pseudo.severities
    (warning,) = replace(fan.pseudo, severities=(roughness, replace(bursts, alpha=30.0), stretch)).warnings()
    assert "bursts" in warning
    assert "30" in warning


def test_few_held_back_clips_are_pointed_out(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", train=10, normal=0, anomalous=0)
    pseudo = load(tmp_path / "data").pseudo
    assert pseudo is not None
    assert "00 (2), 02 (2)" in " ".join(pseudo.warnings())


def test_a_folder_without_anomalies_is_judged_by_pseudo_anomalies(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "data", train=10, normal=0, anomalous=0)
    (folder / "test").rmdir()
    dataset = load(tmp_path / "data")
    assert dataset.objective is Objective.NORMAL_ONLY
    assert not dataset.labelled
    assert (len(dataset.train), len(dataset.validation), len(dataset.held_out)) == (16, 0, 0)
    assert dataset.pseudo is not None
    assert len(dataset.pseudo.clips) == (1 + len(FAMILIES)) * len(dataset.pseudo.normal) == 16
    assert dataset.digest == load(tmp_path / "data").digest
    for asked in ("labels", "both"):
        with pytest.raises(DataError, match="--objective normal-only"):
            load(tmp_path / "data", asked)


def test_normal_test_clips_without_anomalies_are_held_back_too(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", train=10, normal=3, anomalous=0)
    dataset = load(tmp_path / "data")
    assert dataset.pseudo is not None
    assert dataset.pseudo.held_back_by_id == {"00": 2 + 3, "02": 2 + 3}


def test_an_id_without_anomalies_is_left_out_of_the_auc_and_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tree(tmp_path / "data", train=4)
    for path in (folder / "test").glob("anomaly_id_02_*"):
        path.unlink()
    dataset = load(tmp_path / "data")
    assert dataset.objective is Objective.LABELS
    assert dataset.ids == ("00", "02")
    assert set(dataset.validation.machine_ids) == set(dataset.held_out.machine_ids) == {"00"}
    assert "id 02 (2 normal, 0 anomalous)" in caplog.text


def test_too_few_clips_to_hold_any_back_is_one_error(tmp_path: Path) -> None:
    write_tree(tmp_path / "data", train=3, normal=0, anomalous=0)
    with pytest.raises(DataError, match="four normal training clips"):
        load(tmp_path / "data")


@pytest.mark.parametrize(
    ("asked", "anomalies", "held_back", "chosen"),
    [
        ("auto", {}, {"a": 20}, Objective.NORMAL_ONLY),
        ("auto", {"a": 5, "b": 40}, {"a": 20, "b": 8}, Objective.BOTH),
        ("auto", {"a": 5}, {"a": 7}, Objective.LABELS),
        ("auto", {"a": 6, "b": 6}, {"a": 20, "b": 20}, Objective.LABELS),
        ("labels", {"a": 2}, {"a": 20}, Objective.LABELS),
        ("normal-only", {"a": 99}, {"a": 20}, Objective.NORMAL_ONLY),
    ],
)
def test_the_objective_follows_from_what_is_there(
    asked: str, anomalies: dict[str, int], held_back: dict[str, int], chosen: Objective
) -> None:
    assert choose_objective(asked, anomalies, held_back) is chosen  # type: ignore[arg-type]


def judged(
    number: int,
    aucs: dict[str, tuple[float, float]],
    end: TrialEnd = TrialEnd.COMPLETED,
    epochs: int = TrialConfig().phase.epochs,
    **labels: float,
) -> TrialRecord:
    """A trial whose densities have these AUCs of two families."""
    by_density = {density: {"bursts": bursts, "stretch": stretch} for density, (bursts, stretch) in aucs.items()}
    told = report(1, 0.5, pseudo_auc_by_density=by_density, auc_by_density=labels)
    return TrialRecord(start(number), (told,), ended(end, epochs))


def test_families_rank_pairs_whatever_their_spread() -> None:
    records = [
        judged(0, {"combined": (0.60, 0.99), "fused": (0.61, 0.70)}),
        judged(1, {"combined": (0.62, 0.80), "fused": (0.60, 0.75)}),
        judged(2, {"combined": (0.99, 0.99)}, TrialEnd.PRUNED, least_epochs(TrialConfig().phase.epochs) - 1),
        judged(3, {"combined": (0.99, 0.99)}, TrialEnd.CRASHED),
    ]
    pairs = rank_pairs(records)
    assert [(pair.trial, pair.density, pair.rank) for pair in pairs] == [
        (1, "combined", 1.5),
        (0, "combined", 2.25),
        (0, "fused", 3.0),
        (1, "fused", 3.25),
    ]
    assert choose_members(records, 2) == pairs[:2]
    assert pairs[0].pseudo_auc == pytest.approx(0.71)


def test_a_trial_that_was_stopped_is_ranked_where_it_trained_a_quarter_of_its_epochs() -> None:
    stopped = judged(1, {"combined": (0.9, 0.9)}, TrialEnd.PRUNED, least_epochs(TrialConfig().phase.epochs))
    pairs = choose_members([judged(0, {"combined": (0.8, 0.8)}), stopped])
    assert [pair.trial for pair in pairs] == [1, 0]


def test_labels_count_as_much_as_the_families_together() -> None:
    records = [
        judged(0, {"combined": (0.9, 0.9)}, combined=0.5),
        judged(1, {"combined": (0.8, 0.8)}, combined=0.9),
        judged(2, {"combined": (0.7, 0.7)}, combined=0.6),
    ]
    assert [(pair.trial, pair.rank) for pair in rank_pairs(records)] == [(1, 1.5), (0, 2.0), (2, 2.5)]


def test_a_choice_among_few_or_among_equals_is_pointed_out() -> None:
    few = [judged(number, {"grid_neighbours": (0.7, 0.8)}) for number in range(4)]
    (warning,) = ranking_warnings(few)
    assert "only 4 trials" in warning
    saturated = [judged(number, {"grid_neighbours": (0.99, 0.8)}) for number in range(2)]
    (warning,) = ranking_warnings([*few, *saturated])
    assert "33%" in warning
    assert "bursts" in warning
    assert ranking_warnings([*few, judged(9, {"grid_neighbours": (0.7, 0.8)})]) == []


def test_a_perfect_detector_of_a_family_has_an_auc_of_one(fan: Dataset) -> None:
    assert fan.pseudo is not None
    clips = fan.pseudo.clips
    assert mean_auc(clips.labels, clips.labels.astype(float), clips.machine_ids) == 1.0
