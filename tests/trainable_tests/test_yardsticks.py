"""The yardsticks: each against its definition; they refuse test clips and are the same every time."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA

from tests.noise_clips import noise_train_clips
from trainable.config import ScoreConfig, TrialConfig
from trainable.data.clips import ClipSet, Split, TestClips, TrainClips
from trainable.data.load import Dataset
from trainable.data.patches import gather_patches
from trainable.errors import ConfigError, DataError, DataLeakError
from trainable.model.quantizer import code_vectors
from trainable.scoring.metrics import mean_auc
from trainable.scoring.registry import make_density
from trainable.trial import PlannedTrial, Trial
from trainable.yardsticks.autoencoder import Autoencoder
from trainable.yardsticks.base import Yardstick
from trainable.yardsticks.catalogue import CHEAP, YARDSTICKS, title_of
from trainable.yardsticks.idnn import IDNN
from trainable.yardsticks.log_mel import LogMelMahalanobis
from trainable.yardsticks.pca_codes import CELL, PCACodes
from trainable.yardsticks.stacked_frames import FramePredictor
from trainable.yardsticks.twfr import TWFR


def quick(kind: type[Yardstick]) -> Yardstick:
    """One that is fitted in a moment."""
    if issubclass(kind, FramePredictor):
        return kind(epochs=3)
    return PCACodes(n_patches=4) if kind is PCACodes else kind()


def one_clip(clips: ClipSet, index: int) -> TestClips:
    """A clip of a set by itself, as a normal test clip."""
    begin, end = clips.offsets[index], clips.offsets[index + 1]
    return TestClips(
        clips.frames_TF[begin:end],
        np.array([0, end - begin]),
        clips.machine_ids[index : index + 1],
        clips.names[index : index + 1],
        Split.VALIDATION,
        labels=np.zeros(1, dtype=np.int64),
    )


def as_test(clips: ClipSet, *, louder: bool) -> TestClips:
    """The same clips as test clips; every second one of an id has two rows of cells raised.

    Less would not do for all: of noise, principal components are half of all directions, drawn by chance.
    """
    labels = (np.arange(len(clips)) // 3) % 2 if louder else np.zeros(len(clips), dtype=np.int64)
    frames = clips.frames_TF.copy()
    for index in np.flatnonzero(labels):
        frames[clips.offsets[index] : clips.offsets[index + 1], 16:32] += 4.0
    return TestClips(frames, clips.offsets, clips.machine_ids, clips.names, Split.VALIDATION, labels=labels)


@pytest.fixture
def train() -> TrainClips:
    return noise_train_clips(36)


@pytest.fixture
def validation() -> TestClips:
    return as_test(noise_train_clips(24, seed=1), louder=True)


@pytest.mark.parametrize("kind", YARDSTICKS)
def test_fitting_to_test_clips_raises(kind: type[Yardstick], train: TrainClips, validation: TestClips) -> None:
    with pytest.raises(DataLeakError, match="validation clips to fit"):
        kind().fit(validation)  # type: ignore[arg-type]
    loose = ClipSet(train.frames_TF, train.offsets, train.machine_ids, train.names, Split.TRAIN)
    with pytest.raises(DataLeakError):
        kind().fit(loose)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", YARDSTICKS)
def test_louder_bins_score_higher_every_time_alike(
    kind: type[Yardstick], train: TrainClips, validation: TestClips
) -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    scores = quick(kind).fit(train).score_samples(validation)
    assert scores.dtype == np.float64
    assert scores.shape == (len(validation),)
    assert mean_auc(validation.labels, scores, validation.machine_ids) > 0.9
    np.testing.assert_array_equal(scores, quick(kind).fit(train).score_samples(validation))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1]


def test_names_are_different_and_have_titles() -> None:
    assert len({kind.name for kind in YARDSTICKS}) == len({kind.title for kind in YARDSTICKS}) == len(YARDSTICKS) == 5
    assert [kind.name for kind in CHEAP] == ["log_mel_mahalanobis", "twfr", "pca_codes"]
    assert title_of("idnn") == "IDNN"
    assert title_of("of_a_later_version") == "of_a_later_version"


def test_the_covariance_is_scikit_learn_s(train: TrainClips, validation: TestClips) -> None:
    def moments(clips: ClipSet, machine_id: str) -> np.ndarray:
        parts = np.split(clips.frames_TF.astype(np.float64), clips.offsets[1:-1])
        chosen = [part for part, name in zip(parts, clips.machine_ids, strict=True) if name == machine_id]
        return np.array([np.concatenate([part.mean(0), part.std(0)]) for part in chosen])

    expected = LedoitWolf().fit(moments(train, "01")).mahalanobis(moments(validation, "01"))
    scores = LogMelMahalanobis().fit(train).score_samples(validation)
    np.testing.assert_allclose(scores[np.array(validation.machine_ids) == "01"], expected / 128, rtol=1e-5)


@pytest.mark.parametrize("kind", CHEAP)
def test_an_unheard_id_is_an_error(kind: type[Yardstick], train: TrainClips, validation: TestClips) -> None:
    strangers = TestClips(
        validation.frames_TF,
        validation.offsets,
        ("09",) * len(validation),
        validation.names,
        Split.VALIDATION,
        labels=validation.labels,
    )
    with pytest.raises(DataError, match=r"id 09 has no training clips; the known ids are 00, 01, 02"):
        kind().fit(train).score_samples(strangers)


@pytest.mark.parametrize("kind", CHEAP)
def test_an_id_of_one_clip_has_finite_scores(kind: type[Yardstick], validation: TestClips) -> None:
    scores = kind().fit(noise_train_clips(3)).score_samples(validation)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("kind", YARDSTICKS)
def test_a_clip_s_score_is_its_own(kind: type[Yardstick], train: TrainClips) -> None:
    """Sorted frames, stacks and windows never reach into the next clip."""
    model = quick(kind).fit(train)
    together = model.score_samples(as_test(train, louder=False))
    assert model.score_samples(one_clip(train, 4))[0] == pytest.approx(together[4], rel=1e-5)


# ---- TWFR ----------------------------------------------------------------------------------------------------------


def test_ranks_are_weighed_as_in_a_plain_loop() -> None:
    frames = np.random.default_rng(0).standard_normal((70, 64))
    expected = []
    for bin_T in frames.T:
        ranked = sorted(bin_T, reverse=True)
        weights = [0.9**k for k in range(len(ranked))]
        expected.append(sum(w * x for w, x in zip(weights, ranked, strict=True)) / sum(weights))
    np.testing.assert_allclose(TWFR(decay=0.9).features(frames), expected, rtol=1e-12)


def test_a_decay_of_one_is_the_mean_and_of_nothing_the_maximum() -> None:
    frames = np.random.default_rng(0).standard_normal((70, 64))
    np.testing.assert_allclose(TWFR(decay=1.0).features(frames), frames.mean(axis=0), rtol=1e-9)
    np.testing.assert_array_equal(TWFR(decay=0.0).features(frames), frames.max(axis=0))
    np.testing.assert_allclose(TWFR(decay=1e-9).features(frames), frames.max(axis=0), rtol=1e-6)


def test_a_decay_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"decay of TWFR is 1\.1"):
        TWFR(decay=1.1)


def test_a_rare_loud_moment_is_heard_that_the_mean_over_time_buries(train: TrainClips) -> None:
    clips = as_test(noise_train_clips(24, seed=1), louder=False)
    labels = (np.arange(len(clips)) // 3) % 2
    frames = clips.frames_TF.copy()
    for index in np.flatnonzero(labels):
        frames[clips.offsets[index] + 10, 20:24] += 8
    knocking = TestClips(frames, clips.offsets, clips.machine_ids, clips.names, Split.VALIDATION, labels=labels)

    def found(decay: float) -> float:
        return mean_auc(labels, TWFR(decay=decay).fit(train).score_samples(knocking), clips.machine_ids)

    assert found(0.8) > found(1.0) + 0.1


# ---- PCA codes -----------------------------------------------------------------------------------------------------


def cells_of(clips: ClipSet, model: PCACodes) -> np.ndarray:
    """Cells of all windows, (clips, windows, rows, columns, 64), cut one by one."""
    starts = model.codes(clips).starts_BP + torch.from_numpy(clips.offsets[:-1].copy())[:, None]
    patches = gather_patches(torch.tensor(clips.frames_TF), starts, patch_frames=64).numpy()
    return np.array(
        [
            [
                [[patch[r : r + CELL, c : c + CELL].ravel() for c in range(0, 64, CELL)] for r in range(0, 64, CELL)]
                for patch in clip
            ]
            for clip in patches
        ]
    )


def test_codes_are_nearest_centres_of_what_is_left_of_scikit_learn_s_components(train: TrainClips) -> None:
    model = PCACodes(n_patches=3, stride=8).fit(train)
    codes = model.codes(train)
    assert codes.codes_BPHWM.shape == (len(train), 3, 8, 8, 4)
    assert codes.split is Split.TRAIN
    cells = cells_of(train, model)
    rows = cells.reshape(-1, CELL * CELL)
    # All cells are in the sample here, so these are the very components.
    components = PCA(32).fit(rows)
    left = components.transform(rows.astype(np.float64))
    found = model.codebook_KD.numpy().reshape(4, 64, 32).astype(np.float64)
    signs = np.sign((components.components_ * model._pca.components_).sum(axis=1))
    left *= signs  # an axis may point either way
    agreeing = []
    for stage in range(4):
        nearest = ((left[:, None] - found[stage]) ** 2).sum(axis=2).argmin(axis=1)
        agreeing.append((nearest + 64 * stage == codes.codes_BPHWM.numpy().reshape(-1, 4)[:, stage]).mean())
        left = left - found[stage][nearest]
    assert min(agreeing) > 0.99  # float32 may choose the other of two centres equally near


def test_each_codebook_leaves_less_over(train: TrainClips) -> None:
    model = PCACodes(n_patches=3, stride=8).fit(train)
    latents = model._pca.transform(cells_of(train, model).reshape(-1, CELL * CELL))
    codes = model.codes(train).codes_BPHWM.flatten(0, 3)
    left = [
        float((torch.from_numpy(latents) - code_vectors(codes[:, :stages], model.codebook_KD)).square().mean())
        for stages in range(1, 5)
    ]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.9 * left[0]


def test_codes_are_scored_by_our_own_density(train: TrainClips, validation: TestClips) -> None:
    model = PCACodes(seed=3).fit(train)
    density = make_density(ScoreConfig(), name="mahalanobis", seed=3).fit(model.codes(train), model.codebook_KD)
    np.testing.assert_array_equal(model.score_samples(validation), density.score_samples(model.codes(validation)))


@pytest.mark.parametrize("score_windows", ["stride", "cover"])
def test_windows_are_those_that_the_search_scores(tiny_dataset: Dataset, score_windows: str) -> None:
    knobs = {"n_patches": 2, "score_patches": 5, "stride": 24, "width": 0.125, "latent_dim": 4, "num_embeddings": 8}
    config = TrialConfig.from_flat({**knobs, "seed": 7, "score_windows": score_windows})
    model = PCACodes.beside(config).fit(tiny_dataset.train)
    trial = Trial(PlannedTrial.whole_batch(config), tiny_dataset)
    codes = model.codes(tiny_dataset.held_out)
    assert torch.equal(codes.starts_BP, trial.codes(tiny_dataset.held_out).starts_BP)
    assert codes.codes_BPHWM.shape == (len(tiny_dataset.held_out), 5, 8, 8, 4)
    assert model.seed == 7
    assert PCACodes.beside(config.replace(score_patches=0)).n_patches == 2


def test_components_come_from_no_more_than_the_sample(train: TrainClips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainable.yardsticks.pca_codes.SAMPLED_CELLS", 500)
    model = PCACodes(n_patches=3)
    cells = model._sampled_cells(train)
    assert cells.shape == (500, 64)
    everything = {tuple(row) for row in cells_of(train, model.fit(train)).reshape(-1, 64).tolist()}
    assert {tuple(row) for row in cells.astype(np.float32).tolist()} <= everything


# ---- networks ------------------------------------------------------------------------------------------------------


def test_the_middle_frame_is_not_seen_by_what_predicts_it(train: TrainClips) -> None:
    model = IDNN(epochs=1).fit(train)
    model.network.eval()
    runs = torch.randn(7, 5, 64, generator=torch.Generator().manual_seed(0))
    changed = runs.clone()
    changed[:, 2] += 3
    assert model.predict(runs).shape == (7, 64)
    assert torch.equal(model.predict(runs), model.predict(changed))
    for seen in (0, 1, 3, 4):
        moved = runs.clone()
        moved[:, seen] += 3
        assert not torch.equal(model.predict(runs), model.predict(moved))
    expected = (model.predict(changed) - changed[:, 2]).square().mean(dim=1)
    torch.testing.assert_close(model.errors(changed), expected)


def test_an_autoencoder_s_error_is_over_all_five_frames(train: TrainClips) -> None:
    model = Autoencoder(epochs=1).fit(train)
    model.network.eval()
    runs = torch.randn(7, 5, 64, generator=torch.Generator().manual_seed(0))
    expected = (model.network(runs.flatten(1)) - runs.flatten(1)).square().mean(dim=1)
    torch.testing.assert_close(model.errors(runs), expected)


@pytest.mark.parametrize("kind", [Autoencoder, IDNN])
def test_networks_differ_by_seed(kind: type[FramePredictor], train: TrainClips, validation: TestClips) -> None:
    one, other = (kind.beside(TrialConfig.from_flat({"seed": seed})) for seed in (0, 1))
    one.epochs = other.epochs = 1
    assert not np.array_equal(one.fit(train).score_samples(validation), other.fit(train).score_samples(validation))


def test_a_clip_s_error_is_the_mean_over_its_runs(train: TrainClips) -> None:
    model = IDNN(epochs=1).fit(train)
    clip = one_clip(train, 0)
    runs = torch.tensor(np.stack([clip.frames_TF[begin : begin + 5] for begin in range(clip.lengths[0] - 4)]))
    model.network.eval()
    expected = float(model.errors(runs).mean().detach())
    assert model.score_samples(clip)[0] == pytest.approx(expected, rel=1e-5)
