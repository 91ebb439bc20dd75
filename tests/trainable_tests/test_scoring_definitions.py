"""Each density model against its definition, computed in NumPy clip by clip and code by code."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import Ridge

from trainable.config import DensityName, ScoreConfig
from trainable.data.clips import Split
from trainable.scoring import autoregressive
from trainable.scoring.autoregressive import CausalGrid
from trainable.scoring.codes import ClipCodes
from trainable.scoring.combined import Combined, Fused
from trainable.scoring.density import PositionModel, aggregate
from trainable.scoring.distances import (
    CHUNK_BYTES,
    LANDMARKS,
    chunk_length,
    code_kernel,
    floored,
    local_radii,
    nearest_in_radii,
    reduced_codebook,
)
from trainable.scoring.neighbours import thinned
from trainable.scoring.registry import make_density

K, D, P, H, W = 11, 12, 3, 4, 5
CODEBOOK_KD = torch.randn(K, D, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 3, D)


def random_codes(n_clips: int, seed: int, *, patches: int = P, highest: int = K) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(highest, (n_clips, patches, H, W), generator=generator).numpy()


TRAIN_BPHW, ASKED_BPHW = random_codes(9, 0, highest=K - 1), random_codes(4, 1)


def clip_codes(codes_BPHW: np.ndarray, split: Split) -> ClipCodes:
    starts = 16 * torch.arange(codes_BPHW.shape[1]).expand(len(codes_BPHW), -1)
    return ClipCodes(torch.from_numpy(codes_BPHW)[..., None], starts, ("00",) * len(codes_BPHW), split)


def scores(
    name: DensityName,
    train_BPHW: np.ndarray = TRAIN_BPHW,
    asked_BPHW: np.ndarray = ASKED_BPHW,
    config: ScoreConfig = ScoreConfig(),  # noqa: B008  (frozen)
) -> np.ndarray:
    model = make_density(config, name=name).fit(clip_codes(train_BPHW, Split.TRAIN), CODEBOOK_KD)
    return model.score_samples(clip_codes(asked_BPHW, Split.VALIDATION))


def positions(name: DensityName, train_BPHW: np.ndarray, asked_BPHW: np.ndarray) -> np.ndarray:
    model = make_density(ScoreConfig(), name=name).fit(clip_codes(train_BPHW, Split.TRAIN), CODEBOOK_KD)
    assert isinstance(model, PositionModel)
    return model.position_scores(clip_codes(asked_BPHW, Split.VALIDATION)).numpy()


# ---- counts ----------------------------------------------------------------------------------------------------------


def row_counts(codes_BPHW: np.ndarray) -> np.ndarray:
    counts_HK = np.zeros((H, K))
    for h in range(H):
        for code in codes_BPHW[:, :, h].ravel():
            counts_HK[h, code] += 1
    return counts_HK


def log_shares(counts_HK: np.ndarray) -> np.ndarray:
    """A tenth of a count for each code, heard or not."""
    return np.log((counts_HK + 0.1) / (counts_HK + 0.1).sum(axis=1, keepdims=True))


def surprise_of_shares(log_HK: np.ndarray, codes_BPHW: np.ndarray) -> np.ndarray:
    return np.array([[-log_HK[np.arange(H)[:, None], patch] for patch in clip] for clip in codes_BPHW])


def kernel() -> np.ndarray:
    """Gaussian; its variance is the median squared distance of a code to its third-nearest neighbour."""
    codebook = CODEBOOK_KD.double().numpy()
    squared = ((codebook[:, None] - codebook) ** 2).sum(axis=2)
    variance = np.median(np.sort(squared, axis=1)[:, 3])  # the nearest is the code itself
    weights = np.exp(-squared / (2 * variance))
    return weights / weights.sum(axis=1, keepdims=True)


def test_counts_are_shares_of_a_row_s_codes() -> None:
    expected = surprise_of_shares(log_shares(row_counts(TRAIN_BPHW)), ASKED_BPHW)
    np.testing.assert_allclose(positions("counts", TRAIN_BPHW, ASKED_BPHW), expected, rtol=1e-4)
    np.testing.assert_allclose(scores("counts"), expected.mean(axis=(1, 2, 3)), rtol=1e-4)


def test_kernel_counts_are_shared_with_codes_nearby() -> None:
    taken = kernel()
    shared_HK = row_counts(TRAIN_BPHW) @ taken @ (taken / taken.sum(axis=0)).T
    expected = surprise_of_shares(log_shares(shared_HK), ASKED_BPHW)
    np.testing.assert_allclose(positions("kernel_counts", TRAIN_BPHW, ASKED_BPHW), expected, rtol=1e-3)


def test_the_bigram_is_half_the_transition_and_half_the_code() -> None:
    expected = surprise_of_shares(log_shares(row_counts(TRAIN_BPHW)), ASKED_BPHW)
    unheard = 0
    for b, p, h, w in np.ndindex(ASKED_BPHW.shape):
        if w == 0:
            continue
        before, code = ASKED_BPHW[b, p, h, w - 1 : w + 1]
        heard = TRAIN_BPHW[:, :, h, :-1] == before
        if not heard.any():
            unheard += 1
            continue
        share = (heard & (TRAIN_BPHW[:, :, h, 1:] == code)).sum() / heard.sum()
        expected[b, p, h, w] = -np.log(0.5 * share + 0.5 * np.exp(-expected[b, p, h, w]))
    assert unheard
    np.testing.assert_allclose(positions("bigram", TRAIN_BPHW, ASKED_BPHW), expected, rtol=1e-4)


# ---- neighbours ------------------------------------------------------------------------------------------------------


def vectors() -> np.ndarray:
    """The codebook on its eight main axes, of mean squared length 1."""
    centred = CODEBOOK_KD.double().numpy()
    centred = centred - centred.mean(axis=0)
    main = centred @ np.linalg.svd(centred)[2][:8].T
    return main / np.sqrt((main**2).sum(axis=1).mean())


VECTORS_KD = vectors()


def radii_of(distances_NN: np.ndarray, owners_N: np.ndarray) -> np.ndarray:
    """Mean of the four nearest of other clips, at least a tenth of the mean radius."""
    radii = [np.sort(row[owners_N != own])[:4].mean() for row, own in zip(distances_NN, owners_N, strict=True)]
    return np.maximum(radii, 0.1 * np.mean(radii))


def nearest_four(distances_MN: np.ndarray, radii_N: np.ndarray) -> np.ndarray:
    return np.sort(distances_MN / radii_N, axis=1)[:, :4].mean(axis=1)


def pairwise(a: list[np.ndarray], b: list[np.ndarray], distance) -> np.ndarray:  # type: ignore[no-untyped-def]
    return np.array([[distance(one, other) for other in b] for one in a])


def patch_distance(a_HW: np.ndarray, b_HW: np.ndarray) -> float:
    return float(((VECTORS_KD[a_HW] - VECTORS_KD[b_HW]) ** 2).sum(axis=-1).mean())


def test_histograms_are_compared_by_hellinger_s_distance() -> None:
    taken = kernel()

    def roots(clip_PHW: np.ndarray) -> np.ndarray:
        return np.sqrt(row_counts(clip_PHW[None]) / (P * W) @ taken).ravel()

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a - b) ** 2).sum())

    known, asked = [roots(clip) for clip in TRAIN_BPHW], [roots(clip) for clip in ASKED_BPHW]
    radii = radii_of(pairwise(known, known, distance), np.arange(len(known)))
    expected = nearest_four(pairwise(asked, known, distance), radii)
    np.testing.assert_allclose(scores("histogram_neighbours"), expected, rtol=1e-3)


def test_grids_are_compared_position_by_position_with_patches_of_other_clips() -> None:
    train = TRAIN_BPHW.copy()
    train[0, 2] = train[0, 1]  # a patch that only repeats the one before it is not known twice
    train[1, 2] = train[1, 0]  # one that comes back later is
    known = [patch for index, clip in enumerate(train) for patch in (clip[:2] if index == 0 else clip)]
    owners = np.array([index for index in range(len(train)) for _ in range(2 if index == 0 else P)])
    radii = radii_of(pairwise(known, known, patch_distance), owners)
    asked = list(ASKED_BPHW.reshape(-1, H, W))
    in_radii = pairwise(asked, known, patch_distance) / radii
    expected = np.sort(in_radii, axis=1)[:, :4].mean(axis=1).reshape(-1, P)
    np.testing.assert_allclose(scores("grid_neighbours", train), expected.mean(axis=1), rtol=1e-3)
    surprise = [
        np.mean([((VECTORS_KD[a] - VECTORS_KD[known[n]]) ** 2).sum(axis=-1) / radii[n] for n in np.argsort(row)[:4]], 0)
        for a, row in zip(asked, in_radii, strict=True)
    ]
    found = positions("grid_neighbours", train, ASKED_BPHW).reshape(-1, H, W)
    np.testing.assert_allclose(found, surprise, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5])
@pytest.mark.parametrize("name", ["grid_neighbours", "histogram_neighbours", "shifted_neighbours"])
def test_distances_are_divided_by_a_power_of_the_neighbour_s_radius(name: DensityName, power: float) -> None:
    config = ScoreConfig(radius_power=power)
    plain, powered = (
        make_density(each, name=name).fit(clip_codes(TRAIN_BPHW, Split.TRAIN), CODEBOOK_KD)
        for each in (ScoreConfig(), config)
    )
    torch.testing.assert_close(powered.groups["00"]["radii"], plain.groups["00"]["radii"] ** power)
    if name == "grid_neighbours":
        known = list(TRAIN_BPHW.reshape(-1, H, W))
        radii = radii_of(pairwise(known, known, patch_distance), np.arange(len(known)) // P) ** power
        expected = nearest_four(pairwise(list(ASKED_BPHW.reshape(-1, H, W)), known, patch_distance), radii)
        np.testing.assert_allclose(scores(name, config=config), expected.reshape(-1, P).mean(axis=1), rtol=1e-3)


@pytest.mark.parametrize(("patches", "most"), [(1, 0), (3, 1), (17, 2)])
def test_clips_are_compared_patch_by_patch_within_an_eighth(patches: int, most: int) -> None:
    """The distance is the larger of both ways; what the other has and this one lacks is shared by all positions."""
    train = list(random_codes(6, 2, patches=patches))
    asked = list(random_codes(3, 3, patches=patches))

    def matches(one: np.ndarray, other: np.ndarray) -> list[int]:
        """For each patch of one the nearest of the other."""
        near = [range(max(0, p - most), min(patches, p + most + 1)) for p in range(patches)]
        return [min(near[p], key=lambda q: patch_distance(one[p], other[q])) for p in range(patches)]

    def one_way(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.mean([patch_distance(one[p], other[q]) for p, q in enumerate(matches(one, other))]))

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        return max(one_way(one, other), one_way(other, one))

    radii = radii_of(pairwise(train, train, distance), np.arange(len(train)))
    in_radii = pairwise(asked, train, distance) / radii
    found = scores("shifted_neighbours", np.array(train), np.array(asked))
    np.testing.assert_allclose(found, np.sort(in_radii, axis=1)[:, :4].mean(axis=1), rtol=1e-3)
    surprise = np.zeros((len(asked), patches, H, W))
    for clip, row in enumerate(in_radii):
        for n in np.argsort(row)[:4]:
            matched = train[n][matches(asked[clip], train[n])]
            gaps = ((VECTORS_KD[asked[clip]] - VECTORS_KD[matched]) ** 2).sum(axis=-1)
            surprise[clip] += (gaps / radii[n] + row[n] - gaps.mean() / radii[n]) / 4
    np.testing.assert_allclose(
        positions("shifted_neighbours", np.array(train), np.array(asked)), surprise, rtol=1e-3, atol=1e-4
    )


# ---- moments and the combination -------------------------------------------------------------------------------------


def vectors(clip_PHW: np.ndarray) -> np.ndarray:
    """Of each row, patch and column, float64 (H, P, W, D)."""
    return VECTORS_KD[clip_PHW].transpose(1, 0, 2, 3)


def moments(vectors_HPWD: np.ndarray) -> np.ndarray:
    """Of each row and axis: mean, deviation, and the root mean square of the steps within patches."""
    found = []
    for rows_PWD in vectors_HPWD:
        steps = np.diff(rows_PWD, axis=1)
        found += [rows_PWD.mean(axis=(0, 1)), rows_PWD.std(axis=(0, 1)), np.sqrt((steps**2).mean(axis=(0, 1)))]
    return np.concatenate(found)


def distances(known_BF: np.ndarray, asked_BF: np.ndarray) -> np.ndarray:
    """Squared Mahalanobis distances a dimension."""
    gaps = asked_BF - known_BF.mean(axis=0)
    precision = np.linalg.inv(ledoit_wolf(known_BF)[0])
    result: np.ndarray = np.einsum("bi,ij,bj->b", gaps, precision, gaps) / gaps.shape[1]
    return result


def test_mahalanobis_is_the_squared_distance_of_moments_a_dimension() -> None:
    known, asked = (np.array([moments(vectors(clip)) for clip in codes]) for codes in (TRAIN_BPHW, ASKED_BPHW))
    np.testing.assert_allclose(scores("mahalanobis"), distances(known, asked), rtol=1e-3)


def test_of_one_normal_clip_all_moments_count_alike() -> None:
    gaps = np.array([moments(vectors(clip)) for clip in ASKED_BPHW]) - moments(vectors(TRAIN_BPHW[0]))
    np.testing.assert_allclose(scores("mahalanobis", TRAIN_BPHW[:1]), (gaps**2).mean(axis=1), rtol=1e-3)


def row_correlations(vectors_HPWD: np.ndarray) -> np.ndarray:
    """Correlation of each pair of rows, over the positions and axes of a clip."""
    rows = vectors_HPWD - vectors_HPWD.mean(axis=(1, 2), keepdims=True)
    return np.array(
        [
            (rows[h] * rows[k]).sum() / np.sqrt((rows[h] ** 2).sum() * (rows[k] ** 2).sum())
            for h in range(len(rows))
            for k in range(h + 1, len(rows))
        ]
    )


def test_the_cross_block_adds_correlations_of_rows() -> None:
    known, asked = (
        np.array([np.concatenate([moments(vectors(clip)), row_correlations(vectors(clip))]) for clip in codes])
        for codes in (TRAIN_BPHW, ASKED_BPHW)
    )
    np.testing.assert_allclose(scores("cross_mahalanobis"), distances(known, asked), rtol=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (10, 8), (11, 24), (4, 5)])
def test_the_coarse_models_pool_cells_and_compare_patches(rows: int, columns: int) -> None:
    """Eight rows and columns where that many cells divide evenly, more where not, and never more than there are."""
    pooled_H, pooled_W = {16: 8, 10: 10, 11: 11, 4: 4}[rows], {32: 8, 8: 8, 24: 8, 5: 5}[columns]
    rng = np.random.default_rng(0)
    train, asked = rng.integers(K, size=(9, P, rows, columns)), rng.integers(K, size=(4, P, rows, columns))

    def coarse(clip_PHW: np.ndarray) -> np.ndarray:
        cells = vectors(clip_PHW).reshape(pooled_H, rows // pooled_H, P, pooled_W, columns // pooled_W, -1)
        return cells.mean(axis=(1, 4))

    def numbers(clip_PHW: np.ndarray) -> np.ndarray:
        return np.concatenate([moments(coarse(clip_PHW)), coarse(clip_PHW).mean(axis=2).std(axis=1).ravel()])

    def with_correlations(clip_PHW: np.ndarray) -> np.ndarray:
        return np.concatenate([numbers(clip_PHW), row_correlations(coarse(clip_PHW))])

    for name, each in (("coarse_mahalanobis", numbers), ("coarse_cross_mahalanobis", with_correlations)):
        expected = distances(np.array([each(clip) for clip in train]), np.array([each(clip) for clip in asked]))
        np.testing.assert_allclose(scores(name, train, asked), expected, rtol=1e-3)


def test_the_coarse_model_hears_that_patches_no_longer_differ() -> None:
    """Normal patches have one of two sounds each, those of the fault both: a clip holds as much of either as before,
    which the moments of single cells do not tell."""
    rng = np.random.default_rng(0)
    normal = np.tile(np.arange(4)[:, None, None] % 2, (40, 1, H, 64))
    fault = np.tile(np.arange(64) // 32, (10, 4, H, 1))
    for clips in (normal, fault):
        noisy = rng.random(clips.shape) < 0.1
        clips[noisy] = rng.integers(2, size=int(noisy.sum()))

    def rise(name: DensityName) -> float:
        return float(scores(name, normal[:30], fault).mean() / scores(name, normal[:30], normal[30:]).mean())

    assert rise("coarse_mahalanobis") > 3 * rise("mahalanobis")


def test_the_cross_block_hears_rows_that_no_longer_move_together() -> None:
    """Every row by itself is as before; only their common timing is gone, which the moments alone do not hear."""
    rng = np.random.default_rng(0)
    together = np.repeat(rng.integers(K, size=(40, P, 1, 40)), H, axis=2)
    apart = together[30:].copy()
    apart[:, :, 0] = np.roll(apart[:, :, 0], 7, axis=-1)

    def rise(name: DensityName) -> float:
        return float(scores(name, together[:30], apart).mean() / scores(name, together[:30], together[30:]).mean())

    assert rise("mahalanobis") < 1.5
    assert rise("cross_mahalanobis") > 10


def columns(codes_BPHW: np.ndarray) -> np.ndarray:
    """All vectors of each column, float64 (B, P, W, H · D)."""
    return VECTORS_KD[codes_BPHW.transpose(0, 1, 3, 2)].reshape(*codes_BPHW.shape[:2], codes_BPHW.shape[3], -1)


def test_interpolation_is_the_whitened_residual_of_a_ridge_regression_on_the_columns_beside() -> None:
    known, asked = columns(TRAIN_BPHW), columns(ASKED_BPHW)
    size = known.shape[-1]

    def beside(columns_BPWC: np.ndarray) -> np.ndarray:
        return np.concatenate([columns_BPWC[:, :, :-2], columns_BPWC[:, :, 2:]], axis=-1)

    inputs, outputs = beside(known).reshape(-1, 2 * size), known[:, :, 1:-1].reshape(-1, size)
    penalty = 0.1 * inputs.var(axis=0).mean() * len(inputs)
    ridge = Ridge(alpha=penalty).fit(inputs, outputs)
    residuals = outputs - ridge.predict(inputs)
    covariance = 0.9 * residuals.T @ residuals / len(residuals)
    covariance += 0.1 * (residuals**2).mean() * np.eye(size)
    found = ridge.predict(beside(asked).reshape(-1, 2 * size)).reshape(asked[:, :, 1:-1].shape)
    gaps = asked[:, :, 1:-1] - found
    expected = np.einsum("bpwi,ij,bpwj->bpw", gaps, np.linalg.inv(covariance), gaps) / size
    surprise = positions("interpolation", TRAIN_BPHW, ASKED_BPHW)
    np.testing.assert_allclose(surprise[..., 1:-1].mean(axis=2), expected, rtol=1e-3)
    np.testing.assert_array_equal(surprise[..., 0], surprise[..., 1])
    np.testing.assert_array_equal(surprise[..., -1], surprise[..., -2])
    np.testing.assert_allclose(scores("interpolation"), surprise.mean(axis=(1, 2, 3)), rtol=1e-5)


def test_interpolation_finds_the_position_that_its_neighbours_do_not_tell() -> None:
    rng = np.random.default_rng(0)
    steady = np.repeat(rng.integers(K, size=(60, P, H, 1)), W, axis=3)
    odd = steady[50:].copy()
    odd[:, 1, 2, 2] = (odd[:, 1, 2, 2] + 1) % K
    surprise = positions("interpolation", steady[:50], odd)
    assert (surprise[:, 1, 2, 2] == surprise.max(axis=(1, 2, 3))).all()


@pytest.mark.parametrize("n_columns", [1, 2])
def test_grids_without_neighbours_are_compared_with_their_mean(n_columns: int) -> None:
    surprise = positions("interpolation", TRAIN_BPHW[..., :n_columns], TRAIN_BPHW[..., :n_columns])
    assert surprise.shape == (*TRAIN_BPHW.shape[:3], n_columns)
    assert 0.5 < surprise.mean() < 1.5


COMBINATIONS: dict[DensityName, tuple[DensityName, ...]] = {
    "combined": ("grid_neighbours", "mahalanobis"),
    "fused": ("grid_neighbours", "mahalanobis", "cross_mahalanobis", "interpolation"),
}


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_a_combination_is_the_mean_of_z_scores_from_clips_a_member_has_not_seen(combination: DensityName) -> None:
    even, odd = TRAIN_BPHW[::2], TRAIN_BPHW[1::2]
    expected = np.zeros(len(ASKED_BPHW))
    for name in COMBINATIONS[combination]:
        unseen = np.concatenate([scores(name, even, odd), scores(name, odd, even)])
        expected += (scores(name) - unseen.mean()) / unseen.std() / len(COMBINATIONS[combination])
    np.testing.assert_allclose(scores(combination), expected, rtol=1e-3)


def test_a_part_of_a_combination_scores_as_if_fitted_alone() -> None:
    codes = clip_codes(TRAIN_BPHW, Split.TRAIN)
    part = Fused(ScoreConfig()).fit(codes, CODEBOOK_KD).part(Combined)
    np.testing.assert_array_equal(part.score_samples(clip_codes(ASKED_BPHW, Split.VALIDATION)), scores("combined"))
    assert part.name == "combined"


def test_the_combination_of_one_normal_clip_is_the_mean_of_its_members() -> None:
    members = [scores(name, TRAIN_BPHW[:1]) for name in ("grid_neighbours", "mahalanobis")]
    np.testing.assert_allclose(scores("combined", TRAIN_BPHW[:1]), np.mean(members, axis=0), rtol=1e-5)


def test_where_a_member_s_scores_are_all_equal_a_thousandth_of_their_mean_is_a_deviation() -> None:
    same = np.repeat(TRAIN_BPHW[:1], 4, axis=0)
    expected = np.zeros(len(ASKED_BPHW))
    for name in ("grid_neighbours", "mahalanobis"):
        centre = float(scores(name, same[:2], same[:1])[0])
        expected += (scores(name, same) - centre) / (1e-3 * abs(centre) + 1e-9) / 2
    np.testing.assert_allclose(scores("combined", same), expected, rtol=1e-3)


# ---- the autoregressive model ----------------------------------------------------------------------------------------


def test_a_position_sees_five_rows_of_three_columns_before_it_and_two_rows_below_it() -> None:
    torch.manual_seed(0)
    n_rows, n_columns = 8, 9
    grid = CausalGrid(CODEBOOK_KD, n_rows)
    codes = torch.randint(K, (1, n_rows, n_columns, 1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = grid(codes)
        np.testing.assert_allclose(before.exp().sum(dim=-1).numpy(), 1.0, rtol=1e-5)
        surprise = -before[0, torch.arange(n_rows)[:, None], torch.arange(n_columns), codes[0, ..., 0]]
        np.testing.assert_allclose(grid.surprise(codes)[0].numpy(), surprise.numpy(), rtol=1e-6)
        h, w = 4, 3
        codes[0, h, w, 0] = (codes[0, h, w, 0] + 1) % K
        moved = (grid(codes) - before).abs().amax(dim=-1)[0] > 1e-7
    sees = {
        (row, column)
        for row in range(n_rows)
        for column in range(n_columns)
        if (abs(row - h) <= 2 and 1 <= column - w <= 3) or (column == w and 1 <= row - h <= 2)
    }
    assert {tuple(place) for place in moved.nonzero().tolist()} == sees


def test_the_autoregressive_model_learns_what_is_certain() -> None:
    """Each column counts one further than the one before it: after the first column nothing is surprising."""
    begin = np.random.default_rng(0).integers(K, size=(20, P, H, 1))
    cycles = (begin + np.arange(W)) % K
    surprise = positions("autoregressive", cycles, cycles[:5])
    assert surprise[..., 1:].mean() < 0.2
    assert surprise[..., 0].mean() > 1.5, "a beginning may be any code"


def test_the_autoregressive_model_knows_a_code_s_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoregressive, "STEPS", 40)
    rows = np.broadcast_to(np.arange(H)[:, None], (20, P, H, W)).copy()
    assert positions("autoregressive", rows, rows[:3]).mean() < 0.2


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_a_clip_s_score_is_the_mean_the_largest_or_the_mean_of_the_top_share() -> None:
    surprise = torch.tensor([[3.0, 1.0, 10.0, 2.0, 8.0, 0.0, 4.0, 5.0, 6.0, 7.0]]).view(1, 1, 2, 5)
    assert aggregate(surprise, ScoreConfig(aggregation="mean")).item() == pytest.approx(4.6)
    assert aggregate(surprise, ScoreConfig(aggregation="max")).item() == 10.0
    assert aggregate(surprise, ScoreConfig(aggregation="top_k", top_k_share=0.3)).item() == pytest.approx(25 / 3)
    assert aggregate(surprise, ScoreConfig(aggregation="top_k", top_k_share=0.01)).item() == 10.0


def test_a_chunk_holds_what_fits_and_at_least_one_row() -> None:
    assert chunk_length(CHUNK_BYTES // 4) == 4
    assert chunk_length(CHUNK_BYTES // 4 + 1) == 3
    assert chunk_length(2 * CHUNK_BYTES) == 1
    assert chunk_length(0) == CHUNK_BYTES


def test_a_narrow_codebook_keeps_all_its_distances_up_to_scale() -> None:
    codebook = torch.randn(20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reduced = reduced_codebook(codebook, 8)
    ratio = torch.cdist(reduced, reduced)[0, 1:] / torch.cdist(codebook, codebook)[0, 1:]
    np.testing.assert_allclose(ratio.numpy(), ratio[0].item(), rtol=1e-6)
    assert reduced.square().sum(dim=1).mean().item() == pytest.approx(1.0)
    assert torch.isfinite(reduced_codebook(torch.ones(3, 4), 8)).all(), "of equal codes all distances are 0"


def test_of_many_codes_a_seeded_sample_stands_for_all() -> None:
    codebook = torch.randn(LANDMARKS + 50, 6, generator=torch.Generator().manual_seed(0))
    taken = code_kernel(codebook, seed=0)
    assert taken.shape == (LANDMARKS + 50, LANDMARKS)
    np.testing.assert_allclose(taken.sum(dim=1).numpy(), 1.0, rtol=1e-5)
    assert torch.equal(taken, code_kernel(codebook, seed=0))
    assert not torch.equal(taken, code_kernel(codebook, seed=1))
    assert set(taken.argmax(dim=1).tolist()) == set(range(LANDMARKS)), "a landmark takes most of itself"
    assert code_kernel(codebook[:LANDMARKS], seed=0).shape == (LANDMARKS, LANDMARKS)


def test_radii_are_of_the_four_nearest_others_and_1_where_there_are_none() -> None:
    distances = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 50.0]])
    itself = torch.tensor([[True, False, False, False, False, False]])
    assert local_radii(distances, itself).tolist() == [2.5]
    assert local_radii(distances[:, :3], itself[:, :3]).tolist() == [1.5]
    assert local_radii(distances[:, :1], itself[:, :1]).tolist() == [1.0]


def test_no_radius_is_less_than_a_tenth_of_the_mean() -> None:
    assert floored(torch.tensor([0.0, 4.0])).tolist() == pytest.approx([0.2, 4.0])
    assert floored(torch.zeros(2)).tolist() == pytest.approx([1e-3, 1e-3])


def test_nearest_is_by_distance_in_radii() -> None:
    found, indices = nearest_in_radii(torch.tensor([[2.0, 3.0, 1.0]]), torch.tensor([1.0, 3.0, 0.1]), 2)
    assert found.tolist() == [[1.0, 2.0]]
    assert indices.tolist() == [[1, 0]]
    few, _ = nearest_in_radii(torch.tensor([[2.0, 3.0, 1.0]]), torch.ones(3), 4)
    assert few.shape == (1, 3)


def test_thinning_spreads_evenly_and_keeps_all_of_a_few() -> None:
    assert thinned(10, 4).tolist() == [0, 2, 5, 7]
    assert thinned(3, 4).tolist() == [0, 1, 2]
