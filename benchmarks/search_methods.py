"""How good a detector a search finds for its training: this project's search beside plain Ray Tune and others.

    python -m benchmarks.search_methods --stores runs/recorded --worlds 8 --output benchmarks/results/search_methods.csv

Nothing is trained: trainings are those of `benchmarks.worlds`, made of the recorded curves in
`benchmarks/results/curves`. Every system runs its own code (`benchmarks.search_systems`), two trainings at a time, one
epoch each in turn. What counts is the truth of the training that its user would take, after a number of epochs of all
trainings together: AUC of the fully trained configuration on clips that no search sees. A portfolio is always that of
the *other* data sets.

`minus Ray` is the mean paired difference to plain Ray Tune, with its 95 % percentile bootstrap over data sets and the
worlds within them; `behind this project` that of this project to a method; `of Ray's` the epochs that reach Ray's mean
truth, as a share of Ray's, with the same interval.
"""

import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks.curves import CHOSEN, FUSED, TABLES, Curve, DataSet, Recorded, read_curves
from benchmarks.ensemble import Pair, Store
from benchmarks.ensemble import read as read_store
from benchmarks.portfolio import COUNT, greedy
from benchmarks.recorded import EARLY, RECORDED_SPACE, Training
from benchmarks.search_anchors import Smac, SyneTune
from benchmarks.search_systems import Ours, PlainOptuna, PlainRay, Setting, ShortThenBest, System
from benchmarks.tables import command_of, write_table
from benchmarks.worlds import World, rank_correlations
from search.first_proposals import of_portfolio
from spaces.loader import load_space
from spaces.space import Choices, Parameter, Space
from trainable.commandline import Parser, add_flag, run
from trainable.errors import ConfigError
from trainable.host import available_cores

SLOTS = 2
MOST_EPOCHS = 12
"""Epochs of a training that is not stopped, as recorded."""
BUDGETS = (60, 120, 240)
"""Epochs of a search: five, ten and twenty full trainings of twelve."""
RAY = "plain Ray Tune"
RESAMPLES = 2_000
OLD_DENSITIES = ("mahalanobis", "cross_mahalanobis", "interpolation", "grid_neighbours", "fused")
DENSITY = "density"
REPLAYED_GRACE, REPLAYED_FACTOR = 6, 2
"""The best of those that were replayed, of trainings of twelve epochs; `ad_tuning` trains shorter ones."""


@dataclass(frozen=True)
class Averaging:
    """Which pairs of training and density model a detector averages: those of the trainings with the highest last
    values that have the highest AUC."""

    pairs: int = 8
    leaders: int | None = None
    """Trainings whose pairs are ranked; None: all."""
    least_epochs: int = MOST_EPOCHS
    """Epochs that a training must have had; stores have early scores only where they were recorded with them."""


AVERAGING = Averaging()


Ensemble = Callable[[Sequence["Ended"], Averaging], float | None]
"""Truth of the detector that some ended trainings make; None where they make none."""


@dataclass(frozen=True)
class Method:
    """A system as it is set up for one search."""

    make: Callable[[Setting, Sequence[Mapping[str, Any]]], System]
    """Of a setting and the portfolio of the other data sets."""
    score: str = FUSED
    """Which score of a training is its value; `DENSITY`: the one that a parameter of the search names."""
    averaging: Averaging | None = None
    """How the detector averages; None: it is the best training's score alone."""
    anytime: bool = True
    """Whether a search with a smaller budget is the beginning of one with a larger."""
    slow: bool = False
    """Whether it runs only where ``--methods`` names it."""


def ours(
    *,
    score: str = FUSED,
    portfolio: int = 0,
    averaging: Averaging | None = AVERAGING,
    grace: int = REPLAYED_GRACE,
    factor: int = REPLAYED_FACTOR,
    sampler: str = "tpe",
    until_flat: float | None = None,
    shipped: bool = False,
) -> Method:
    """This project's search; unless given, `grace` and `factor` are the best of those that were replayed."""

    def make(setting: Setting, others: Sequence[Mapping[str, Any]]) -> System:
        initial = of_portfolio(setting.space) if shipped else others[:portfolio]
        return Ours(setting, grace=grace, factor=factor, sampler=sampler, initial=initial, until_flat=until_flat)

    return Method(make, score=score, averaging=averaging)


def _optuna(
    sampler: Callable[[int], optuna.samplers.BaseSampler], pruner: Callable[[], optuna.pruners.BasePruner]
) -> Method:
    return Method(lambda setting, others: PlainOptuna(setting, sampler(setting.seed), pruner()))


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def _syne_tune(scheduler: str) -> Method:
    return Method(lambda setting, others: SyneTune(setting, scheduler), slow=True)


DEFAULT = "this project"
METHODS: dict[str, Method] = {
    RAY: Method(lambda setting, others: PlainRay(setting)),
    DEFAULT: ours(portfolio=COUNT),
    "plain Ray Tune, density a parameter": Method(lambda setting, others: PlainRay(setting), score=DENSITY),
    f"plain Ray Tune, {AVERAGING.pairs} pairs": Method(lambda setting, others: PlainRay(setting), averaging=AVERAGING),
    "Optuna TPE, median": _optuna(_tpe, optuna.pruners.MedianPruner),
    "Optuna TPE, Hyperband": _optuna(_tpe, partial(optuna.pruners.HyperbandPruner, max_resource=MOST_EPOCHS)),
    "Optuna GP, median": replace(
        _optuna(lambda seed: optuna.samplers.GPSampler(seed=seed), optuna.pruners.MedianPruner), slow=True
    ),
    "Syne Tune ASHA": _syne_tune("ASHA"),
    "Syne Tune BOHB": _syne_tune("BOHB"),
    "Syne Tune CQR": _syne_tune("ASHACQR"),
    "Syne Tune BORE": _syne_tune("ASHABORE"),
    "SMAC": Method(lambda setting, others: Smac(setting), slow=True),
    "one epoch, then the best fifth": Method(lambda setting, others: ShortThenBest(setting), anytime=False),
    "as it was: no detector, no portfolio, density a parameter, grace 4, factor 3": ours(
        averaging=None, grace=4, factor=3, score=DENSITY
    ),
    "no detector, no portfolio": ours(averaging=None),
    "no detector": ours(averaging=None, portfolio=COUNT),
    "no portfolio": ours(),
    "the shipped portfolio": ours(shipped=True),
    "random instead of TPE": ours(portfolio=COUNT, sampler="random"),
    "chosen density instead of fused": ours(portfolio=COUNT, score=CHOSEN),
    "grace 3, factor 3": ours(grace=3, factor=3, portfolio=COUNT),
    "grace 4, factor 3": ours(grace=4, factor=3, portfolio=COUNT),
    "no early stopping": ours(grace=MOST_EPOCHS, portfolio=COUNT),
}
"""Rows without a system's name are this project's search, changed in what they say."""


@cache
def space_and_sets(folder: str, name: str, stores: str | None) -> tuple[Space, list[DataSet]]:
    """The space and the recorded trainings; with stores, those whose single scores they hold."""
    space = load_space(name)
    sets = read_curves(space, Path(folder))
    return space, sets if stores is None else [_stored(data, Path(stores) / data.name) for data in sets]


def _stored(data: DataSet, store: Path) -> DataSet:
    kept = [each for each in data.trainings if (store / Training(each.configuration, each.repeat).file_name).exists()]
    return replace(data, trainings=tuple(kept))


def search(
    method: Method,
    world: World,
    space: Space,
    others: Sequence[Mapping[str, Any]],
    seed: int,
    ensemble: Ensemble,
) -> "Trace":
    """Truth of the detector that a user would take after each epoch, and the system's own seconds."""
    if method.score == DENSITY:
        space = replace(space, parameters=(*space.parameters, Parameter(DENSITY, Choices(OLD_DENSITIES))))
        others = []
    if method.anytime:
        found, seconds = searched(method, world, Setting(space, seed, MOST_EPOCHS, max(BUDGETS)), others, ensemble)
        return Trace(found, seconds)
    parts = [searched(method, world, Setting(space, seed, MOST_EPOCHS, budget), others, ensemble) for budget in BUDGETS]
    best = np.full(max(BUDGETS), np.nan)
    for budget, (found, _) in zip(BUDGETS, parts, strict=True):
        best[budget - 1] = found[min(budget, len(found)) - 1]
    return Trace(best, parts[-1][1])


@dataclass(frozen=True)
class Trace:
    truth: np.ndarray
    """float64 (epochs,); NaN where the method has no answer."""
    seconds: float

    def at(self, epochs: int) -> float:
        return float(self.truth[epochs - 1])


def searched(
    method: Method,
    world: World,
    setting: Setting,
    others: Sequence[Mapping[str, Any]],
    ensemble: Ensemble,
) -> tuple[np.ndarray, float]:
    """Truth after each epoch, float64 (epochs,), fewer than the budget if the system ends itself; its own seconds."""
    begin = time.process_time()
    system = method.make(setting, others)
    running: dict[int, int] = {}
    done: dict[int, int] = {}
    trained: dict[int, Recorded] = {}
    values: dict[int, Curve] = {}
    ended: dict[int, Ended] = {}
    truth: list[float] = []
    while len(truth) < setting.budget:
        while len(running) < SLOTS:
            started = system.start()
            if started is None:
                break
            number, params = started
            running[number] = done.get(number, 0)
            if number not in values:
                known = {name: value for name, value in params.items() if name != DENSITY}
                trained[number] = world.train(known, seed=1_000 * setting.seed + number)
                values[number] = trained[number].curves[params.get(DENSITY, method.score)]
        if not running:
            break
        for number in list(running):
            running[number] += 1
            value = float(values[number].values[running[number] - 1])
            if not system.report(number, running[number], value):
                done[number] = running.pop(number)
                ended[number] = Ended(trained[number], done[number], value)
            best = system.best
            assert best is not None
            averaged = None if method.averaging is None else ensemble(list(ended.values()), method.averaging)
            truth.append(values[best].truth if averaged is None else averaged)
    return np.array(truth[: setting.budget]), time.process_time() - begin


@dataclass(frozen=True)
class Ended:
    """A training that a search has ended."""

    training: Recorded
    epochs: int
    value: float
    """Its last one."""


class Ensembles:
    """Truth of the mean score of the best pairs of some trainings, by validation AUC; needs their single scores."""

    def __init__(self, store: Store):
        self._store = store
        self._pairs: dict[tuple[int, int, int], list[Pair]] = {}
        for pair in (*store.pairs, *store.early):
            self._pairs.setdefault((pair.configuration, pair.repeat, pair.epochs), []).append(pair)
        self._known: dict[tuple[Any, ...], float] = {}

    def __call__(self, ended: Sequence[Ended], averaging: Averaging) -> float | None:
        """None where no training has had enough epochs."""
        enough = [each for each in ended if each.epochs >= averaging.least_epochs]
        if not enough:
            return None
        leaders = sorted(enough, key=lambda each: -each.value)[: averaging.leaders]
        keys = tuple(sorted({self._key(each) for each in leaders}))
        if (averaging.pairs, keys) not in self._known:
            pairs = [pair for key in keys for pair in self._pairs[key]]
            best = sorted(pairs, key=lambda pair: -pair.auc)[: averaging.pairs]
            mean_N = np.mean([pair.truth_N for pair in best], axis=0)
            self._known[averaging.pairs, keys] = self._store.truth.auc(mean_N, self._store.truth.held_out)
        return self._known[averaging.pairs, keys]

    def _key(self, ended: Ended) -> tuple[int, int, int]:
        """Configuration, repeat and the last recorded number of epochs that the training had."""
        training = ended.training
        epochs = [each for each in (*EARLY, MOST_EPOCHS) if each <= ended.epochs]
        key = training.configuration, training.repeat, epochs[-1]
        if key not in self._pairs:
            raise ConfigError(
                f"the store of {self._store.name} has no scores of training {key[0]} after {key[2]} epochs; record it "
                "anew with python -m benchmarks.recorded"
            )
        return key


@cache
def ensembles(stores: str, name: str) -> Ensembles:
    return Ensembles(read_store(Path(stores) / name))


def one_world(
    arguments: tuple[str, str, str | None], data_set: str, number: int, methods: Sequence[str]
) -> dict[str, Trace]:
    """Every method's search on one world."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")  # Optuna's own, of experimental parts
    torch.set_num_threads(1)  # Optuna's Gaussian process is torch's
    folder, space_name, stores = arguments
    space, sets = space_and_sets(folder, space_name, stores)
    ensemble = _no_ensemble if stores is None else ensembles(stores, data_set)
    data = next(each for each in sets if each.name == data_set)
    chosen = greedy([each for each in sets if each is not data])
    world = World(data, space, number)
    others = [data.params[configuration] for configuration in chosen]
    return {name: search(METHODS[name], world, space, others, number, ensemble) for name in methods}


def _no_ensemble(ended: Sequence[Ended], averaging: Averaging) -> float | None:
    raise ConfigError("methods that average models need the scores of single clips; give --stores")


def chosen_methods(named: str | None, *, with_scores: bool) -> list[str]:
    """Names of the methods that contain one of some texts, with ``|`` between; plain Ray Tune is always among them."""
    wanted = (named or "").split("|")
    return [
        name
        for name, method in METHODS.items()
        if name == RAY
        or (
            any(part in name for part in wanted)
            and (with_scores or method.averaging is None)
            and not (method.slow and not named)
        )
    ]


def rows_of(found: dict[str, list[dict[str, Trace]]], methods: Sequence[str]) -> list[dict[str, Any]]:
    """One row per method."""
    names = list(found)
    curves = {
        method: {name: np.array([trace[method].truth for trace in found[name]]) for name in names} for method in methods
    }
    rng = np.random.default_rng(0)
    worlds = len(next(iter(found.values())))
    picks = [
        [(names[at], rng.integers(worlds, size=worlds)) for at in rng.integers(len(names), size=len(names))]
        for _ in range(RESAMPLES)
    ]
    whole = [(name, np.arange(worlds)) for name in names]

    def mean_curve(method: str, pick: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
        return np.mean([curves[method][name][chosen].mean(axis=0) for name, chosen in pick], axis=0)

    resampled = {
        method: np.array([mean_curve(method, pick) for pick in (whole, *picks)]) for method in methods
    }  # the whole first
    rows = []
    for method in methods:
        row: dict[str, Any] = {"method": method}
        for budget in BUDGETS:
            row[f"truth at {budget}"] = f"{resampled[method][0, budget - 1]:.4f}"
        if RAY in methods and method != RAY:
            for budget in BUDGETS:
                row[f"minus Ray at {budget}"] = _gain(resampled[method], resampled[RAY], budget)
            for budget in BUDGETS[1:]:
                pairs = zip(resampled[method], resampled[RAY], strict=True)
                shares = [_share(mine, theirs[budget - 1], budget) for mine, theirs in pairs]
                low, high = np.percentile(shares[1:], [2.5, 97.5], method="nearest")
                row[f"of Ray's {budget}"] = f"{_shown(shares[0])} [{_shown(low)}, {_shown(high)}]"
        if DEFAULT in methods and method != DEFAULT:
            row[f"behind {DEFAULT} at {BUDGETS[1]}"] = _gain(resampled[DEFAULT], resampled[method], BUDGETS[1])
        seconds = np.mean([trace[method].seconds for traces in found.values() for trace in traces])
        row["seconds"] = f"{seconds:.2f}"
        for name in names:
            row[f"{name} at {BUDGETS[1]}"] = f"{curves[method][name][:, BUDGETS[1] - 1].mean():.3f}"
        rows.append(row)
    return rows


def _gain(mine: np.ndarray, theirs: np.ndarray, budget: int) -> str:
    """Mean difference after so many epochs and its interval, from curves of the whole and of resamples below it."""
    gains = mine[:, budget - 1] - theirs[:, budget - 1]
    low, high = np.percentile(gains[1:], [2.5, 97.5])
    return f"{gains[0]:+.4f} [{low:+.4f}, {high:+.4f}]"


def _share(curve: np.ndarray, reached: float, epochs: int) -> float:
    there = np.flatnonzero(curve >= reached)
    return math.inf if not len(there) else float(there[0] + 1) / epochs


def _shown(share: float) -> str:
    return f"{share:.2f}" if math.isfinite(share) else f"> {max(BUDGETS) / BUDGETS[1]:.0f}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.search_methods", description=__doc__.split("\n")[0])
    add_flag(parser, "space", default=str(RECORDED_SPACE))
    add_flag(parser, "curves", metavar="DIR", default=str(TABLES), help="tables of recorded trainings")
    add_flag(parser, "stores", metavar="DIR", help="stores of single scores, for methods that average models")
    add_flag(parser, "worlds", type=int, default=10, help="worlds of each data set (default: 10)")
    add_flag(parser, "methods", metavar="TEXT", help="only methods whose name contains one of these, with | between")
    add_flag(parser, "jobs", type=int, default=available_cores())
    add_flag(parser, "output", metavar="FILE", help="write the table here as well")
    arguments = parser.parse_args(argv)
    methods = chosen_methods(arguments.methods, with_scores=arguments.stores is not None)
    space, sets = space_and_sets(arguments.curves, arguments.space, arguments.stores)
    if len(sets) < 2:
        raise ConfigError(f"{arguments.curves} holds fewer than two data sets; a portfolio is that of the others")
    for data in sets:
        tree, forest = rank_correlations(data, space)
        known = f"left out, a tree predicts {tree:.2f}, a forest {forest:.2f}"
        print(f"{data.name}: {len(data.drawn)} configurations; rank correlation with those {known}")
    jobs = [(data.name, number) for number in range(arguments.worlds) for data in sets]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        work = [
            pool.submit(one_world, (arguments.curves, arguments.space, arguments.stores), name, number, methods)
            for name, number in jobs
        ]
        found: dict[str, list[dict[str, Trace]]] = {}
        for (name, _), done in zip(jobs, work, strict=True):
            found.setdefault(name, []).append(done.result())
    rows = rows_of(found, methods)
    for row in rows:
        print("  ".join(f"{name} {value}" if name != "method" else f"{value:52s}" for name, value in row.items()))
    if arguments.output:
        write_table(arguments.output, rows, command_of("search_methods", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
