"""One suite that every density model passes, per machine id and pooled."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from trainable.config import DensityName, ScoreConfig
from trainable.data.clips import Split
from trainable.errors import CheckpointError, ConfigError, DataError, DataLeakError
from trainable.registry import DENSITIES
from trainable.scoring import autoregressive, distances, neighbours
from trainable.scoring.codes import ClipCodes
from trainable.scoring.combined import Combined
from trainable.scoring.density import DensityModel, PositionModel, cross_fitted
from trainable.scoring.metrics import mean_auc
from trainable.scoring.registry import density_from_state, density_named, make_density, register_density

NUM_CODES, WIDTH, PATCHES = 24, 12, 4
ALL = DENSITIES.names()
POSITION_MODELS = tuple(name for name in ALL if issubclass(density_named(name), PositionModel))

CODEBOOK_KD = torch.randn(NUM_CODES, WIDTH, generator=torch.Generator().manual_seed(1))
CODEBOOK_KD[NUM_CODES // 2 :] += 1.0  # codes of what is never normal lie apart from the others


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoregressive, "STEPS", 25)


def machine_codes(n_clips: int, seed: int, *, anomalous: bool = False) -> torch.Tensor:
    """Codes of a machine: each row repeats its own cycle of codes in time, here and there disturbed.

    An anomalous clip disturbs two fifths of its positions with codes from the other half of the codebook.
    """
    generator = torch.Generator().manual_seed(seed)
    half = NUM_CODES // 2
    rows, columns = torch.arange(8)[:, None], torch.arange(8)
    phases = torch.randint(8, (n_clips, 1, 1, 1), generator=generator)
    codes = ((rows + (columns + phases) // 2) % half).expand(n_clips, PATCHES, 8, 8).clone()
    noise = torch.rand(codes.shape, generator=generator)
    codes = torch.where(noise < 0.1, torch.randint(half, codes.shape, generator=generator), codes)
    if anomalous:
        codes = torch.where(noise > 0.6, half + torch.randint(half, codes.shape, generator=generator), codes)
    return codes


def clip_codes(codes: torch.Tensor, ids: tuple[str, ...], split: Split) -> ClipCodes:
    starts = 16 * torch.arange(codes.shape[1]).expand(len(codes), -1)
    return ClipCodes(codes[..., None], starts, ids, split)


@pytest.fixture(scope="module")
def train() -> ClipCodes:
    return clip_codes(machine_codes(40, 0), tuple(f"0{index % 2}" for index in range(40)), Split.TRAIN)


@pytest.fixture(scope="module")
def test_clips() -> tuple[ClipCodes, np.ndarray]:
    codes = torch.cat([machine_codes(10, 1), machine_codes(10, 2, anomalous=True)])
    ids = tuple(f"0{index % 2}" for index in range(20))
    return clip_codes(codes, ids, Split.VALIDATION), np.repeat([0, 1], 10)


def fitted(name: DensityName, train: ClipCodes, **config: object) -> DensityModel:
    return make_density(ScoreConfig(**config), name=name, seed=3).fit(train, CODEBOOK_KD)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", [Split.VALIDATION, Split.HELD_OUT])
@pytest.mark.parametrize("name", ALL)
def test_fitting_to_test_clips_raises(name: DensityName, split: Split, train: ClipCodes) -> None:
    with pytest.raises(DataLeakError, match="train clips only"):
        make_density(ScoreConfig(), name=name).fit(replace(train, split=split), CODEBOOK_KD)


@pytest.mark.parametrize("per_id", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_planted_anomalies_score_higher(
    name: DensityName, per_id: bool, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    clips, labels = test_clips
    scores = fitted(name, train, density_per_id=per_id).score_samples(clips)
    assert scores.shape == (20,)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert mean_auc(labels, scores, clips.ids) > 0.95


@pytest.mark.parametrize("name", POSITION_MODELS)
def test_max_and_top_k_are_of_the_most_surprising_positions(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    clips, labels = test_clips
    mean, top, largest = (
        fitted(name, train, aggregation=aggregation, top_k_share=0.2).score_samples(clips)
        for aggregation in ("mean", "top_k", "max")
    )
    assert (top > mean - 1e-5).all()
    assert (largest >= top - 1e-5).all()
    assert mean_auc(labels, top, clips.ids) > 0.75
    model = fitted(name, train)
    assert isinstance(model, PositionModel)
    ordered = np.sort(model.position_scores(clips).flatten(1).double().numpy(), axis=1)
    np.testing.assert_allclose(largest, ordered[:, -1], rtol=1e-4)
    np.testing.assert_allclose(top, ordered[:, -round(0.2 * PATCHES * 64) :].mean(axis=1), rtol=1e-4)


@pytest.mark.parametrize("name", POSITION_MODELS)
def test_position_scores_average_to_the_score(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    clips, _ = test_clips
    model = fitted(name, train)
    assert isinstance(model, PositionModel)
    positions = model.position_scores(clips)
    assert positions.shape == clips.codes_BPHWM.shape[:-1]
    np.testing.assert_allclose(positions.mean(dim=(1, 2, 3)).numpy(), model.score_samples(clips), rtol=1e-4)


@pytest.mark.parametrize("name", POSITION_MODELS)
def test_a_disturbed_patch_is_where_the_surprise_is(name: DensityName, train: ClipCodes) -> None:
    codes = machine_codes(6, 9)
    disturbed = machine_codes(6, 9, anomalous=True)
    codes[:, 2] = disturbed[:, 2]
    clips = clip_codes(codes, ("00", "01") * 3, Split.VALIDATION)
    model = fitted(name, train)
    assert isinstance(model, PositionModel)
    per_patch = model.position_scores(clips).mean(dim=(0, 2, 3))
    assert int(per_patch.argmax()) == 2


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_scores_and_the_global_generator_is_untouched(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    first = fitted(name, train).score_samples(test_clips[0])
    before = torch.get_rng_state()
    again = fitted(name, train).score_samples(test_clips[0])
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("name", ALL)
def test_state_survives_a_file_without_pickle(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    model = fitted(name, train, aggregation="top_k", top_k_share=0.2)
    file = io.BytesIO()
    torch.save(model.state(), file)
    file.seek(0)
    loaded = density_from_state(torch.load(file, weights_only=True))
    assert type(loaded) is type(model)
    assert (loaded.config, loaded.seed, loaded.groups.keys()) == (model.config, 3, {"00", "01"})
    np.testing.assert_array_equal(loaded.score_samples(test_clips[0]), model.score_samples(test_clips[0]))


def test_a_foreign_state_is_refused(train: ClipCodes) -> None:
    state = fitted("counts", train).state()
    for damaged in ({}, {**state, "name": "oracle"}, {**state, "groups": [1]}, {**state, "config": {"no": 1}}):
        with pytest.raises(CheckpointError, match="not the state of a density model"):
            density_from_state(damaged)


@pytest.mark.parametrize("name", ALL)
def test_scores_follow_their_clips_in_any_order(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    clips, _ = test_clips
    model = fitted(name, train)
    order = np.random.default_rng(0).permutation(len(clips))
    straight = model.score_samples(clips)
    np.testing.assert_allclose(model.score_samples(clips.take(order.tolist())), straight[order], rtol=1e-3)
    alone = model.score_samples(clips.take([7]))
    np.testing.assert_allclose(alone, straight[[7]], rtol=1e-3, err_msg="a score must not depend on other test clips")


@pytest.mark.parametrize("name", [name for name in ALL if name != "autoregressive"])
def test_chunks_change_nothing(
    name: DensityName,
    train: ClipCodes,
    test_clips: tuple[ClipCodes, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = fitted(name, train, density_per_id=False).score_samples(test_clips[0])
    monkeypatch.setattr(distances, "CHUNK_BYTES", 3000)
    chunked = fitted(name, train, density_per_id=False).score_samples(test_clips[0])
    np.testing.assert_allclose(chunked, whole, rtol=1e-4)


def test_the_autoregressive_model_scores_the_same_in_chunks(
    train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fitted("autoregressive", train)
    whole = model.score_samples(test_clips[0])
    monkeypatch.setattr(distances, "CHUNK_BYTES", 3000)
    np.testing.assert_allclose(model.score_samples(test_clips[0]), whole, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_one_training_clip_an_id_still_ranks(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    scores = fitted(name, train.take([0, 1])).score_samples(test_clips[0])
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", ALL)
def test_identical_training_clips_give_finite_scores(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    clips, labels = test_clips
    scores = fitted(name, train.take([0] * 5), density_per_id=False).score_samples(clips)
    assert np.isfinite(scores).all()
    assert mean_auc(labels, scores, clips.ids) > 0.6


@pytest.mark.parametrize("name", ALL)
def test_an_unheard_id_is_an_error_per_id_and_none_pooled(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    stranger = replace(test_clips[0], ids=("09",) * 20)
    with pytest.raises(DataError, match=r"id 09 was not in training \(00, 01 were\)"):
        fitted(name, train).score_samples(stranger)
    pooled = fitted(name, train, density_per_id=False)
    np.testing.assert_array_equal(pooled.score_samples(stranger), pooled.score_samples(test_clips[0]))


@pytest.mark.parametrize("name", ALL)
def test_a_model_of_one_id_knows_nothing_of_the_others(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    """Per machine id each group is fitted as if alone; pooled, the ids mean nothing."""
    clips, _ = test_clips
    mine = [index for index, machine_id in enumerate(clips.ids) if machine_id == "01"]
    both = fitted(name, train).score_samples(clips)
    alone = fitted(name, train.take([index for index, machine_id in enumerate(train.ids) if machine_id == "01"]))
    np.testing.assert_allclose(both[mine], alone.score_samples(clips.take(mine)), rtol=1e-4)
    pooled = fitted(name, train, density_per_id=False)
    assert set(pooled.groups) == {"*"}
    renamed = fitted(name, replace(train, ids=("00",) * len(train)))
    everyone = replace(clips, ids=("00",) * len(clips))
    np.testing.assert_array_equal(pooled.score_samples(clips), renamed.score_samples(everyone))


@pytest.mark.parametrize("name", ALL)
def test_codes_and_codebook_are_not_changed(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    codes, codebook = train.codes_BPHWM.clone(), CODEBOOK_KD.clone()
    fitted(name, train).score_samples(test_clips[0])
    assert torch.equal(codes, train.codes_BPHWM)
    assert torch.equal(codebook, CODEBOOK_KD)


@pytest.mark.parametrize("name", ["grid_neighbours", "shifted_neighbours", "histogram_neighbours"])
def test_the_codebook_s_scale_and_place_mean_nothing_to_neighbours(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    straight = fitted(name, train).score_samples(test_clips[0])
    moved = make_density(ScoreConfig(), name=name, seed=3).fit(train, 50 * CODEBOOK_KD + 7)
    np.testing.assert_allclose(moved.score_samples(test_clips[0]), straight, rtol=1e-2)


def test_the_codebook_s_scale_and_place_mean_nothing_to_the_autoregressive_model(train: ClipCodes) -> None:
    grids = []
    for codebook_KD in (CODEBOOK_KD, 50 * CODEBOOK_KD + 7):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            grids.append(autoregressive.CausalGrid(codebook_KD, 8))
    with torch.no_grad():
        straight, moved = (grid(train.codes_BPHWM[0]) for grid in grids)
    np.testing.assert_allclose(moved.numpy(), straight.numpy(), rtol=1e-3)


def test_the_autoregressive_model_s_steps_shrink_along_half_a_cosine(
    train: ClipCodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    step = torch.optim.AdamW.step

    def recorded(optimizer: torch.optim.AdamW) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    fitted("autoregressive", train.take([0]))
    np.testing.assert_allclose(rates, 3e-3 * np.cos(np.pi / 2 * np.arange(25) / 25) ** 2)


def test_no_logits_of_the_autoregressive_model_exceed_a_chunk(
    train: ClipCodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fitting and in scoring; a patch has 8 × 8 positions of 24 float32 logits."""
    sizes: list[int] = []
    surprise = autoregressive.CausalGrid.surprise

    def recorded(grid: autoregressive.CausalGrid, codes_XHW: torch.Tensor) -> torch.Tensor:
        sizes.append(len(codes_XHW))
        return surprise(grid, codes_XHW)

    monkeypatch.setattr(autoregressive.CausalGrid, "surprise", recorded)
    monkeypatch.setattr(autoregressive, "STEPS", 2)
    monkeypatch.setattr(distances, "CHUNK_BYTES", 3 * 4 * 8 * 8 * NUM_CODES)
    fitted("autoregressive", train).score_samples(replace(train.take([0, 1]), split=Split.VALIDATION))
    assert set(sizes) == {1, 3}, "a clip has four patches: a chunk of three and one more"


def test_another_seed_starts_the_autoregressive_model_elsewhere(
    train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    one, other = (
        make_density(ScoreConfig(), name="autoregressive", seed=seed).fit(train, CODEBOOK_KD) for seed in (1, 2)
    )
    assert (one.score_samples(test_clips[0]) != other.score_samples(test_clips[0])).all()


def test_repeated_patches_do_not_bias_neighbours(train: ClipCodes) -> None:
    """A clip that repeats each patch to fill its grid scores as one that does not."""
    short = machine_codes(8, 5)[:, :1]
    twice = short.expand(-1, PATCHES, -1, -1)
    ids = ("00", "01") * 4
    for name in ("counts", "histogram_neighbours", "mahalanobis", "grid_neighbours"):
        model = fitted(name, train)  # type: ignore[arg-type]
        np.testing.assert_allclose(
            model.score_samples(clip_codes(twice, ids, Split.VALIDATION)),
            model.score_samples(clip_codes(short, ids, Split.VALIDATION)),
            rtol=1e-4,
            err_msg=name,
        )


def test_another_number_of_patches_than_in_training_is_refused(train: ClipCodes) -> None:
    clips = clip_codes(machine_codes(2, 5)[:, :3], ("00", "01"), Split.VALIDATION)
    with pytest.raises(ValueError, match="3 patches against 4"):
        fitted("shifted_neighbours", train).score_samples(clips)


def test_a_shift_in_time_costs_shifted_neighbours_nothing() -> None:
    """Training clips moved by one patch are still the same clips."""
    codes = torch.randint(NUM_CODES, (6, 9, 8, 8), generator=torch.Generator().manual_seed(0))
    known = clip_codes(codes[:, :8], ("00",) * 6, Split.TRAIN)
    moved = clip_codes(codes[:, 1:], ("00",) * 6, Split.VALIDATION)
    config = ScoreConfig()
    shifted = make_density(config, name="shifted_neighbours").fit(known, CODEBOOK_KD)
    normal = shifted.score_samples(replace(known, split=Split.VALIDATION))
    strangers = clip_codes(
        torch.randint(NUM_CODES, (6, 8, 8, 8), generator=torch.Generator().manual_seed(1)),
        ("00",) * 6,
        Split.VALIDATION,
    )
    # Seven of eight patches have their equal; one, at the clip's end, has none.
    assert shifted.score_samples(moved).max() < shifted.score_samples(strangers).min()
    assert normal.max() < shifted.score_samples(strangers).min()


def test_combined_members_weigh_alike(train: ClipCodes) -> None:
    """Each member's calibration makes its scores on unseen normal clips about mean 0, deviation 1."""
    unseen = clip_codes(machine_codes(40, 77), ("00", "01") * 20, Split.HELD_OUT)
    scores = fitted("combined", train).score_samples(unseen)
    assert abs(scores.mean()) < 1.5
    assert scores.std() < 3


@pytest.mark.parametrize("name", ["interpolation", "mahalanobis", "cross_mahalanobis", "coarse_mahalanobis"])
def test_halves_that_share_their_sums_are_fitted_as_if_alone(name: DensityName, train: ClipCodes) -> None:
    codes_BPHWM = train.codes_BPHWM[:15]
    model = make_density(ScoreConfig(), name=name).fit(train, CODEBOOK_KD)
    state, unseen = model.cross_fitted(codes_BPHWM)
    alone, expected = cross_fitted(codes_BPHWM, model.fit_group, model.clip_scores)
    torch.testing.assert_close(unseen, expected, rtol=1e-4, atol=1e-5)
    assert state.keys() == alone.keys()
    for part, value in alone.items():
        torch.testing.assert_close(state[part], value, rtol=1e-3, atol=1e-4, msg=part)


@pytest.mark.parametrize("name", ["combined", "fused"])
def test_a_combination_scores_from_what_its_members_gave(
    name: DensityName, train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    codes, _ = test_clips
    combination = make_density(ScoreConfig(), name=name).fit(train, CODEBOOK_KD)
    assert isinstance(combination, Combined)
    scores = {member.name: member.score_samples(codes) for member in combination.fitted_members()}
    np.testing.assert_array_equal(combination.scores_from_members(scores, codes), combination.score_samples(codes))


def test_the_combination_hands_on_its_members_as_if_fitted_alone(
    train: ClipCodes, test_clips: tuple[ClipCodes, np.ndarray]
) -> None:
    codes, _ = test_clips
    combined = Combined(ScoreConfig()).fit(train, CODEBOOK_KD)
    members = combined.fitted_members()
    assert [member.name for member in members] == ["grid_neighbours", "mahalanobis"]
    for member in members:
        alone = make_density(ScoreConfig(), name=member.name).fit(train, CODEBOOK_KD)
        assert np.array_equal(member.score_samples(codes), alone.score_samples(codes))


def test_an_unheard_context_leaves_the_bigram_with_how_often_a_code_is_heard(train: ClipCodes) -> None:
    bigram = make_density(ScoreConfig(density_per_id=False), name="bigram").fit(train, CODEBOOK_KD)
    counts = make_density(ScoreConfig(density_per_id=False), name="counts").fit(train, CODEBOOK_KD)
    never = NUM_CODES - 1
    assert not (train.codes_BPHWM == never).any()
    codes = clip_codes(torch.full((1, PATCHES, 8, 8), never), ("00",), Split.VALIDATION)
    assert isinstance(bigram, PositionModel)
    assert isinstance(counts, PositionModel)
    assert torch.allclose(bigram.position_scores(codes), counts.position_scores(codes))


def test_known_clips_are_thinned_where_there_are_thousands(monkeypatch: pytest.MonkeyPatch, train: ClipCodes) -> None:
    monkeypatch.setattr(neighbours, "MOST_PATCHES", 5 * PATCHES)
    model = make_density(ScoreConfig(density_per_id=False), name="shifted_neighbours").fit(train, CODEBOOK_KD)
    assert model.groups["*"]["clips"].shape[0] == 5
    patches = make_density(ScoreConfig(density_per_id=False), name="grid_neighbours").fit(train, CODEBOOK_KD)
    assert patches.groups["*"]["patches"].shape[0] == patches.groups["*"]["radii"].shape[0] == 5 * PATCHES


@pytest.mark.parametrize("name", ["histogram_neighbours", "shifted_neighbours"])
def test_radii_are_measured_against_some_clips_where_there_are_thousands(
    name: DensityName, train: ClipCodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against every fourth of 40 clips radii are larger, since the nearest of fewer is farther; all stay known."""
    every = make_density(ScoreConfig(density_per_id=False), name=name).fit(train, CODEBOOK_KD).groups["*"]["radii"]
    monkeypatch.setattr(neighbours, "REFERENCE_CLIPS", 10)
    fewer = make_density(ScoreConfig(density_per_id=False), name=name).fit(train, CODEBOOK_KD).groups["*"]["radii"]
    assert len(fewer) == len(every) == 40
    assert (fewer >= every - 1e-6).all()
    assert fewer.mean() > 1.05 * every.mean()


def test_a_model_is_registered_under_its_own_name_alone() -> None:
    """A saved detector names the model by its class."""

    class Other(density_named("counts")):  # type: ignore[misc]
        name = "other"

    with pytest.raises(ConfigError, match="Other cannot be registered as 'counts'"):
        register_density("counts", Other)
    same = type("Same", (density_named("counts"),), {"name": "counts"})
    with pytest.raises(ConfigError):
        register_density("counts", same)  # taken by another
    assert density_named("counts") is not same
    with pytest.raises(ConfigError):
        density_named("other")  # type: ignore[arg-type]


def test_the_configured_model_is_made_unless_another_is_named() -> None:
    config = ScoreConfig(density="bigram")
    assert make_density(config).name == "bigram"
    assert make_density(config, name="counts", seed=5).name == "counts"
    assert (make_density(config).seed, make_density(config, seed=5).seed) == (0, 5)
