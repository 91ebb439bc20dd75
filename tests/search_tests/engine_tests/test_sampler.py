"""The sampler: proposals that fit, from what was learned, the same for the same seed and index."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from search.engine._tpe import random_draws
from search.engine.optuna_trials import frozen, to_optuna
from search.engine.sampler import BEST, RECENT, Fits, History, Proposal, SpaceProposer
from search.engine.sampler import make_sampler as make_named
from search.engine.space_draws import distributions_of, probes, uniform_params
from spaces.loader import builtin_spaces, load_space, space_from_text
from spaces.space import Choices, Range, Space
from tests.search_tests.engine_tests import golden
from tests.search_tests.synthetic import SPACE, quality, small_space

NAN = float("nan")


def everything(params: Mapping[str, Any]) -> bool:
    return True


def nothing(params: Mapping[str, Any]) -> bool:
    return False


def small_ones(params: Mapping[str, Any]) -> bool:
    """Half of the synthetic space: with K in 32 … 256 and D log-uniform in 8 … 64 the median of K · D is 2,048."""
    return bool(params["num_embeddings"] * params["latent_dim"] <= 2048)


def make_sampler(space: Space | None = None, *, seed: int = 0, **options: Any) -> SpaceProposer:
    return SpaceProposer(space or small_space(), seed=seed, **{"startup_trials": 6, **options})


def add_trial(sampler: SpaceProposer, number: int, params: Mapping[str, Any], value: float, **options: Any) -> None:
    """A trial of that final value ended; by default it was completed."""
    state = options.pop("state", TrialState.COMPLETE)
    sampler.update(
        frozen(
            number,
            state,
            params,
            distributions_of(sampler.space, params),
            value=value if state == TrialState.COMPLETE else None,
            intermediate={1: value - 0.05, 3: value},
            **options,
        )
    )


def search(sampler: SpaceProposer, count: int, fits: Fits = everything) -> list[Proposal]:
    proposals = []
    for index in range(count):
        proposals.append(sampler.suggest(index, fits))
        space = sampler.space
        add_trial(sampler, index, proposals[-1].params, quality(space.config(proposals[-1].params, epochs=9).flat()))
    return proposals


def assert_in_space(space: Space, params: Mapping[str, Any]) -> None:
    active = []
    for parameter in space.parameters:
        if space.is_active(parameter, params):
            active.append(parameter.name)
            value = params[parameter.name]
            assert parameter.distribution.contains(value)
            if isinstance(parameter.distribution, Range) and parameter.distribution.integer:
                assert type(value) is int
    assert list(params) == active


@pytest.mark.parametrize("name", golden.cases())
def test_proposals_are_those_of_every_version_before(name: str) -> None:
    kept = json.loads(golden.FILE.read_text(encoding="utf-8"))[name]
    assert len(kept) == golden.COUNT
    for index, (now, then) in enumerate(zip(golden.proposals(name), kept, strict=True)):
        assert list(now["params"]) == list(then["params"]), index
        for name, value in then["params"].items():
            # Another processor's libraries round the last digits of a float otherwise.
            same = pytest.approx(value, rel=1e-9, abs=0.0) if isinstance(value, float) else value
            assert now["params"][name] == same, (index, name)
        assert (now["fits"], now["draws"]) == (then["fits"], then["draws"]), index


def test_a_single_choice_is_drawn_too() -> None:
    sampler = make_sampler(space_from_text("parameters: {latent_dim: {low: 8, high: 9}, stride: {choices: [4]}}"))
    for index in range(12):
        params = sampler.suggest(index, everything).params
        assert params["stride"] == 4
        add_trial(sampler, index, params, 0.5)


@pytest.mark.parametrize("name", [None, *builtin_spaces()])
def test_proposals_lie_in_the_space_with_their_conditions(name: str | None) -> None:
    space = small_space() if name is None else load_space(name)
    sampler = make_sampler(space)
    for index in range(20):
        proposal = sampler.suggest(index, everything)
        assert_in_space(space, proposal.params)
        space.config(proposal.params, epochs=9)
        add_trial(sampler, index, proposal.params, 0.5 + index / 100)


def test_one_configuration_is_never_proposed_under_two_names() -> None:
    """3 windows at stride 32: 8 and 64 patches are what 4 are; at stride 16 there are 5, at stride 4 20."""
    text = "parameters: {n_patches: {choices: [2, 4, 8, 64]}, stride: {choices: [4, 16, 32]}}"
    space = space_from_text(text).for_clips(141)
    initial = [{"n_patches": 64, "stride": 32}]
    sampler = make_sampler(space, initial=initial)
    names: dict[tuple[int, int], set[int]] = {}
    for index in range(40):
        params = sampler.suggest(index, everything).params
        patch = space.config(params, epochs=9).patch
        names.setdefault((patch.n_patches, patch.stride), set()).add(params["n_patches"])
        add_trial(sampler, index, params, 0.5 + index / 100)
    assert names[3, 32] == {4}
    assert len(names) >= 6
    assert all(len(each) == 1 for each in names.values())


def test_only_what_fits_is_proposed_with_half_of_the_space_infeasible() -> None:
    draws = random_draws(make_sampler()._distributions, np.random.RandomState(0), 500)
    assert 0.4 < np.mean([small_ones(params) for params in draws]) < 0.6
    proposals = search(make_sampler(), 40, small_ones)
    wasted = [proposal for proposal in proposals if not proposal.fits]
    assert len(wasted) < len(proposals) / 10
    assert all(small_ones(proposal.params) for proposal in proposals if proposal.fits)
    assert sum(proposal.draws for proposal in proposals[6:]) < 4 * 34, "the planner is asked a few times a proposal"


def test_one_in_a_hundred_that_fits_is_found() -> None:
    def few(params: Mapping[str, Any]) -> bool:
        return bool(params["num_embeddings"] == 32 and params["latent_dim"] <= 8)

    assert all(few(proposal.params) for proposal in search(make_sampler(), 12, few))


def test_where_nothing_fits_the_proposal_says_so() -> None:
    sampler = make_sampler()
    proposal = sampler.suggest(0, nothing)
    assert not proposal.fits
    assert proposal.draws == 256
    assert_in_space(sampler.space, proposal.params)


def test_the_same_seed_history_and_index_give_the_same_proposal() -> None:
    first, again, other = (search(make_sampler(seed=seed), 12) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    one, two = make_sampler(seed=3), make_sampler(seed=3)
    for number, proposal in enumerate(first):
        for sampler in (one, two):
            add_trial(sampler, number, proposal.params, 0.6)
    one.suggest(5, everything)
    assert one.suggest(12, everything) == two.suggest(12, everything), "earlier questions leave no trace"
    state = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    one.suggest(13, everything)
    assert state == np.random.get_state()[1].tolist(), "the global generator is not touched"  # type: ignore[index, union-attr]


def test_the_order_of_lines_changes_nothing() -> None:
    head, *lines, fixed, value = SPACE.strip().split("\n")
    shuffled = space_from_text("\n".join([head, *reversed(lines), fixed, value]), "synthetic")
    assert [p.params for p in search(make_sampler(shuffled), 12)] == [p.params for p in search(make_sampler(), 12)]


def test_it_learns_what_is_good() -> None:
    space = small_space()

    def mean_quality(proposals: list[Proposal]) -> float:
        return float(np.mean([quality(space.config(each.params, epochs=9).flat()) for each in proposals]))

    gains = []
    for seed in range(3):
        proposals = search(make_sampler(seed=seed), 50)
        gains.append(mean_quality(proposals[-15:]) - mean_quality(proposals[:6]))
    assert min(gains) > 0.02
    assert np.mean(gains) > 0.08


def test_what_failed_repels() -> None:
    """Twenty crashes at small rates and twenty good trials at large ones, whatever AUC the crashed had before."""
    sampler = make_sampler()
    rng = np.random.RandomState(0)
    for number in range(40):
        params = {**uniform_params(sampler.space, rng), "learning_rate": 3.1e-4 if number % 2 else 9e-3}
        failed = {"state": TrialState.PRUNED, "constraints": {"failure": 1.0}} if number % 2 else {}
        add_trial(sampler, number, params, 0.99 if number % 2 else 0.6 + number / 1000, **failed)
    rates = [sampler.suggest(index, everything).params["learning_rate"] for index in range(40, 60)]
    assert np.median(rates) > 3e-3


def test_failures_alone_are_no_density_to_draw_from() -> None:
    sampler = make_sampler()
    rng = np.random.RandomState(0)
    for number in range(12):
        add_trial(
            sampler,
            number,
            uniform_params(sampler.space, rng),
            0.9,
            state=TrialState.PRUNED,
            constraints={"failure": 1.0},
        )
    assert sampler.history.kept_feasible == 0
    assert sampler.suggest(12, everything).fits


def test_what_runs_is_not_proposed_again() -> None:
    sampler = make_sampler()
    search(sampler, 20)
    alone = sampler.suggest(20, everything)
    for number in range(20, 24):
        sampler.update(frozen(number, TrialState.RUNNING, alone.params, distributions_of(sampler.space, alone.params)))
    assert len(sampler.history.trials()) == 24
    assert sampler.suggest(20, everything).params != alone.params


def test_drivers_of_one_study_share_the_given_proposals() -> None:
    space = small_space()
    rng = np.random.RandomState(4)
    given = [uniform_params(space, rng) for _ in range(3)]
    mine = make_sampler(space, seed=1, initial=given)
    add_trial(mine, 0, given[1], 0.6)  # another driver's
    proposals = []
    for index in range(3):
        proposals.append(mine.suggest(index, everything).params)
        add_trial(mine, index + 1, proposals[-1], 0.5)
    assert proposals[:2] == [given[0], given[2]]
    assert proposals[2] not in given


def test_given_proposals_come_first_where_they_fit() -> None:
    space = small_space()
    draws = random_draws(make_sampler()._distributions, np.random.RandomState(1), 2)
    first = {**draws[0], "num_embeddings": 32, "latent_dim": 8}
    too_large = {**draws[1], "num_embeddings": 256, "latent_dim": 64}
    sampler = make_sampler(space, initial=[first, too_large])
    assert sampler.suggest(0, small_ones) == Proposal(first, True, 1)
    none = make_sampler(space, initial=[too_large, too_large]).suggest(1, small_ones)
    assert small_ones(none.params)
    assert none.draws == 2 + make_sampler(space).suggest(1, small_ones).draws, "each first proposal was asked about"
    assert sampler.suggest(2, small_ones) == make_sampler(space).suggest(2, small_ones)


def test_history_is_bounded_and_a_thousand_trials_are_no_burden() -> None:
    sampler = make_sampler()
    rng = np.random.RandomState(0)
    values = rng.permutation(1000) / 1000
    for number, value in enumerate(values):
        state = TrialState.PRUNED if number % 3 else TrialState.COMPLETE
        add_trial(sampler, number, uniform_params(sampler.space, rng), float(value), state=state)
    trials = sampler.history.trials()
    assert len(trials) == BEST + RECENT
    assert sampler.history.finished == 1000
    assert [trial.number for trial in trials] == sorted({trial.number for trial in trials})
    best = {int(number) for number in np.argsort(-np.where(np.arange(1000) % 3 == 0, values, -1.0))[:BEST]}
    assert best <= {trial.number for trial in trials}
    assert_in_space(sampler.space, sampler.suggest(1000, small_ones).params)


def test_history_ranks_completed_before_pruned_and_no_numbers_last() -> None:
    history = History(best=3, recent=100)
    endings = [
        (TrialState.PRUNED, {1: 0.9}),
        (TrialState.PRUNED, {1: 0.1, 3: 0.2}),
        (TrialState.PRUNED, {1: 0.1, 3: NAN}),
        (TrialState.PRUNED, {}),
        (TrialState.COMPLETE, {9: 0.3}),
        (TrialState.COMPLETE, {9: 0.4}),
        (TrialState.PRUNED, {3: 0.3}),
    ]
    for number, (state, values) in enumerate(endings):
        value = values[9] if state == TrialState.COMPLETE else None
        history.ended(frozen(number, state, {}, {}, value=value, intermediate=values))
    assert [entry[2].number for entry in history._best] == [5, 4, 6]
    assert len(history.trials()) == 7


@pytest.mark.parametrize(("maximize", "kept"), [(True, [1, 4]), (False, [0, 3])])
def test_history_keeps_the_highest_or_the_lowest(maximize: bool, kept: list[int]) -> None:
    history = History(best=2, recent=0, maximize=maximize)
    for number, value in enumerate([0.2, 0.9, 0.5, 0.1, 0.8]):
        history.ended(frozen(number, TrialState.COMPLETE, {}, {}, value=value))
    assert [trial.number for trial in history.trials()] == kept
    assert history.kept_feasible == 2


def test_random_proposals_follow_their_seed_and_learn_nothing() -> None:
    space = small_space()
    one, same, other = (make_named("random", space, seed=seed, startup_trials=2) for seed in (1, 1, 2))
    for index in range(12):
        proposal = one.suggest(index, small_ones)
        assert small_ones(proposal.params)
        assert proposal == same.suggest(index, small_ones)
        assert proposal.params != other.suggest(index, small_ones).params
        dists = distributions_of(space, proposal.params)
        one.update(frozen(index, TrialState.COMPLETE, proposal.params, dists, value=index / 12))
    given = {**one.suggest(0, small_ones).params}
    assert make_named("random", space, seed=1, startup_trials=2, initial=[given]).suggest(0, small_ones).draws == 1


DISTRIBUTIONS = [
    Choices((4, 8, 16)),
    Choices((True, False)),
    Range(1, 5, integer=True),
    Range(2, 10, step=4, integer=True),
    Range(2, 64, log=True, integer=True),
    Range(0.5, 1.5, step=0.25),
    Range(1e-4, 1e-2, log=True),
    Range(-1.0, 1.0),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_random_draws_cover_a_distribution_with_both_its_ends(distribution: Choices | Range) -> None:
    draws = [draw["x"] for draw in random_draws({"x": to_optuna(distribution)}, np.random.RandomState(0), 400)]
    assert all(distribution.contains(value) for value in draws)
    if isinstance(distribution, Choices):
        assert set(draws) == set(distribution.values)
        return
    spread = distribution.high - distribution.low
    if distribution.integer or distribution.step:
        assert {distribution.low, distribution.high} <= set(draws)
        step = distribution.step or 1
        assert all(abs((value - distribution.low) / step % 1) < 1e-9 for value in draws)
    elif distribution.log:
        assert np.mean([value < 1e-3 for value in draws]) == pytest.approx(0.5, abs=0.1)
    else:
        assert min(draws) < distribution.low + 0.02 * spread
        assert max(draws) > distribution.high - 0.02 * spread


@settings(deadline=None)  # a busy machine pauses any example longer than Hypothesis allows
@given(st.integers(0, 2**31 - 1), st.integers(0, 10**6))
def test_any_seed_and_index_are_accepted(seed: int, index: int) -> None:
    sampler = make_sampler(seed=seed)
    assert_in_space(sampler.space, sampler.suggest(index, everything).params)


def test_probes_begin_with_the_smallest_corner() -> None:
    space = small_space()
    shown = list(probes(space, 0, 5))
    assert len(shown) == 6
    smallest = {"num_embeddings": 32, "latent_dim": 8, "commitment_cost": 0.02, "commitment_warmup_epochs": 0}
    assert shown[0] == {**smallest, "learning_rate": 3e-4}
    for params in shown:
        assert_in_space(space, params)
