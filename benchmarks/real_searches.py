"""Real searches beside plain Ray Tune's: the same epochs of training, judged by clips that none of them saw.

    python -m benchmarks.real_searches --machine-type fan --seeds 5 --store runs/real/fan
    python -m benchmarks.real_searches --machine-type fan --seeds 5 --store runs/real/fan --output real_fan.csv

What `benchmarks.search_methods` replays is trained here: every system runs its own code, two trainings at a time, one
epoch each in turn, until together they have trained `--epochs`. This project's trials have the epochs, grace and factor
that the space says, those of others `--max-epochs` and their own defaults. Then a user takes what the system hands
over: of this project the detector, the mean of the best pairs; of plain Ray Tune the trial with the highest last value,
as its last epoch left it. `truth` is its AUC on fresh clips of an embedded machine, and on held-out clips of other
recordings. The portfolio is that of the other data sets of the bench. `--yardsticks` adds what needs no search, trained
with the same seeds, on the same clips. A search is kept as a file when it ends, and the command goes on where an
earlier one stopped; several may share a store. `--read` searches nothing and makes one table of several stores. `this
project − it` is paired by seed, with the interval of the seeds; `over clips` is the interval that the same difference
has when the clips that judge are redrawn. Where `--read` names several stores, the last rows are their means, with the
interval of the data sets.
`--ours-epochs 22` gives this project's searches fewer epochs than the others'.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks.curves import FUSED, TABLES, read_curves
from benchmarks.differences import difference
from benchmarks.portfolio import COUNT, greedy
from benchmarks.recorded import RECORDED_SPACE, fresh_clips
from benchmarks.search_methods import DEFAULT, METHODS, RAY, SLOTS, Method, ours
from benchmarks.search_systems import Setting, System
from benchmarks.tables import command_of, tell_table
from search.first_proposals import expressed
from spaces.loader import load_space
from spaces.space import Space
from trainable.commandline import Parser, add_data_flags, add_flag, data_config, run
from trainable.config import DataConfig, TrialConfig
from trainable.data.clips import TestClips
from trainable.data.load import Dataset, load_dataset
from trainable.detection.detector import Detector, Member
from trainable.detection.finish import MemberPlan, finish
from trainable.detection.ranking import choose_members
from trainable.durable import write_json
from trainable.errors import ConfigError
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialRecord, TrialStart
from trainable.scoring.evaluate import evaluate
from trainable.scoring.metrics import bootstrap_aucs, mean_auc, percentile_interval
from trainable.trial import PlannedTrial, Trial
from trainable.yardsticks.catalogue import YARDSTICKS

JUDGES = "judges.json"


@dataclass(frozen=True)
class Training:
    """A trial of a search, kept in memory."""

    start: TrialStart
    trial: Trial
    reports: list[EpochReport] = field(default_factory=list)

    @property
    def record(self) -> TrialRecord:
        """As a run's folder would hold it."""
        end = TrialEnd.COMPLETED if self.trial.done else TrialEnd.PRUNED
        values = [report.value for report in self.reports]
        outcome = TrialOutcome(end=end, reason="", epochs=len(values), best_auc=max(values), final_auc=values[-1])
        return TrialRecord(self.start, tuple(self.reports), outcome)


@dataclass(frozen=True)
class Found:
    """What one search handed over."""

    system: str
    seed: int
    scores: list[float]
    """Of each of the clips that judge, by what the system handed over."""
    best_truth: float
    """AUC on these clips of the best trial alone, with the density model that the search optimised."""
    validation: float
    """What the best trial's value was."""
    trials: int
    completed: int
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Judges:
    """Labels and machine ids of the clips that judge, as a store keeps them."""

    labels: list[int]
    machine_ids: list[str]

    def auc(self, scores: Sequence[float]) -> float:
        """Mean AUC over machine ids of the scores of all clips."""
        return mean_auc(np.array(self.labels), np.array(scores), tuple(self.machine_ids))

    def resampled(self, scores: Sequence[Sequence[float]]) -> np.ndarray:
        """Mean AUC over ids and seeds of each resample of the clips, (resamples,); always the same resamples."""
        labels, ids = np.array(self.labels), tuple(self.machine_ids)
        return np.mean([bootstrap_aucs(labels, np.array(each), ids) for each in scores], axis=0)


def search(system: System, setting: Setting, space: Space, dataset: Dataset) -> dict[int, Training]:
    """Every trial that the system began, with its model as its last epoch left it."""
    trainings: dict[int, Training] = {}
    running: list[int] = []
    trained = 0
    while trained < setting.budget:
        while len(running) < SLOTS and (started := system.start()) is not None:
            number, params = started
            if number not in trainings:
                seed = 1_000 * setting.seed + number
                config = space.config(params, epochs=setting.max_epochs, seed=seed)
                start = TrialStart(number=number, params=params, config=config, plan=None, predicted_bytes=0)
                trainings[number] = Training(start, Trial(PlannedTrial.whole_batch(config), dataset))
            running.append(number)
        if not running:
            break
        for number in list(running):
            report = trainings[number].trial.step()
            trainings[number].reports.append(report)
            trained += 1
            if not system.report(number, report.epoch, report.value):
                running.remove(number)
    return {number: training for number, training in trainings.items() if training.reports}


def handed_over(
    method: Method, best: int, trainings: dict[int, Training], data: DataConfig, dataset: Dataset, judges: TestClips
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the clips that judge, (clips,): by what a user takes, and by the best trial alone."""
    alone = [MemberPlan(best, trainings[best].start.config.score.density)]
    pairs = choose_members([each.record for each in trainings.values()]) if method.averaging else []
    taken = [MemberPlan(pair.trial, pair.density) for pair in pairs] or alone
    scores, alone_scores = (
        detector_of(plans, trainings, data, dataset).score_clips(judges) for plans in (taken, alone)
    )
    return scores, alone_scores


def detector_of(
    plans: Sequence[MemberPlan], trainings: dict[int, Training], data: DataConfig, dataset: Dataset
) -> Detector:
    """The mean of these pairs, made as a search makes it."""
    by_trial: dict[int, list[MemberPlan]] = {}
    for plan in plans:
        by_trial.setdefault(plan.trial, []).append(plan)
    members = [Member.of_trial(trainings[each].trial, [plan.density for plan in by_trial[each]]) for each in by_trial]
    ordered = [plan for mine in by_trial.values() for plan in mine]
    epochs = [len(trainings[plan.trial].reports) for plan in ordered]
    return finish(members, ordered, dataset, data.front_end, run="bench", epochs=epochs).detector


def portfolio_of_others(machine_type: str, space: Space, curves: Path) -> list[dict[str, Any]]:
    """Configurations that do well together on the recorded data sets, this one left out."""
    then = load_space(str(RECORDED_SPACE))
    sets = [each for each in read_curves(then, curves) if each.name != machine_type]
    chosen = (expressed(then.config(sets[0].params[number], epochs=1).flat(), space) for number in greedy(sets))
    return [params for params, lacks in chosen if not lacks]


def data_and_judges(
    arguments: argparse.Namespace, space: Space, objective: str = "labels"
) -> tuple[DataConfig, Dataset, TestClips]:
    """The data of the searches, and the clips that judge what they hand over."""
    data = data_config(arguments, {**space.data, "objective": objective})
    dataset = load_dataset(data)
    return data, dataset, dataset.held_out if data.source else fresh_clips(data, dataset, arguments.fresh)


def yardstick_scores(arguments: argparse.Namespace, seed: int) -> dict[str, list[float]]:
    """Each yardstick's scores of the clips that judge, by its title."""
    _, dataset, judges = data_and_judges(arguments, load_space(arguments.space))
    fitted = {kind.title: kind.beside(TrialConfig(seed=seed)).fit(dataset.train) for kind in YARDSTICKS}
    return {title: each.score_samples(judges).tolist() for title, each in fitted.items()}


def as_shipped(space: Space) -> tuple[Method, int]:
    """This project's search with the settings of a space, and the epochs of its trials."""
    suggested = space.search
    method = ours(grace=suggested.grace_period, factor=suggested.reduction_factor, portfolio=COUNT)
    return method, suggested.max_epochs


def one_search(arguments: argparse.Namespace, name: str, seed: int) -> Found:
    """Runs a search to its end."""
    begin = time.perf_counter()
    space = load_space(arguments.space)
    data, dataset, judges = data_and_judges(arguments, space)
    portfolio = portfolio_of_others(data.machine_type, space, Path(arguments.curves))
    method, max_epochs = as_shipped(space) if name == DEFAULT else (METHODS[name], arguments.max_epochs)
    setting = Setting(space, seed, max_epochs, epochs_of(arguments, name))
    system = method.make(setting, portfolio)
    trainings = search(system, setting, space.for_clips(int(dataset.train.lengths.max())), dataset)
    best = system.best
    assert best is not None, "a training has reported"
    scores, alone = handed_over(method, best, trainings, data, dataset, judges)
    return Found(
        system=name,
        seed=seed,
        scores=scores.tolist(),
        best_truth=evaluate(alone, judges).auc,
        validation=trainings[best].reports[-1].value,
        trials=len(trainings),
        completed=sum(each.trial.done for each in trainings.values()),
        epochs=sum(len(each.reports) for each in trainings.values()),
        seconds=time.perf_counter() - begin,
    )


def epochs_of(arguments: argparse.Namespace, name: str) -> int:
    """Epochs of a search of this system."""
    return int(arguments.ours_epochs or arguments.epochs) if name == DEFAULT else int(arguments.epochs)


def rows_of(store: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One row per system and yardstick of a store."""
    found: dict[str, list[Found]] = {}
    for path in sorted(store.glob("*-*-*.json")):
        each = Found(**json.loads(path.read_text(encoding="utf-8")))
        if path.stem.split("-")[-2] == str(epochs_of(arguments, each.system)):
            found.setdefault(each.system, []).append(each)
    scores = {name: {each.seed: each.scores for each in mine} for name, mine in found.items()}
    for path in sorted(store.glob("yardsticks-*.json")):
        for title, of_clips in json.loads(path.read_text(encoding="utf-8")).items():
            scores.setdefault(title, {})[int(path.stem.rpartition("-")[2])] = of_clips
    if not scores:
        return []
    judges = Judges(**json.loads((store / JUDGES).read_text(encoding="utf-8")))
    ours = scores.get(DEFAULT, {})
    rows = []
    for name, mine in scores.items():
        row = {"data set": store.name, "system": name} | _detection(judges, mine)
        if name != DEFAULT:
            row |= _compared(judges, mine, ours)
        rows.append(row | _effort(found.get(name, ())))
    return rows


def _detection(judges: Judges, mine: dict[int, list[float]]) -> dict[str, Any]:
    aucs = [judges.auc(mine[seed]) for seed in sorted(mine)]
    return {
        "seeds": len(mine),
        "truth": f"{np.mean(aucs):.4f}",
        "each": " ".join(f"{each:.3f}" for each in aucs),
    }


def _compared(judges: Judges, mine: dict[int, list[float]], ours: dict[int, list[float]]) -> dict[str, Any]:
    both = sorted(set(mine) & set(ours))
    if not both:
        return {}
    aucs_ours, aucs_mine = ([judges.auc(each[seed]) for seed in both] for each in (ours, mine))
    redrawn_ours, redrawn_mine = (judges.resampled([each[seed] for seed in both]) for each in (ours, mine))
    low, high = percentile_interval(redrawn_ours - redrawn_mine)
    return {"this project − it": difference(aucs_ours, aucs_mine), "over clips": f"{low:+.3f} … {high:+.3f}"}


def _effort(searches: Sequence[Found]) -> dict[str, Any]:
    if not searches:
        return {}
    columns = ("trials", "completed", "epochs", "seconds")
    return {
        "best trial alone": f"{np.mean([each.best_truth for each in searches]):.4f}",
        "its validation AUC": f"{np.mean([each.validation for each in searches]):.4f}",
    } | {column: f"{np.mean([getattr(each, column) for each in searches]):.0f}" for column in columns}


def in_all(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and one more for each system that stands beside this project's search on several data sets."""
    ours = {row["data set"]: float(row["truth"]) for row in rows if row["system"] == DEFAULT}
    means = []
    for name in dict.fromkeys(row["system"] for row in rows):
        mine = {row["data set"]: float(row["truth"]) for row in rows if row["system"] == name}
        both = sorted(mine.keys() & ours.keys())
        if len(both) > 1:
            row = {"data set": "all", "system": name, "truth": f"{np.mean([mine[each] for each in both]):.4f}"}
            if name != DEFAULT:
                row["this project − it"] = difference([ours[each] for each in both], [mine[each] for each in both])
            means.append(row)
    return rows + means


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.real_searches", description=__doc__.split("\n")[0])
    add_flag(parser, "space", default="ad_tuning")
    add_flag(
        parser, "systems", metavar="TEXT", default=f"{RAY}|{DEFAULT}", help="names as search_methods has them, with |"
    )
    add_flag(parser, "seeds", type=int, default=5, help="searches of each system (default: 5)")
    add_flag(parser, "epochs", type=int, default=120, help="epochs of a search in all (default: 120)")
    add_flag(parser, "ours_epochs", type=int, help="epochs of a search of this project (default: as all others)")
    add_flag(parser, "max_epochs", type=int, default=12, help="epochs of other systems' trials (default: 12)")
    add_flag(parser, "fresh", type=int, default=125, help="new clips of each kind and embedded id (default: 125)")
    add_flag(parser, "curves", metavar="DIR", default=str(TABLES), help="tables that the portfolio is chosen from")
    add_flag(parser, "yardsticks", action="store_true", help="also measure the yardsticks, with the same seeds")
    add_flag(parser, "store", metavar="DIR", default="runs/real/fan", help="where ended searches are kept")
    add_flag(parser, "read", nargs="+", metavar="DIR", help="search nothing; the table of these stores")
    add_flag(parser, "output", metavar="FILE", help="write the table here as well")
    add_data_flags(parser)
    arguments = parser.parse_args(argv)
    systems = arguments.systems.split("|")
    usable = [name for name, method in METHODS.items() if method.score == FUSED]
    if unknown := [name for name in systems if name not in usable]:
        raise ConfigError(f"--systems names {unknown[0]!r}; there are {', '.join(usable)}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    stores = [Path(each) for each in arguments.read or (arguments.store,)]
    if not arguments.read:
        _measure(arguments, systems, stores[0])
    rows = in_all([row for store in stores for row in rows_of(store, arguments)])
    if not rows:
        raise ConfigError(f"{stores[0]} holds no search of {arguments.epochs} epochs; name a store that has ended ones")
    tell_table(rows, arguments.output, command_of("real_searches", argv))
    return 0


def _measure(arguments: argparse.Namespace, systems: Sequence[str], store: Path) -> None:
    """Runs what the store lacks."""
    store.mkdir(parents=True, exist_ok=True)
    if not (store / JUDGES).exists():
        judges = data_and_judges(arguments, load_space(arguments.space))[2]
        write_json(store / JUDGES, asdict(Judges(judges.labels.tolist(), list(judges.machine_ids))))
    for seed in range(arguments.seeds):
        for name in systems:
            words = "_".join(re.findall(r"[a-z0-9]+", name.lower()))
            path = store / f"{words}-{epochs_of(arguments, name)}-{seed}.json"
            if not path.exists():
                write_json(path, asdict(one_search(arguments, name, seed)))
                print(f"{path} is kept", flush=True)
        path = store / f"yardsticks-{seed}.json"
        if arguments.yardsticks and not path.exists():
            write_json(path, yardstick_scores(arguments, seed))


if __name__ == "__main__":
    sys.exit(run(main))
