"""A search without labelled anomalies, replayed on recorded trainings of data sets whose labels it does not see.

    python -m benchmarks.no_labels --record --machine-type fan --scores runs/no_labels/fan
    python -m benchmarks.no_labels --record --machine-type pump --seed 1 --scores runs/no_labels/pump
    python -m benchmarks.no_labels --read runs/no_labels --output benchmarks/results/no_labels.csv

``--record`` trains configurations drawn uniformly from the space, with a fifth of the normal clips held back, and keeps
every density model's scores of pseudo-anomalies and labelled clips at ASHA's first decision and at the end; it resumes.
``--read`` chooses detectors from them in several ways. Truth is the AUC on the held-out clips, which no way of choosing
sees. Regret is the truth of the pair of configuration and density model with the highest AUC on the validation clips,
minus that of the detector that was chosen.

A world is a draw of half of the configurations of every data set, at least eight, and a resample of its held-out clips,
the same for all ways; the interval is that of the mean regret over the data sets. `worst` is the largest mean regret
of a data set.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from benchmarks.tables import command_of, write_table
from search.engine.space_draws import uniform_params
from spaces.loader import load_space
from trainable.commandline import Parser, add_data_flags, add_flag, data_config, run
from trainable.config import TrialConfig
from trainable.data.clips import TestClips
from trainable.data.load import load_dataset
from trainable.detection.calibration import ENOUGH_CLIPS, calibrated
from trainable.detection.ranking import MEMBERS
from trainable.durable import replacing
from trainable.errors import ConfigError
from trainable.normal_only.families import FAMILIES
from trainable.normal_only.pseudo import NORMAL, aucs_by_family
from trainable.scoring.metrics import mean_auc, percentile_interval
from trainable.trial import PlannedTrial, Trial

EARLY, LAST = 2, 4
"""Epochs whose scores are kept: those of `ad_tuning`'s first decision and of its end."""
WORLDS = 200
SEED_STEP = 7919
FEW_LABELS = (1, 2, 3, 5, 8)
"""Labelled anomalies of an id, and as many normal clips."""
FALSE_ALARM = 0.05
FAMILY_NAMES = tuple(family.name for family in FAMILIES)


# ---- recording -------------------------------------------------------------------------------------------------------


def record(arguments: argparse.Namespace) -> None:
    """Trains the configurations and keeps their scores; those already kept are skipped."""
    space = load_space(arguments.space)
    data = data_config(arguments, {**space.data, "objective": "both"})
    dataset = load_dataset(data)
    space = space.for_clips(int(dataset.train.lengths.max()))
    folder = Path(arguments.scores)
    folder.mkdir(parents=True, exist_ok=True)
    assert dataset.pseudo is not None, "the objective holds clips back"
    pseudo = dataset.pseudo
    labelled = TestClips.joined([dataset.validation, dataset.held_out])
    with replacing(folder / "clips.npz") as file:
        np.savez(
            file,
            families=np.array(pseudo.families),
            pseudo_ids=np.array(pseudo.clips.machine_ids),
            ids=np.array(labelled.machine_ids),
            labels=labelled.labels,
            validation=np.array(len(dataset.validation)),
            severities=np.array([found.alpha for found in pseudo.severities]),
        )
    for index in range(arguments.configurations):
        path = folder / f"{index:03d}.npz"
        if path.exists():
            continue
        random = np.random.RandomState(SEED_STEP * arguments.seed + index)
        config = space.config(uniform_params(space, random), epochs=LAST, seed=index)
        trial = Trial(PlannedTrial.whole_batch(config), dataset)
        arrays: dict[str, np.ndarray] = {}
        reconstruction = 0.0
        while not trial.done:
            reconstruction = trial.trainer.train_epoch().terms["reconstruction"]
            if trial.epoch in (EARLY, LAST):
                changed, real = trial.codes(pseudo.clips), trial.codes(labelled)
                for name, density in trial.densities().items():
                    arrays[f"{trial.epoch}/{name}/pseudo"] = density.score_samples(changed)
                    arrays[f"{trial.epoch}/{name}/test"] = density.score_samples(real)
        with replacing(path) as file:
            np.savez(
                file,
                config=np.array(json.dumps(config.flat())),
                reconstruction=np.array(reconstruction),
                **arrays,  # type: ignore[arg-type]
            )
        print(f"{path}: reconstruction loss {reconstruction:.4f}", flush=True)


# ---- replay ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """One density model on one training: what it scores."""

    configuration: int
    density: str
    own: bool
    """Whether the configuration names this density model."""
    reconstruction: float
    pseudo_aucs: dict[str, float]
    """By family."""
    z_N: np.ndarray
    """Scores of the labelled clips in standard deviations of the held-back clips of their id."""
    calibration_z: dict[str, np.ndarray]
    """By machine id the held-back clips' scores, each in centre and scale of the others."""


@dataclass(frozen=True)
class Clips:
    """The labelled clips of a data set, validation first."""

    ids: np.ndarray
    labels: np.ndarray
    validation: int
    """How many of them choose; the others are held out."""

    @cached_property
    def held_out(self) -> np.ndarray:
        return np.arange(self.validation, len(self.labels))

    def auc(self, scores_N: np.ndarray, rows: np.ndarray) -> float:
        return mean_auc(self.labels[rows], scores_N[rows], tuple(self.ids[rows]))

    def draw(self, rng: np.random.Generator, rows: np.ndarray, most: int | None = None) -> np.ndarray:
        """A resample of clips within each id and label; with `most`, so many of them without repetition."""
        drawn = []
        for machine_id in np.unique(self.ids[rows]):
            for label in (0, 1):
                mine = rows[(self.ids[rows] == machine_id) & (self.labels[rows] == label)]
                drawn.append(
                    rng.choice(mine, len(mine)) if most is None else rng.permutation(mine)[: min(most, len(mine))]
                )
        return np.concatenate(drawn)


@dataclass(frozen=True)
class Recorded:
    """The recorded trainings of one data set."""

    name: str
    clips: Clips
    severities: dict[str, float]
    """α of each family."""
    pairs: list[Scored]

    @cached_property
    def validation_aucs(self) -> np.ndarray:
        rows = np.arange(self.clips.validation)
        return np.array([self.clips.auc(pair.z_N, rows) for pair in self.pairs])


def read(folder: Path, epoch: int) -> Recorded:
    """What was recorded in a folder. Raises ConfigError where nothing was."""
    found = sorted(folder.glob("[0-9]*.npz"))
    if not found or not (folder / "clips.npz").exists():
        raise ConfigError(f"{folder} holds no recorded trainings; make some with --record --scores {folder}")
    kept = np.load(folder / "clips.npz")
    families, pseudo_ids = kept["families"], kept["pseudo_ids"]
    ids = kept["ids"]
    pairs = []
    for path in found:
        arrays = np.load(path)
        config = TrialConfig.from_flat(json.loads(str(arrays["config"])))
        for density in sorted({name.split("/")[1] for name in arrays.files if "/" in name}):
            pseudo, test = (arrays[f"{epoch}/{density}/{what}"] for what in ("pseudo", "test"))
            aucs = aucs_by_family(families, pseudo_ids, pseudo)
            z_N, calibration = np.empty(len(test)), {}
            for machine_id in np.unique(ids).tolist():
                normal = pseudo[(families == NORMAL) & (pseudo_ids == machine_id)]
                mine = ids == machine_id
                centres, scales, calibration[machine_id] = calibrated(normal[None], np.arange(len(normal)))
                z_N[mine] = (test[mine] - centres) / scales
            own = density == config.score.density
            pairs.append(Scored(int(path.stem), density, own, float(arrays["reconstruction"]), aucs, z_N, calibration))
    severities = dict(zip(FAMILY_NAMES, kept["severities"].tolist(), strict=True))
    return Recorded(folder.name, Clips(ids, kept["labels"], int(kept["validation"])), severities, pairs)


Choice = Callable[[list[int], Recorded, np.random.Generator], list[int]]
"""Indices of the pairs that a detector averages, of those that are there."""


def by_pseudo(count: int, *, families: Sequence[str] = FAMILY_NAMES) -> Choice:
    """The best pairs by the mean rank over some families."""

    def choose(there: list[int], data: Recorded, rng: np.random.Generator) -> list[int]:
        ranks = pseudo_ranks(there, data, families)
        return [there[index] for index in np.argsort(ranks, kind="stable")[:count]]

    return choose


def pseudo_ranks(there: list[int], data: Recorded, families: Sequence[str] = FAMILY_NAMES) -> np.ndarray:
    aucs = [[data.pairs[index].pseudo_aucs[family] for index in there] for family in families]
    ranks: np.ndarray = np.mean([rankdata(-np.array(column)) for column in aucs], axis=0)
    return ranks


def at_random(count: int, density: str = "") -> Choice:
    """Random configurations, with one density model or each with a random one."""

    def choose(there: list[int], data: Recorded, rng: np.random.Generator) -> list[int]:
        among = [index for index in there if not density or data.pairs[index].density == density]
        configurations = list({data.pairs[index].configuration for index in among})
        chosen = []
        for configuration in rng.permutation(configurations)[:count]:
            mine = [index for index in among if data.pairs[index].configuration == configuration]
            chosen.append(int(rng.choice(mine)))
        return chosen

    return choose


def by_labels(count: int, per_id: int | None = None) -> Choice:
    """The pairs with the highest AUC on the validation clips, or on a few of each id and label."""

    def choose(there: list[int], data: Recorded, rng: np.random.Generator) -> list[int]:
        aucs = label_aucs(there, data, rng, per_id)
        return [there[index] for index in np.argsort(-aucs, kind="stable")[:count]]

    return choose


def label_aucs(there: list[int], data: Recorded, rng: np.random.Generator, per_id: int | None) -> np.ndarray:
    if per_id is None:
        return data.validation_aucs[there]
    rows = data.clips.draw(rng, np.arange(data.clips.validation), per_id)
    return np.array([data.clips.auc(data.pairs[index].z_N, rows) for index in there])


def by_both(per_id: int, count: int) -> Choice:
    """The best pairs by the mean of two ranks: by pseudo-anomalies, and by a few labelled clips of each id."""

    def choose(there: list[int], data: Recorded, rng: np.random.Generator) -> list[int]:
        labelled = rankdata(-label_aucs(there, data, rng, per_id))
        ranks = (pseudo_ranks(there, data) + labelled) / 2
        return [there[index] for index in np.argsort(ranks, kind="stable")[:count]]

    return choose


def by_reconstruction(there: list[int], data: Recorded, rng: np.random.Generator) -> list[int]:
    """The configuration with the lowest reconstruction loss, with its own density model."""
    own = [index for index in there if data.pairs[index].own] or there
    return [min(own, key=lambda index: data.pairs[index].reconstruction)]


COUNTS = (1, 3, 5, MEMBERS, 12)
WAYS: Mapping[str, Choice] = {
    "one pair by labels": by_labels(1),
    f"{MEMBERS} pairs by labels": by_labels(MEMBERS),
    "a random pair": at_random(1),
    "a random configuration, fused": at_random(1, "fused"),
    "lowest reconstruction loss": by_reconstruction,
    "5 random configurations, fused": at_random(5, "fused"),
    **{f"{count} by pseudo-anomalies": by_pseudo(count) for count in COUNTS},
    **{f"{MEMBERS} by {name} alone": by_pseudo(MEMBERS, families=(name,)) for name in FAMILY_NAMES},
    **{f"one pair by {count} labels a kind of an id": by_labels(1, count) for count in FEW_LABELS},
    **{f"{MEMBERS} by {count} labels a kind of an id": by_labels(MEMBERS, count) for count in FEW_LABELS},
    **{f"{MEMBERS} by both, {count} labels a kind of an id": by_both(count, MEMBERS) for count in FEW_LABELS},
}
TRUTH = "one pair by labels"
CHOSEN = tuple(name for name in WAYS if re.fullmatch(r"[0-9]+ by (pseudo-anomalies|\w+ alone)", name))
"""Ways among which the other data sets choose."""


def regrets(sets: Sequence[Recorded], *, worlds: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Way → regret, float64 (worlds, data sets)."""
    found = {way: np.empty((worlds, len(sets))) for way in WAYS}
    for world in range(worlds):
        for column, data in enumerate(sets):
            rng = np.random.default_rng([seed, world, column])
            configurations = sorted({pair.configuration for pair in data.pairs})
            half = set(rng.permutation(configurations)[: max(MEMBERS, len(configurations) // 2)].tolist())
            there = [index for index, pair in enumerate(data.pairs) if pair.configuration in half]
            rows = data.clips.draw(rng, data.clips.held_out)
            aucs = {}
            for way, choose in WAYS.items():
                members = choose(there, data, rng)
                aucs[way] = data.clips.auc(np.mean([data.pairs[index].z_N for index in members], axis=0), rows)
            for way, auc in aucs.items():
                found[way][world, column] = aucs[TRUTH] - auc
    return found


def false_alarms(data: Recorded) -> float:
    """Share of the normal test clips whose p-value, from the pairs' calibration, is at most `FALSE_ALARM`."""
    members = by_pseudo(MEMBERS)(list(range(len(data.pairs))), data, np.random.default_rng(0))
    alarms = []
    for machine_id in np.unique(data.clips.ids).tolist():
        mine = (data.clips.ids == machine_id) & (data.clips.labels == 0)
        scores = np.mean([data.pairs[index].z_N[mine] for index in members], axis=0)
        normal = np.mean([data.pairs[index].calibration_z[machine_id] for index in members], axis=0)
        if len(normal) < ENOUGH_CLIPS:
            normal = np.concatenate(
                [
                    np.mean([data.pairs[index].calibration_z[each] for index in members], axis=0)
                    for each in np.unique(data.clips.ids).tolist()
                ]
            )
        p = (1 + (normal[None] >= scores[:, None]).sum(axis=1)) / (1 + len(normal))
        alarms += (p <= FALSE_ALARM).tolist()
    return float(np.mean(alarms))


def chosen_elsewhere(found: Mapping[str, np.ndarray]) -> np.ndarray:
    """Regret, (worlds, data sets), of the way of `CHOSEN` with the least mean regret on all *other* data sets."""
    means = {way: found[way].mean(axis=0) for way in CHOSEN}
    columns = []
    for column in range(found[TRUTH].shape[1]):
        best = min(CHOSEN, key=lambda way: np.delete(means[way], column).mean())
        columns.append(found[best][:, column])
    return np.stack(columns, axis=1)


def rows_of(sets: Sequence[Recorded], worlds: int) -> list[dict[str, Any]]:
    """The table: one row per way, then the false alarms."""
    rows: list[dict[str, Any]] = []
    found = regrets(sets, worlds=worlds)
    if len(sets) > 1:
        found["the way that is best on the other data sets"] = chosen_elsewhere(found)
    for way, regret in found.items():
        by_set = regret.mean(axis=0)
        low, high = percentile_interval(regret.mean(axis=1))
        row: dict[str, Any] = {"way": way}
        row |= {data.name: f"{value:.3f}" for data, value in zip(sets, by_set, strict=True)}
        row |= {"mean": f"{by_set.mean():.3f}", "interval": f"{low:.3f} … {high:.3f}", "worst": f"{by_set.max():.3f}"}
        rows.append(row)
    alarms = {data.name: f"{100 * false_alarms(data):.1f} %" for data in sets}
    rows.append({"way": f"false alarms of {MEMBERS} pairs at p ≤ {FALSE_ALARM}", **alarms})
    for family in FAMILY_NAMES:
        alphas = {data.name: f"{data.severities[family]:.3g}" for data in sets}
        rows.append({"way": f"severity of {family}", **alphas})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.no_labels", description=__doc__.split("\n")[0])
    add_flag(parser, "record", action="store_true", help="train configurations and keep their scores")
    add_flag(parser, "space", default="ad_tuning")
    add_flag(parser, "configurations", type=int, default=12)
    add_flag(parser, "seed", type=int, default=0, help="seed of the drawn configurations (default: 0)")
    add_flag(parser, "scores", metavar="DIR", default="runs/no_labels/fan", help="where --record keeps the scores")
    add_flag(parser, "threads", type=int, default=1, help="torch's CPU threads (default: 1)")
    add_flag(parser, "read", metavar="DIR", help="replay what the folders below this one hold")
    add_flag(parser, "epoch", type=int, choices=(EARLY, LAST), default=LAST, help="whose scores choose (default: 4)")
    add_flag(parser, "worlds", type=int, default=WORLDS)
    add_flag(parser, "output", metavar="FILE", help="write the table here as well")
    add_data_flags(parser)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.record:
        record(arguments)
        return 0
    folder = Path(arguments.read or Path(arguments.scores).parent)
    folders = sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    if not folders:
        raise ConfigError(f"{folder} holds no data set's scores; make some with --record")
    sets = [read(each, arguments.epoch) for each in folders]
    rows = rows_of(sets, arguments.worlds)
    counts = ", ".join(f"{data.name} {len({pair.configuration for pair in data.pairs})}" for data in sets)
    for row in rows:
        print("  ".join(f"{name} {value}" if name != "way" else f"{value:52s}" for name, value in row.items()))
    print(f"configurations: {counts}")
    if arguments.output:
        write_table(arguments.output, rows, command_of("no_labels", argv), f"configurations: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
