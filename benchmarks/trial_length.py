"""How long a trial should train: as many trainings as some epochs pay for, short or long, averaged as a search does.

    python -m benchmarks.recorded --machine-type pump --epochs 3 --first 100 --configurations 124 --repeated 0 \\
        --store runs/lengths/3/pump
    python -m benchmarks.trial_length --stores runs/lengths --output benchmarks/results/trial_length.csv

A store is recorded for every length and data set, in folders named so; all trainings of a store run to their end. Only
configurations that were trained for every length count. A draw takes as many of them at random as the epochs pay for,
and averages the best pairs of the best trainings by validation clips. Truth is the AUC on clips that no training sees.
`minus the longest` is the mean paired difference to the longest trainings, with its 95 % percentile bootstrap over data
sets and draws. A length whose trainings are too few for the epochs has no row.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.curves import FUSED
from benchmarks.ensemble import Pair, Store, read
from benchmarks.tables import command_of, tell_table
from trainable.commandline import Parser, add_flag, run
from trainable.detection.ranking import LEADERS, MEMBERS
from trainable.errors import ConfigError

BUDGETS = (12, 36, 72, 144)
"""Epochs of all trainings of a draw."""
DRAWS = 100
RESAMPLES = 2_000


def stores_by_length(folder: Path) -> dict[int, dict[str, Store]]:
    """Length → data set → its store, of the data sets that every length has. Raises ConfigError if there is none."""
    lengths = {int(each.name): each for each in folder.glob("[0-9]*") if each.name.isdigit()}
    found = {
        length: {each.parent.name: read(each.parent) for each in sorted(path.glob("*/clips.npz"))}
        for length, path in sorted(lengths.items())
    }
    common = set.intersection(*(set(stores) for stores in found.values())) if found else set()
    if not common:
        raise ConfigError(f"{folder} holds no data set of every length; record them as {folder}/LENGTH/DATA_SET")
    kept: dict[int, dict[str, Store]] = {length: {} for length in found}
    for name in sorted(common):
        of_every_length = set.intersection(*(set(stores[name].configurations) for stores in found.values()))
        for length, stores in found.items():
            pairs = tuple(pair for pair in stores[name].pairs if pair.configuration in of_every_length)
            kept[length][name] = replace(stores[name], pairs=pairs)
    return kept


def detector_truth(store: Store, configurations: Sequence[int]) -> float:
    """AUC of the mean of the best pairs of these trainings on the clips that judge."""
    by_training: dict[int, list[Pair]] = {number: [] for number in configurations}
    for pair in store.pairs:
        if pair.configuration in by_training:
            by_training[pair.configuration].append(pair)
    value = {number: next(pair.auc for pair in pairs if pair.density == FUSED) for number, pairs in by_training.items()}
    leaders = sorted(value, key=lambda number: -value[number])[:LEADERS]
    pairs = sorted((pair for number in leaders for pair in by_training[number]), key=lambda pair: -pair.auc)[:MEMBERS]
    return store.truth.auc(np.mean([pair.truth_N for pair in pairs], axis=0), store.truth.held_out)


def truths(stores: Mapping[int, Mapping[str, Store]], budget: int) -> dict[int, np.ndarray]:
    """Length → truth, float64 (draws, data sets)."""
    found = {}
    for length, of_length in stores.items():
        count = budget // length
        if not 1 <= count <= min(len(store.configurations) for store in of_length.values()):
            continue
        truth = np.empty((DRAWS, len(of_length)))
        for column, store in enumerate(of_length.values()):
            for draw in range(DRAWS):
                order = np.random.default_rng([draw, column]).permutation(store.configurations)
                truth[draw, column] = detector_truth(store, order[:count].tolist())
        found[length] = truth
    return found


def rows_of(stores: Mapping[int, Mapping[str, Store]]) -> list[dict[str, Any]]:
    """One row per budget and length."""
    names = list(next(iter(stores.values())))
    rng = np.random.default_rng(0)
    picks = [(rng.integers(len(names), size=len(names)), rng.integers(DRAWS, size=DRAWS)) for _ in range(RESAMPLES)]
    rows = []
    for budget in BUDGETS:
        found = truths(stores, budget)
        longest = found[max(found)]
        for length, truth in found.items():
            row: dict[str, Any] = {"epochs": budget, "of a training": length, "trainings": budget // length}
            row |= {name: f"{value:.3f}" for name, value in zip(names, truth.mean(axis=0), strict=True)}
            row["mean"] = f"{truth.mean():.4f}"
            if length != max(found):
                gain = truth - longest
                low, high = np.percentile([gain[draws][:, sets].mean() for sets, draws in picks], [2.5, 97.5])
                row["minus the longest"] = f"{gain.mean():+.4f} [{low:+.4f}, {high:+.4f}]"
            rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.trial_length", description=__doc__.split("\n")[0])
    add_flag(
        parser, "stores", metavar="DIR", default="runs/lengths", help="stores as LENGTH/DATA_SET below this folder"
    )
    add_flag(parser, "output", metavar="FILE", help="write the table here as well")
    arguments = parser.parse_args(argv)
    tell_table(rows_of(stores_by_length(Path(arguments.stores))), arguments.output, command_of("trial_length", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
