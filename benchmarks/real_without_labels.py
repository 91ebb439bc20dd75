"""Real searches that see no labelled clip, judged by labelled ones: what not having labels costs.

    python -m benchmarks.real_without_labels --machine-type fan --seeds 5 --store runs/unlabelled/fan
    python -m benchmarks.real_without_labels --read runs/unlabelled --output benchmarks/results/unlabelled.csv

A search as `--objective normal-only` runs it, on the normal clips alone, until its trials have trained `--epochs` in
all. Then labels judge what it found: `detector` is the AUC of the mean of the pairs that pseudo-anomalies chose, `by
labels` that of the completed trial whose validation AUC is highest, with the density model that the space fixes, `five
random` that of five completed trials averaged, the mean over draws. Truth is on fresh clips of an embedded machine and
on held-out clips of other recordings. `regret` is `by labels` minus `detector`; `alarms` the share of normal clips
among those that judge whose p-value is at most 5 %. A search is kept as a file when it ends, and the command goes on
where an earlier one stopped.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks.curves import TABLES
from benchmarks.ensemble import standardised
from benchmarks.no_labels import Clips
from benchmarks.real_searches import Training, as_shipped, data_and_judges, detector_of, portfolio_of_others, search
from benchmarks.search_systems import Setting
from benchmarks.tables import command_of, tell_table
from spaces.loader import load_space
from trainable.commandline import Parser, add_data_flags, add_flag, run
from trainable.data.clips import TestClips
from trainable.data.load import Dataset
from trainable.detection.finish import MemberPlan
from trainable.detection.ranking import choose_members
from trainable.durable import write_json
from trainable.errors import ConfigError
from trainable.scoring.evaluate import evaluate

ALARM = 0.05
RANDOM_TRIALS = 5
DRAWS = 50


@dataclass(frozen=True)
class Found:
    """What one search found, by the AUC on the clips that judge."""

    seed: int
    detector: float
    by_labels: float
    five_random: float
    alarms: float
    """Share of normal clips."""
    completed: int
    epochs: int


def one_search(arguments: argparse.Namespace, seed: int) -> Found:
    """Runs a search to its end without its labels, and judges it with them."""
    space = load_space(arguments.space)
    data, dataset, judges = data_and_judges(arguments, space, "normal-only")
    none = np.empty(0, dtype=np.int64)
    hidden = replace(dataset, validation=dataset.validation.take(none), held_out=dataset.held_out.take(none))
    portfolio = portfolio_of_others(data.machine_type, space, Path(arguments.curves))
    method, max_epochs = as_shipped(space)
    setting = Setting(space, seed, max_epochs, arguments.epochs)
    system = method.make(setting, portfolio)
    trainings = search(system, setting, space.for_clips(int(dataset.train.lengths.max())), hidden)
    completed = {number: each for number, each in trainings.items() if each.trial.done}
    if not completed:
        raise ConfigError(f"no trial has completed in {arguments.epochs} epochs; give more")
    pairs = choose_members([each.record for each in trainings.values()])
    detector = detector_of([MemberPlan(pair.trial, pair.density) for pair in pairs], trainings, data, hidden)
    scores = detector.score_clips(judges)
    normal = [
        detector.calibration[machine_id].p_value([score])
        for machine_id, score, label in zip(judges.machine_ids, scores, judges.labels, strict=True)
        if label == 0
    ]
    best, five = _by_labels(completed, dataset, judges, seed)
    return Found(
        seed=seed,
        detector=evaluate(scores, judges).auc,
        by_labels=best,
        five_random=five,
        alarms=float(np.mean(np.array(normal) <= ALARM)),
        completed=len(completed),
        epochs=sum(len(each.reports) for each in trainings.values()),
    )


def _by_labels(completed: dict[int, Training], dataset: Dataset, judges: TestClips, seed: int) -> tuple[float, float]:
    """AUC of the trial that labels choose, and the mean AUC of averages of random trials."""
    held_back = dataset.pseudo
    assert held_back is not None, "the objective holds clips back"
    reference, truth = _clips(held_back.normal), _clips(judges)
    validation, standard = [], []
    for each in completed.values():
        density = each.trial.densities()[each.trial.config.score.density]
        chosen_by = evaluate(density.score_samples(each.trial.codes(dataset.validation)), dataset.validation)
        validation.append(chosen_by.auc)
        normal, theirs = (
            density.score_samples(each.trial.codes(clips)).astype(np.float64) for clips in (held_back.normal, judges)
        )
        standard.append(standardised(reference, truth, normal, theirs)[1])
    everything = np.arange(len(judges.labels))
    rng = np.random.default_rng(seed)
    draws = [rng.permutation(len(standard))[:RANDOM_TRIALS] for _ in range(DRAWS)]
    averaged = [truth.auc(np.mean([standard[at] for at in drawn], axis=0), everything) for drawn in draws]
    return truth.auc(standard[int(np.argmax(validation))], everything), float(np.mean(averaged))


def _clips(clips: TestClips) -> Clips:
    return Clips(np.array(clips.machine_ids), clips.labels, 0)


def rows_of(found: Mapping[str, Sequence[Found]]) -> list[dict[str, Any]]:
    """One row per data set, then their mean and the worst."""
    rows = []
    for name, searches in found.items():
        regret = [each.by_labels - each.detector for each in searches]
        row: dict[str, Any] = {"data set": name, "searches": len(searches)}
        for column in ("detector", "by_labels", "five_random", "alarms"):
            row[column.replace("_", " ")] = float(np.mean([getattr(each, column) for each in searches]))
        row |= {"regret": float(np.mean(regret)), "highest regret": float(max(regret))}
        rows.append(row)
    numbers = [name for name in rows[0] if name not in ("data set", "searches")]
    mean = {"data set": "mean", "searches": sum(row["searches"] for row in rows)}
    mean |= {name: float(np.mean([row[name] for row in rows])) for name in numbers}
    rows.append(mean | {"highest regret": max(row["highest regret"] for row in rows)})
    return [
        {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.real_without_labels", description=__doc__.split("\n")[0])
    add_flag(parser, "space", default="ad_tuning")
    add_flag(parser, "seeds", type=int, default=5, help="searches (default: 5)")
    add_flag(parser, "epochs", type=int, default=120, help="epochs of a search in all (default: 120)")
    add_flag(parser, "fresh", type=int, default=125, help="new clips of each kind and embedded id (default: 125)")
    add_flag(parser, "curves", metavar="DIR", default=str(TABLES), help="where portfolios come from")
    add_flag(parser, "store", metavar="DIR", default="runs/unlabelled/fan", help="where ended searches are kept")
    add_flag(parser, "read", metavar="DIR", help="search nothing; the table of the stores below this folder")
    add_flag(parser, "output", metavar="FILE", help="write the table here as well")
    add_data_flags(parser)
    arguments = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    stores = [Path(arguments.store)]
    if arguments.read:
        stores = sorted(each for each in Path(arguments.read).glob("*") if list(each.glob("*.json")))
        if not stores:
            raise ConfigError(f"--read {arguments.read} holds no ended search; make some with --store")
    else:
        stores[0].mkdir(parents=True, exist_ok=True)
        for seed in range(arguments.seeds):
            path = stores[0] / f"{seed}.json"
            if not path.exists():
                write_json(path, asdict(one_search(arguments, seed)))
                print(f"{path}: {path.read_text(encoding='utf-8')}", flush=True)
    found = {
        store.name: [Found(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(store.glob("*.json"))]
        for store in stores
    }
    rows = rows_of(found)
    tell_table(rows, arguments.output, command_of("real_without_labels", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
