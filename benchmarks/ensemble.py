"""What a detector gains that averages several trained models of a search, on recorded trainings.

    python -m benchmarks.ensemble --stores runs/recorded --output benchmarks/results/ensemble.csv

A search leaves its trained trials behind, each with every cheap density model: pairs, whose scores can be averaged at
no cost in training. A score is first measured in standard deviations of the validation normals of its machine id. Ways
choose by validation clips; truth is the AUC on clips that none of them sees, fresh ones where the store has them. A
world is a draw of `COMPLETED` configurations of every data set, the trials that a search completes, and a resample of
its truth clips. `gain` is the mean truth over the data sets minus that of the first way, with its 95 % percentile
bootstrap over data sets and worlds within them; `worst` is the smallest mean gain of a data set.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.no_labels import Clips
from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_flag, run
from trainable.errors import ConfigError

COMPLETED = 6
WORLDS = 50
RESAMPLES = 2_000
SLOW = ("kernel_counts", "histogram_neighbours", "counts")
"""Density models that the fused one does not contain and that hardly ever win."""


@dataclass(frozen=True)
class Pair:
    """One density model on one training."""

    configuration: int
    repeat: int
    epochs: int
    """Epochs that the training had had."""
    density: str
    validation_N: np.ndarray
    truth_N: np.ndarray
    auc: float
    """On validation clips."""


@dataclass(frozen=True)
class Store:
    """The recorded scores of one data set."""

    name: str
    validation: Clips
    truth: Clips
    pairs: tuple[Pair, ...]
    """Of trainings to their last epoch."""
    early: tuple[Pair, ...]
    """Of trainings that were stopped, as far as the store has them."""

    @cached_property
    def configurations(self) -> list[int]:
        return sorted({pair.configuration for pair in self.pairs})


def read(folder: Path) -> Store:
    """All trainings of a store. Raises ConfigError where nothing is recorded."""
    paths = sorted(folder.glob("[0-9]*-[0-9].npz"))
    if not paths:
        raise ConfigError(f"{folder} holds no recorded trainings; make some with python -m benchmarks.recorded")
    kept = np.load(folder / "clips.npz")
    split = "fresh" if "fresh/ids" in kept.files else "held_out"
    validation, truth = (Clips(kept[f"{name}/ids"], kept[f"{name}/labels"], 0) for name in ("validation", split))
    pairs: list[Pair] = []
    early: list[Pair] = []
    for path in paths:
        scores = np.load(path)
        configuration, repeat = (int(part) for part in path.stem.split("-"))
        for name in sorted(scores.files):
            density, *rest = name.split("/")
            if rest[:1] != [split]:
                continue
            curve = scores[f"{density}/validation"]
            epochs = int(rest[1]) if len(rest) == 2 else len(curve)
            mine, theirs = curve[epochs - 1].astype(np.float64), scores[name].astype(np.float64)
            mine, theirs = standardised(validation, truth, mine, theirs)
            auc = validation.auc(mine, validation.held_out)
            pair = Pair(configuration, repeat, epochs, density, mine, theirs, auc)
            (pairs if epochs == len(curve) else early).append(pair)
    return Store(folder.name, validation, truth, tuple(pairs), tuple(early))


def standardised(
    validation: Clips, truth: Clips, mine_N: np.ndarray, theirs_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores in standard deviations of the validation normals of each id."""
    mine, theirs = np.empty_like(mine_N), np.empty_like(theirs_N)
    for machine_id in np.unique(validation.ids):
        normal = mine_N[(validation.ids == machine_id) & (validation.labels == 0)]
        centre, scale = normal.mean(), normal.std() + 1e-9
        for source, clips, target in ((mine_N, validation, mine), (theirs_N, truth, theirs)):
            rows = clips.ids == machine_id
            target[rows] = (source[rows] - centre) / scale
    return mine, theirs


Choice = Callable[[Sequence[Pair], Clips], list[Pair]]


def best_fused(count: int) -> Choice:
    """The best trials by the fused density model's validation AUC, with that model."""
    return best_pairs(count, lambda pair: pair.density == "fused")


def best_pairs(count: int, among: Callable[[Pair], bool] = lambda pair: True) -> Choice:
    return lambda pairs, clips: sorted((pair for pair in pairs if among(pair)), key=lambda pair: -pair.auc)[:count]


def greedy(steps: int, among: Callable[[Pair], bool] = lambda pair: True) -> Choice:
    """Caruana et al. 2004: each step adds the pair, used or not, that raises the mean's validation AUC most."""

    def choose(pairs: Sequence[Pair], clips: Clips) -> list[Pair]:
        candidates = [pair for pair in pairs if among(pair)]
        chosen: list[Pair] = []
        total = np.zeros(len(clips.labels))
        for _ in range(steps):
            best = max(candidates, key=lambda pair: clips.auc(total + pair.validation_N, clips.held_out))
            chosen.append(best)
            total += best.validation_N
        return chosen

    return choose


def fast(pair: Pair) -> bool:
    return pair.density not in SLOW


WAYS: Mapping[str, Choice] = {
    "the best trial, fused": best_fused(1),
    "the best pair": best_pairs(1),
    "the best 3 trials, fused": best_fused(3),
    "the best 5 trials, fused": best_fused(5),
    f"all {COMPLETED} trials, fused": best_fused(COMPLETED),
    "the best 3 pairs": best_pairs(3),
    "the best 5 pairs": best_pairs(5),
    "the best 8 pairs": best_pairs(8),
    "the best 12 pairs": best_pairs(12),
    "greedy, 8 steps": greedy(8, fast),
    "greedy, 20 steps": greedy(20, fast),
    "greedy, 8 steps, fused": greedy(8, lambda pair: pair.density == "fused"),
    "greedy, 8 steps, fused and its parts": greedy(8, lambda pair: pair.density != "combined" and fast(pair)),
}


def truths(stores: Sequence[Store], worlds: int) -> dict[str, np.ndarray]:
    """Way → truth, float64 (worlds, data sets)."""
    found = {way: np.empty((worlds, len(stores))) for way in WAYS}
    for world in range(worlds):
        for column, store in enumerate(stores):
            rng = np.random.default_rng([world, column])
            there = set(rng.permutation(store.configurations)[:COMPLETED].tolist())
            pairs = [pair for pair in store.pairs if pair.configuration in there and pair.repeat == 0]
            rows = store.truth.draw(rng, store.truth.held_out)
            for way, choose in WAYS.items():
                chosen = choose(pairs, store.validation)
                found[way][world, column] = store.truth.auc(np.mean([pair.truth_N for pair in chosen], axis=0), rows)
    return found


def rows_of(stores: Sequence[Store], worlds: int) -> list[dict[str, Any]]:
    found = truths(stores, worlds)
    first = found[next(iter(WAYS))]
    rng = np.random.default_rng(0)
    picks = [(rng.integers(len(stores), size=len(stores)), rng.integers(worlds, size=worlds)) for _ in range(RESAMPLES)]
    rows = []
    for way, truth in found.items():
        gain = truth - first
        low, high = np.percentile([gain[chosen][:, sets].mean() for sets, chosen in picks], [2.5, 97.5])
        row: dict[str, Any] = {"way": way}
        row |= {store.name: f"{value:.3f}" for store, value in zip(stores, truth.mean(axis=0), strict=True)}
        row |= {"mean": f"{truth.mean():.4f}", "gain": f"{gain.mean():+.4f}"}
        row |= {"interval": f"{low:+.4f} … {high:+.4f}", "worst": f"{gain.mean(axis=0).min():+.4f}"}
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.ensemble", description=__doc__.split("\n")[0])
    add_flag(parser, "stores", metavar="DIR", default="runs/recorded", help="stores of recorded trainings")
    add_flag(parser, "worlds", type=int, default=WORLDS)
    add_flag(parser, "output", metavar="FILE", help="write the table here as well")
    arguments = parser.parse_args(argv)
    folders = sorted(each for each in Path(arguments.stores).glob("*") if (each / "clips.npz").exists())
    if not folders:
        raise ConfigError(f"{arguments.stores} holds no store of recorded trainings")
    stores = [read(folder) for folder in folders]
    counts = ", ".join(f"{store.name} {len(store.configurations)}" for store in stores)
    rows = rows_of(stores, arguments.worlds)
    for row in rows:
        print("  ".join(f"{name} {value}" if name != "way" else f"{value:38s}" for name, value in row.items()))
    print(f"configurations: {counts}")
    if arguments.output:
        write_table(arguments.output, rows, command_of("ensemble", argv), f"configurations: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
