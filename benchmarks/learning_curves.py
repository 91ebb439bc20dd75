"""How early the validation AUC predicts the final one: learning curves of sampled configurations, Spearman by epoch.

    python -m benchmarks.learning_curves --configurations 60 --output benchmarks/results/curves_fan.csv
    python -m benchmarks.learning_curves --read benchmarks/results/curves_fan.csv

Each configuration is drawn uniformly from the space and trained to the end, never stopped. The table has one line per
configuration and epoch; it is small and committed, so that later comparisons of search methods replay it in seconds.
``--read`` only analyses a table: it computes the rank correlation with the final AUC of the AUC after r epochs and of
the mean of the last two AUCs, and what ASHA would have found and spent with each grace period and reduction factor.
"""

import argparse
import csv
import itertools
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.tables import command_of, machine, read_table
from search.engine.asha import Asha, Decision
from search.engine.space_draws import uniform_params
from spaces.loader import load_space
from spaces.space import Space
from trainable.commandline import Parser, add_data_flags, add_flag, data_config, run
from trainable.data.clips import Split
from trainable.data.load import load_dataset
from trainable.trial import PlannedTrial, Trial

Curves = dict[int, list[float]]
ORDERS = 200
"""Random orders of arrival over which ASHA is replayed."""


def record(arguments: argparse.Namespace, space: Space, path: Path, argv: Sequence[str] | None) -> None:
    """Trains the configurations and writes each curve when it ends; resumes where an earlier run stopped."""
    dataset = load_dataset(data_config(arguments, dict(space.data)))
    space = space.for_clips(int(dataset.train.lengths.max()))
    names = ["configuration", *space.names, "epoch", "validation_auc", "seconds", "held_out_auc"]
    done = len(_read(path)) if path.exists() else 0
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        if not done:
            file.writelines(f"# {line}\n" for line in (command_of("learning_curves", argv), machine("cpu")))
            writer.writeheader()
        for index in range(done, arguments.configurations):
            params = uniform_params(space, np.random.RandomState(arguments.seed * 100_003 + index))
            config = space.config(params, epochs=arguments.epochs, seed=index)
            trial = Trial(PlannedTrial.whole_batch(config), dataset)
            rows: list[dict[str, Any]] = []
            while not trial.done:
                report = trial.step()
                shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in params.items()}
                rows.append(
                    {
                        "configuration": index,
                        **shown,
                        "epoch": report.epoch,
                        "validation_auc": f"{report.validation_auc:.4f}",
                    }
                    | {"seconds": f"{report.epoch_seconds:.2f}"}
                )
            rows[-1]["held_out_auc"] = f"{trial.evaluate(Split.HELD_OUT).auc:.4f}"
            writer.writerows(rows)
            file.flush()
            print(f"{index}: {rows[-1]['validation_auc']} after {len(rows)} epochs, {params}", flush=True)


def _read(path: Path) -> Curves:
    curves: Curves = defaultdict(list)
    for row in read_table(path):
        curves[int(row["configuration"])].append(float(row["validation_auc"]))
    longest = max((len(curve) for curve in curves.values()), default=0)
    return {number: curve for number, curve in curves.items() if len(curve) == longest}


def correlations(curves: Curves) -> list[tuple[int, float, float]]:
    """Epoch, Spearman's ρ of its AUC with the final AUC, and ρ of the mean of the last two AUCs up to it."""
    table = np.array(list(curves.values()))
    final = table[:, -1]
    rows = []
    for epoch in range(1, table.shape[1] + 1):
        smoothed = table[:, max(0, epoch - 2) : epoch].mean(axis=1)
        rows.append((epoch, float(spearmanr(table[:, epoch - 1], final)[0]), float(spearmanr(smoothed, final)[0])))
    return rows


def replay(curves: Curves, grace: int, factor: int, *, smooth: bool, trials: int = 20) -> tuple[float, float]:
    """Mean regret (best final AUC of the replayed trials minus that of ASHA's choice) and mean epochs per trial."""
    table = np.array(list(curves.values()))
    rng = np.random.default_rng(0)
    regrets, epochs = [], 0
    for _ in range(ORDERS):
        chosen = rng.permutation(len(table))[: min(trials, len(table))]
        asha = Asha(grace_period=grace, reduction_factor=factor, max_epochs=table.shape[1])
        finals = []
        for number in chosen:
            for epoch in range(1, table.shape[1] + 1):
                epochs += 1
                value = table[number, max(0, epoch - 2) : epoch].mean() if smooth else table[number, epoch - 1]
                if asha.report(int(number), epoch, float(value)) is Decision.STOP:
                    break
            else:
                finals.append(table[number, -1])
        regrets.append(table[chosen, -1].max() - max(finals))
    return float(np.mean(regrets)), epochs / (ORDERS * min(trials, len(table)))


def analyse(curves: Curves) -> None:
    longest = len(next(iter(curves.values())))
    print(f"{len(curves)} configurations, {longest} epochs")
    print("epoch  Spearman with the final AUC   of the mean of the last two")
    for epoch, plain, smoothed in correlations(curves):
        print(f"{epoch:5d}  {plain:27.3f}   {smoothed:.3f}")
    print("grace  factor  smoothed  regret in AUC  epochs per trial")
    for grace, factor, smooth in itertools.product((1, 2, 3, 4), (2, 3, 4), (False, True)):
        regret, epochs = replay(curves, grace, factor, smooth=smooth)
        print(f"{grace:5d}  {factor:6d}  {smooth!s:8s}  {regret:13.4f}  {epochs:.2f}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.learning_curves", description=__doc__.split("\n")[0])
    add_flag(parser, "space", default="ad_tuning")
    add_flag(parser, "configurations", type=int, default=60)
    add_flag(parser, "epochs", type=int, default=12)
    add_flag(parser, "seed", type=int, default=0)
    add_flag(parser, "threads", type=int, default=1, help="torch's CPU threads (default: 1)")
    add_flag(parser, "output", metavar="FILE", default="curves.csv", help="CSV; resumed if it exists")
    add_flag(parser, "read", metavar="FILE", help="analyse this table and train nothing")
    add_data_flags(parser)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    path = Path(arguments.read or arguments.output)
    if arguments.read is None:
        record(arguments, load_space(arguments.space), path, argv)
    analyse(_read(path))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
