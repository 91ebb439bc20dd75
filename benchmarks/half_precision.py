"""Features in half precision beside features in single precision: the AUC, the time and the memory of both.

    python -m benchmarks.half_precision
    python -m benchmarks.half_precision --seeds 20 --output benchmarks/results/half_precision.csv

The default configuration of a space is trained with each seed, once under today's rules of reading and once under
rules 2, which do not round features. Both take turns, an epoch at a time, so that other work on
the machine slows both alike; ``epoch_s``, and the seconds to load a data set from the cache, are medians.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from benchmarks.differences import difference
from benchmarks.tables import command_of, write_table
from spaces.loader import load_space
from trainable.commandline import Parser, add_data_flags, add_flag, data_config, run
from trainable.config import READING_RULES, DataConfig, TrialConfig
from trainable.data.clips import Split
from trainable.data.load import Dataset, load_dataset
from trainable.errors import ConfigError
from trainable.memory.predict import DataSizes
from trainable.trial import PlannedTrial, Trial

RULES = {"half": READING_RULES, "single": 2}
LOADS = 5


def timed(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def load_seconds(data: DataConfig) -> dict[str, float]:
    """Seconds to load a data set from the cache under either rules, which take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in RULES}
    for _ in range(LOADS):
        for name, rules in RULES.items():
            seconds[name].append(timed(lambda rules=rules: load_dataset(replace(data, rules=rules))))  # type: ignore[misc]
    return {name: median(each) for name, each in seconds.items()}


def train_both(config: TrialConfig, datasets: dict[str, Dataset]) -> list[dict[str, Any]]:
    """A row for either precision: one configuration trained to its end."""
    trials = {name: Trial(PlannedTrial.whole_batch(config), dataset) for name, dataset in datasets.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(config.phase.epochs):
        for name, trial in trials.items():
            seconds[name].append(timed(trial.trainer.train_epoch))
    return [
        {
            "seed": config.seed,
            "features": name,
            **{f"{split}_auc": round(trial.evaluate(split).auc, 4) for split in (Split.VALIDATION, Split.HELD_OUT)},
            "epoch_s": round(median(seconds[name]), 4),
        }
        for name, trial in trials.items()
    ]


def lines(rows: Sequence[dict[str, Any]], sizes_bytes: dict[str, int], load_s: dict[str, float]) -> list[str]:
    """What the rows say, half beside single precision."""

    def of(column: str, features: str) -> list[float]:
        return [row[column] for row in rows if row["features"] == features]

    ratios = [half / single for half, single in zip(of("epoch_s", "half"), of("epoch_s", "single"), strict=True)]
    return [
        f"packed features: {sizes_bytes['half'] / 2**20:.2f} MiB beside {sizes_bytes['single'] / 2**20:.2f} MiB",
        f"from the cache:  {load_s['half']:.3f} s beside {load_s['single']:.3f} s",
        f"an epoch:        {median(ratios):.3f} times that of single precision ({min(ratios):.3f} … {max(ratios):.3f})",
        *(
            f"{column}: half − single {difference(of(column, 'half'), of(column, 'single'))}"
            for column in ("validation_auc", "held_out_auc")
        ),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.half_precision", description=__doc__.split("\n")[0])
    add_flag(parser, "space", default="ad_smoke", metavar="NAME", help="space whose default is trained (ad_smoke)")
    add_flag(parser, "seeds", type=int, default=5, metavar="N", help="trainings of each (5)")
    add_flag(parser, "epochs", type=int, default=3, metavar="N", help="epochs of a training (3)")
    add_flag(parser, "output", metavar="FILE", help="write the table as CSV")
    add_data_flags(parser)
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1:
        raise ConfigError(f"--seeds is {arguments.seeds}; it must be at least 1")
    torch.set_num_threads(1)
    data = data_config(arguments)
    datasets = {name: load_dataset(replace(data, rules=rules)) for name, rules in RULES.items()}
    config = load_space(arguments.space).default_config(epochs=arguments.epochs)
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        rows += train_both(config.replace(seed=seed), datasets)
        print("  ".join(f"{row['features']}: held-out AUC {row['held_out_auc']:.4f}" for row in rows[-2:]), flush=True)
    sizes_bytes = {name: DataSizes.of(dataset).frames_bytes for name, dataset in datasets.items()}
    summary = lines(rows, sizes_bytes, load_seconds(data))
    print("\n".join(summary))
    if arguments.output:
        write_table(arguments.output, rows, command_of("half_precision", argv), *summary)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
