"""The gain of a search: its winner against the default configuration of its space, both trained to the end.

    python -m benchmarks.against_default runs/first --seeds 5

Both are trained with the same seeds 0, 1, … for as many epochs as the winner, on the run's recordings. Differences are
winner minus default: the mean over seeds with its 95 % interval (Student's t, paired by seed). The winner was chosen
with the validation clips, so their difference flatters it; the held-out clips' difference does not.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.differences import difference
from spaces.loader import load_space
from trainable.commandline import Parser, add_flag, run
from trainable.config import DataConfig, TrialConfig
from trainable.data.clips import Split
from trainable.data.load import Dataset, load_dataset
from trainable.errors import ConfigError, RunError
from trainable.record import RunFolder
from trainable.train import read_config_file
from trainable.trial import PlannedTrial, Trial

SPLITS = (Split.VALIDATION, Split.HELD_OUT)
MEAN = "mean of ids"
Aucs = dict[Split, dict[str, list[float]]]
"""AUCs of one configuration: split → machine id (and `MEAN`) → one AUC per seed."""


def configurations(folder: RunFolder, dataset: Dataset) -> dict[str, TrialConfig]:
    """The space's default and the run's winner. Raises RunError if the run has no winner."""
    if not folder.best_path.exists():
        raise RunError(f"{folder.path} has no {folder.best_path.name}; complete a trial of the search first")
    winner = TrialConfig.from_flat(read_config_file(folder.best_path)[0])
    space = load_space(str(folder.path / "space.yaml")).for_clips(int(dataset.train.lengths.max()))
    return {"default": space.default_config(epochs=winner.phase.epochs), "winner": winner}


def measure(config: TrialConfig, dataset: Dataset, into: Aucs) -> None:
    """Trains once and adds the results."""
    trial = Trial(PlannedTrial.whole_batch(config), dataset)
    while not trial.done:
        trial.trainer.train_epoch()
    for split in SPLITS:
        evaluation = trial.evaluate(split)
        for name, auc in {MEAN: evaluation.auc, **evaluation.auc_by_id}.items():
            into.setdefault(split, {}).setdefault(name, []).append(auc)
    trial.release()


def lines(table: dict[str, Aucs]) -> list[str]:
    """One line per split and machine id."""
    shown = []
    for split in SPLITS:
        for name in table["winner"][split]:
            default, winner = (table[which][split][name] for which in ("default", "winner"))
            shown.append(
                f"{split.value:10}  {name:12}  default {np.mean(default):.3f}  winner {np.mean(winner):.3f}  "
                f"difference {difference(winner, default)}"
            )
    return shown


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.against_default", description=__doc__.split("\n")[0])
    parser.add_argument("run", metavar="RUN", help="folder of a finished search")
    add_flag(parser, "seeds", type=int, default=5, metavar="N", help="trainings of each configuration (default: 5)")
    add_flag(parser, "threads", type=int, default=1, metavar="N", help="torch's CPU threads (default: 1)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    for flag in ("seeds", "threads"):
        if getattr(arguments, flag) < 1:
            raise ConfigError(f"--{flag} is {getattr(arguments, flag)}; it must be at least 1")
    torch.set_num_threads(arguments.threads)
    folder = RunFolder(Path(arguments.run))
    dataset = load_dataset(DataConfig.from_dict(folder.read_manifest().data))
    configs = configurations(folder, dataset)
    epochs = configs["winner"].phase.epochs
    print(f"{folder.path.name}: {dataset.machine_type}, {epochs} epochs, {arguments.seeds} seeds", flush=True)
    table: dict[str, Aucs] = {name: {} for name in configs}
    for seed in range(arguments.seeds):
        for name, config in configs.items():
            measure(config.replace(seed=seed), dataset, table[name])
            aucs = "  ".join(f"{split.value} {table[name][split][MEAN][-1]:.3f}" for split in SPLITS)
            print(f"seed {seed}  {name:7}  {aucs}", flush=True)
    print("\n".join(lines(table)))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
