"""`BudgetedTPESampler` in an Optuna study of its own: Optuna's contract of samplers, and that what is tried fits.

Of `optuna.testing.pytest_samplers` these apply: `BasicSamplerTestCase`, `RelativeSamplerTestCase` and
`SingleOnlySamplerTestCase`. `MultiObjectiveSamplerTestCase` does not: the sampler refuses several objectives, as
`SingleOnlySamplerTestCase` demands.
"""

import doctest
import importlib
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase

from search.engine import sampler as module
from search.engine._tpe import Density
from search.engine.sampler import BudgetedTPESampler, groups_of

SPACE = {"width": IntDistribution(8, 4096, log=True)}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(verbosity)


def everything(params: Mapping[str, Any]) -> bool:
    return True


class TestContract(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """With the densities from the third trial on: Optuna's cases have few trials."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return partial(BudgetedTPESampler, everything, seed=0, n_startup_trials=2)


class TestContractInRandomTrials(TestContract):
    """Before the densities are trusted, with a seed of the system."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return partial(BudgetedTPESampler, everything)


# ---- what is tried fits ----------------------------------------------------------------------------------------------


def fits(params: Mapping[str, Any]) -> bool:
    """About a third of the space below."""
    return bool(params["width"] * params.get("extra", 1) <= 2000)


def objective(trial: optuna.Trial) -> float:
    """Best beyond what fits; asks for `extra` in deep ones alone."""
    width = trial.suggest_int("width", 8, 4096, log=True)
    rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    away = abs(np.log2(width) - 12) + abs(np.log10(rate) + 2)
    if trial.suggest_categorical("deep", [False, True]):
        return float(away - trial.suggest_int("extra", 1, 64) / 64)
    return float(away)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_all_trials_fit_and_what_is_good_is_found(direction: str) -> None:
    sign = 1.0 if direction == "minimize" else -1.0
    sampler = BudgetedTPESampler(fits, seed=4, search_space=SPACE)
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.optimize(lambda trial: sign * objective(trial), n_trials=60)
    assert all(fits(trial.params) for trial in study.trials)
    assert any("extra" in trial.params for trial in study.trials)
    assert any("extra" not in trial.params for trial in study.trials)
    uniform = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=4))
    uniform.optimize(objective, n_trials=60)
    feasible = [trial.value for trial in uniform.trials if fits(trial.params) and trial.value is not None]
    late = [sign * trial.value for trial in study.trials[-20:] if trial.value is not None]
    assert np.mean(late) < np.mean(feasible) - 0.5, "the densities are better than chance"


def test_without_a_space_all_but_the_first_trial_fit() -> None:
    study = optuna.create_study(sampler=BudgetedTPESampler(fits, seed=2, n_startup_trials=5))
    study.optimize(objective, n_trials=30)
    assert all(fits(trial.params) for trial in study.trials[1:])


def test_a_branch_that_is_met_for_the_first_time_fits_to_what_was_drawn_before() -> None:
    asked: list[dict[str, Any]] = []

    def asks(params: Mapping[str, Any]) -> bool:
        asked.append(dict(params))
        return fits(params)

    def deep(trial: optuna.Trial) -> float:
        return float(trial.suggest_int("width", 8, 4096, log=True) + trial.suggest_int("extra", 1, 64))

    study = optuna.create_study(sampler=BudgetedTPESampler(asks, seed=0, search_space=SPACE))
    study.optimize(deep, n_trials=1)
    (trial,) = study.trials
    assert fits(trial.params)
    assert "extra" not in asked[0]
    assert asked[-1] == trial.params, "what was asked last is the whole trial"


def test_where_nothing_fits_a_trial_is_made_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    study = optuna.create_study(sampler=BudgetedTPESampler(lambda params: False, seed=0, search_space=SPACE))
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        study.optimize(lambda trial: trial.suggest_int("width", 8, 4096, log=True), n_trials=1)
    assert len(study.trials) == 1
    assert [record.getMessage() for record in caplog.records] == ["trial 0 does not fit: none of 256 draws fits"]


def test_the_same_seed_gives_the_same_study_whatever_workers_run_it() -> None:
    def tried(workers: int) -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=BudgetedTPESampler(fits, seed=9, n_startup_trials=8, search_space=SPACE))
        study.optimize(objective, n_trials=8, n_jobs=workers)
        return [{"width": trial.params["width"]} for trial in study.trials]

    once, again = tried(1), tried(1)
    assert once == again
    assert tried(2)[0] == once[0], "a thread does not reseed the sampler"
    state = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    tried(1)
    assert np.random.get_state()[1].tolist() == state, "the global generator is not touched"  # type: ignore[index, union-attr]


def test_trials_that_run_are_kept_away_from() -> None:
    """Eight trials are proposed before any ends: each proposal knows what the others were promised."""
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
    sampler = BudgetedTPESampler(everything, seed=0, n_startup_trials=5, search_space=space)
    study = optuna.create_study(sampler=sampler)
    for x in np.linspace(0, 1, 20):
        params = {"x": float(x), "y": 0.5}
        study.add_trial(optuna.create_trial(params=params, distributions=space, value=(x - 0.5) ** 2))
    running = [study.ask() for _ in range(8)]
    assert len(sampler._promised) == 0, "nothing is drawn before it is asked for"
    values = [trial.suggest_float("x", 0, 1) for trial in running]
    assert len(sampler._promised) == 8
    assert len({round(value, 2) for value in values}) >= 7
    for trial in running:
        study.tell(trial, 0.0)
    assert len(sampler._promised) == 0


def test_a_proposal_depends_on_what_else_runs() -> None:
    """The same trial of the same study, once beside one that runs and once beside one that was given up."""

    def proposed(*, runs: bool) -> float:
        space = {"x": FloatDistribution(0, 1)}
        sampler = BudgetedTPESampler(everything, seed=0, n_startup_trials=5, search_space=space)
        study = optuna.create_study(sampler=sampler)
        for x in np.linspace(0, 1, 20):
            study.add_trial(optuna.create_trial(params={"x": float(x)}, distributions=space, value=(x - 0.5) ** 2))
        first, second = study.ask(), study.ask()
        first.suggest_float("x", 0, 1)
        if not runs:
            study.tell(first, state=optuna.trial.TrialState.FAIL)
        return second.suggest_float("x", 0, 1)

    assert proposed(runs=True) != proposed(runs=False)
    assert proposed(runs=True) == proposed(runs=True)


def test_parameters_are_grouped_by_the_trials_that_asked_for_them() -> None:
    names = ["a", "b", "c", "d", "never"]
    space = {name: FloatDistribution(0, 1) for name in names}

    def asked(text: str) -> optuna.trial.FrozenTrial:
        known = {name: space[name] for name in text}
        return optuna.create_trial(params=dict.fromkeys(text, 0.5), distributions=known, value=0.0)

    trials = [asked("abc"), asked("abd"), asked("ab")]
    groups = [sorted(group) for group in groups_of(trials, space)]
    assert groups == [["a", "b"], ["c"], ["d"], ["never"]]
    assert [sorted(group) for group in groups_of([], space)] == [names]


def test_the_example_runs() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(BudgetedTPESampler, "BudgetedTPESampler", globs={"BudgetedTPESampler": BudgetedTPESampler})
    results = doctest.DocTestRunner().run(example)
    assert results.attempted >= 7
    assert results.failed == 0


# ---- the densities ---------------------------------------------------------------------------------------------------

GROUP = {
    "choice": CategoricalDistribution(("a", "b", "c")),
    "float": FloatDistribution(-1.0, 1.0),
    "int": IntDistribution(1, 9, step=2),
    "log": FloatDistribution(1e-5, 1e-1, log=True),
    "log_int": IntDistribution(2, 512, log=True),
    "step": FloatDistribution(0.0, 2.0, step=0.25),
}


def observed(count: int, rng: np.random.RandomState) -> np.ndarray:
    draws = Density(np.empty((0, len(GROUP))), GROUP).sample(rng, count)
    return np.array([draws[name] for name in GROUP], dtype=float).T.reshape(count, len(GROUP))


def private(name: str, *members: str) -> Any:
    """A private module of Optuna, to compare with; where it is no more, the test says for which version it was."""
    try:
        found = importlib.import_module(name)
        missing = [member for member in members if not hasattr(found, member)]
    except ImportError:
        missing = ["the module"]
    if missing:
        pytest.fail(
            f"optuna {optuna.__version__} has no {name} with {', '.join(missing)}, which the densities were compared "
            "with in optuna 5.0.0: compare them with what is there now, or pin optuna==5.0.0"
        )
    return found


def test_a_private_name_that_optuna_no_longer_has_is_one_message() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"has no optuna\.samplers with _gone, .* in optuna 5\.0\.0"):
        private("optuna.samplers", "TPESampler", "_gone")
    with pytest.raises(pytest.fail.Exception, match=r"has no optuna\._gone with the module, .* in optuna 5\.0\.0"):
        private("optuna._gone", "any")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 24, 25, 26, 200])
def test_densities_and_draws_are_optunas(count: int) -> None:
    estimator = private("optuna.samplers._tpe.parzen_estimator", "_ParzenEstimator", "_ParzenEstimatorParameters")
    weights = private("optuna.samplers._tpe.sampler", "default_weights").default_weights
    seen = observed(count, np.random.RandomState(count))
    columns = {name: seen[:, column] for column, name in enumerate(GROUP)}
    options = estimator._ParzenEstimatorParameters(
        prior_weight=1.0,
        consider_magic_clip=True,
        consider_endpoints=False,
        weights=weights,
        multivariate=True,
    )
    theirs, ours = estimator._ParzenEstimator(columns, GROUP, options), Density(seen, GROUP)
    drawn, expected = ours.sample(np.random.RandomState(5), 64), theirs.sample(np.random.RandomState(5), 64)
    for name in GROUP:
        np.testing.assert_allclose(drawn[name], expected[name], rtol=1e-10, err_msg=name)
    np.testing.assert_allclose(ours.log_density(drawn), theirs.log_pdf(drawn), rtol=1e-9, atol=1e-9)


def test_rounding_to_a_step_leaves_no_bound() -> None:
    """Three steps of 0.1 are more than 0.3 in floating point."""
    group = {"x": FloatDistribution(0.0, 0.3, step=0.1), "n": IntDistribution(2, 9, log=True)}
    draws = Density(np.array([[0.3, 9.0], [0.0, 2.0]]), group).sample(np.random.RandomState(0), 500)
    assert set(np.round(draws["x"], 9)) == {0.0, 0.1, 0.2, 0.3}
    assert (draws["x"].min(), draws["x"].max()) == (0.0, 0.3)
    assert (draws["n"].min(), draws["n"].max()) == (2.0, 9.0)


def test_a_density_sums_to_one() -> None:
    group = {"x": FloatDistribution(-1.0, 3.0)}
    x, step = np.linspace(-1.0, 3.0, 20_001, retstep=True)
    density = Density(np.array([[-1.0], [0.2], [0.25], [3.0]]), group)
    assert np.sum(np.exp(density.log_density({"x": x}))) * step == pytest.approx(1.0, abs=1e-3)
    whole = {"n": IntDistribution(1, 40, log=True)}
    density = Density(np.array([[1.0], [3.0], [40.0]]), whole)
    assert np.sum(np.exp(density.log_density({"n": np.arange(1.0, 41.0)}))) == pytest.approx(1.0, abs=1e-9)
