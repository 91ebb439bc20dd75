"""The bench of search methods, on recorded trainings whose best configuration and density model are known."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import curves, ensemble, portfolio, prefer_fast, recorded, search_methods, trial_length, until_flat
from benchmarks.tables import read_table
from benchmarks.worlds import World, rank_correlations
from search.engine.space_draws import uniform_params
from spaces.loader import load_space
from trainable.errors import ConfigError

SPACE = load_space("ad_tuning")
CONFIGURATIONS, EPOCHS, CLIPS = 10, 12, 24
DENSITIES = search_methods.OLD_DENSITIES


def write_store(folder: Path, seed: int) -> None:
    """Configurations that detect the better the higher their number; `interpolation` is the best density model."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    labels = np.repeat([0, 1], CLIPS)
    splits = ("validation", "held_out", "fresh")
    said = {f"{split}/{what}": value for split in splits for what, value in (("ids", np.full(2 * CLIPS, "00")),)}
    np.savez(folder / "clips.npz", **said, **{f"{split}/labels": labels for split in splits})
    for training in recorded.trainings(CONFIGURATIONS, 1):
        params = uniform_params(SPACE, np.random.RandomState(training.configuration))
        arrays = {}
        for density in DENSITIES:
            gain = 0.15 * training.configuration + (1.0 if density == "interpolation" else 0.0)
            arrays[f"{density}/validation"] = rng.normal(size=(EPOCHS, 2 * CLIPS)) + gain * labels
            arrays |= {f"{density}/{split}": rng.normal(size=2 * CLIPS) + gain * labels for split in splits[1:]}
        seconds = np.ones(EPOCHS)
        np.savez(folder / training.file_name, params=np.array(json.dumps(params)), seconds=seconds, **arrays)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores")
    for seed, name in enumerate(("fan", "pump", "valve")):
        write_store(path / name, seed)
    return path


@pytest.fixture(scope="module")
def tables(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables")
    assert curves.main(["--stores", str(stores), "--output", str(path)]) == 0
    return path


def test_trainings_are_every_configuration_and_then_seeds() -> None:
    made = list(recorded.trainings(3, 1))
    assert [(each.configuration, each.repeat) for each in made] == [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2)]
    assert len({each.seed for each in made}) == len({each.file_name for each in made}) == 5
    assert [each.configuration for each in recorded.trainings(3, 0, first=2)] == [2]


def test_tables_grow_by_what_was_recorded_since(stores: Path, tables: Path, tmp_path: Path) -> None:
    shutil.copytree(tables, tmp_path / "tables")
    shutil.copytree(stores, tmp_path / "stores")
    for kept in ("000-0.npz", "000-1.npz", "003-0.npz"):
        (tmp_path / "stores" / "fan" / kept).unlink()
    assert curves.main(["--stores", str(tmp_path / "stores"), "--output", str(tmp_path / "tables")]) == 0
    for name in ("fan.csv", curves.CONFIGURATIONS):
        assert read_table(tmp_path / "tables" / name) == read_table(tables / name)


def test_tables_hold_what_was_recorded(stores: Path, tables: Path) -> None:
    data = {each.name: each for each in curves.read_curves(SPACE, tables)}["fan"]
    assert len(data.once) == CONFIGURATIONS
    assert len(data.by_repeat(0)) == recorded.SEEDS
    assert all(SPACE.holds(params) for params in data.params.values())
    best = data.once[CONFIGURATIONS - 1]
    assert set(best.curves) == {*DENSITIES, curves.CHOSEN}
    scores = np.load(stores / "fan" / f"{CONFIGURATIONS - 1:03d}-0.npz")["interpolation/fresh"]
    normal, anomalous = scores[:CLIPS], scores[CLIPS:]
    expected = np.mean(anomalous[:, None] > normal[None])
    assert best.curves["interpolation"].truth == pytest.approx(expected, abs=1e-4)
    assert best.curves[curves.CHOSEN].truth == best.curves["interpolation"].truth
    assert len(best.curves["fused"].values) == EPOCHS


def test_choosing_by_the_judging_clips_flatters_and_cross_fitting_does_not() -> None:
    """Density models that all guess: the best of them on some clips is no better on others."""
    rng = np.random.default_rng(0)
    labels, ids = np.repeat([0, 1], CLIPS), np.full(2 * CLIPS, "00")
    halves = curves._halves(labels, ids)
    assert halves[0].sum() == halves[1].sum() == CLIPS
    flattered, crossed = [], []
    for _ in range(200):
        guesses = {str(index): rng.normal(size=2 * CLIPS) for index in range(8)}
        by_half = {
            name: np.array([curves._auc((labels, ids), scores, half) for half in halves])
            for name, scores in guesses.items()
        }
        flattered.append(max(curves._auc((labels, ids), scores) for scores in guesses.values()))
        crossed.append(curves._cross_fitted(by_half))
    assert np.mean(flattered) > 0.58
    assert abs(np.mean(crossed) - 0.5) < 0.02


def test_a_world_gives_recorded_trainings(tables: Path) -> None:
    data = curves.read_curves(SPACE, tables)[0]
    world = World(data, SPACE, seed=1)
    for number, params in data.params.items():
        assert world.configuration(params) == number, "what was trained is what it was"
    rng = np.random.RandomState(5)
    cells = {world.configuration(uniform_params(SPACE, rng)) for _ in range(100)}
    assert len(cells) > CONFIGURATIONS / 2
    assert {world.train(data.params[0], seed).repeat for seed in range(20)} == {0, 1, 2}
    assert all(-1.0 <= each <= 1.0 for each in rank_correlations(data, SPACE))


def test_a_portfolio_begins_with_what_is_best_everywhere(tables: Path) -> None:
    sets = curves.read_curves(SPACE, tables)
    chosen = portfolio.greedy(sets, 4)
    assert len(set(chosen)) == 4
    means = np.mean([list(portfolio.truths(data).values()) for data in sets], axis=0)
    assert chosen[0] == int(means.argmax())


def test_averaging_the_best_pairs_beats_one_score(stores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ensemble.main(["--stores", str(stores), "--worlds", "4"]) == 0
    shown = capsys.readouterr().out
    assert f"configurations: fan {CONFIGURATIONS}, pump {CONFIGURATIONS}, valve {CONFIGURATIONS}" in shown
    found = ensemble.truths([ensemble.read(stores / name) for name in ("fan", "pump", "valve")], 4)
    assert found["the best 8 pairs"].mean() > found["the best trial, fused"].mean() + 0.03


def test_stopped_trainings_are_averaged_where_their_scores_were_recorded(stores: Path, tmp_path: Path) -> None:
    shutil.copytree(stores / "fan", tmp_path / "fan")
    path = tmp_path / "fan/009-0.npz"
    scores = dict(np.load(path))
    np.savez(path, **scores, **{"interpolation/fresh/3": scores["interpolation/fresh"]})
    store = ensemble.read(tmp_path / "fan")
    assert {(each.configuration, each.epochs) for each in store.early} == {(9, 3)}
    average, averaging = search_methods.Ensembles(store), search_methods.Averaging(least_epochs=3)
    stopped, full = (search_methods.Ended(recorded_training(9), epochs, 0.9) for epochs in (3, EPOCHS))
    assert average([stopped], search_methods.AVERAGING) is None
    assert average([stopped], averaging) == pytest.approx(store.truth.auc(store.early[0].truth_N, store.truth.held_out))
    assert average([full], averaging) is not None
    with pytest.raises(ConfigError, match="no scores of training 8 after 3 epochs"):
        average([search_methods.Ended(recorded_training(8), 3, 0.9)], averaging)


def recorded_training(configuration: int) -> curves.Recorded:
    return curves.Recorded(configuration, 0, 1.0, {})


def test_trainings_of_every_length_are_averaged_for_the_same_epochs(
    stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty epochs pay for all ten configurations of two epochs, or for one of twelve."""
    monkeypatch.setattr(trial_length, "BUDGETS", (2 * CONFIGURATIONS,))
    for length in (2, EPOCHS):
        shutil.copytree(stores, tmp_path / str(length))
    assert trial_length.main(["--stores", str(tmp_path)]) == 0
    short, long = trial_length.rows_of(trial_length.stores_by_length(tmp_path))
    assert (short["trainings"], long["trainings"]) == (CONFIGURATIONS, 1)
    assert float(short["mean"]) > float(long["mean"])
    assert short["minus the longest"].startswith("+")
    shutil.rmtree(tmp_path / "2")
    (tmp_path / "2").mkdir()
    with pytest.raises(ConfigError, match="no data set of every length"):
        trial_length.stores_by_length(tmp_path)


def test_every_method_searches_a_world(stores: Path, tables: Path) -> None:
    places = (str(tables), "ad_tuning", str(stores))
    methods = search_methods.chosen_methods(None, with_scores=True)
    assert "Optuna GP, median" not in methods
    traces = search_methods.one_world(places, "fan", 0, methods)
    best = max(each.curves["fused"].truth for each in curves.read_curves(SPACE, tables)[0].trainings)
    for name, trace in traces.items():
        assert len(trace.truth) == max(search_methods.BUDGETS), name
        assert all(0.4 < trace.at(budget) <= 1.0 for budget in search_methods.BUDGETS), name
    assert traces[search_methods.RAY].at(240) <= best
    rows = search_methods.rows_of({"fan": [traces], "pump": [traces]}, list(traces))
    assert [row["method"] for row in rows] == list(traces)
    assert rows[0]["method"] == search_methods.RAY
    assert rows[1]["minus Ray at 60"].count("[") == 1


def test_a_search_that_ends_itself_trains_less(
    stores: Path, tables: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(until_flat, "MOST", 400)
    found = until_flat.one_world(str(tables), "ad_tuning", str(stores), "fan", 0)
    epochs = [found[gain][0] for gain in (0.0, *sorted(until_flat.GAINS))]
    assert epochs[0] == 400
    assert epochs == sorted(epochs, reverse=True)
    never, *asked = until_flat.rows_of({"fan": [found], "pump": [found]})
    assert (never["until flat"], never["ended itself"]) == ("never", "0%")
    assert len(asked) == len(until_flat.GAINS)


@pytest.mark.parametrize("system", ["Syne Tune ASHA", "SMAC"])
def test_a_system_of_another_package_searches_a_world(system: str, tables: Path) -> None:
    pytest.importorskip("syne_tune" if system.startswith("Syne") else "smac", reason="an anchor of the bench only")
    places = (str(tables), "ad_tuning", None)
    traces = search_methods.one_world(places, "fan", 0, [search_methods.RAY, system])
    assert all(0.4 < traces[system].at(budget) <= 1.0 for budget in search_methods.BUDGETS)


def test_what_is_fast_is_preferred_on_the_same_worlds(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fan.csv", curves.CONFIGURATIONS):
        shutil.copy(tables / name, tmp_path)
    assert prefer_fast.main(["--curves", str(tmp_path), "--worlds", "1"]) == 0
    last = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split(":")[0] for line in last] == [
        "AUC",
        "seconds of the search, as a share",
        "AUC per hour, as a share",
    ]


def test_costs_are_compared_by_factors() -> None:
    """Twice and half the time: no change in the mean."""
    ratios = np.array([[2.0, 0.5], [0.5, 2.0]])
    assert prefer_fast.geometric(ratios) == pytest.approx(0.0)
    assert prefer_fast.interval(np.full((3, 4), 0.25), lambda values: float(values.mean())).startswith("+0.2500 [+0.25")


def test_nothing_recorded_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no store of recorded trainings"):
        curves.write(tmp_path, tmp_path, "command")
    with pytest.raises(ConfigError, match="no recorded trainings"):
        ensemble.read(tmp_path / "empty")
