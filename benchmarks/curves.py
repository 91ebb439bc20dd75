"""Learning curves of recorded trainings, as small tables: written from the stores of `benchmarks.recorded`, read back.

    python -m benchmarks.curves --stores runs/recorded --output benchmarks/results/curves
    python -m benchmarks.curves

A folder of tables has ``configurations.csv``, the drawn parameters by number, and one table per data set: a row per
training and score, with the validation AUC after each epoch and, of the last epoch, the AUC on held-out clips and on
fresh ones where there are any. Tables grow: a training that a table has and its store lacks keeps its rows. A score is
a cheap density model, or `CHOSEN`: the density model with the highest validation AUC. Its validation AUC is
cross-fitted, since choosing and judging by the same clips flatters: one half of the validation clips chooses, the
other judges, and the two directions are averaged. Its other AUCs are those of the density model that all validation
clips choose.

Without ``--stores`` the command prints how well an epoch's value ranks the trainings by what they are worth at the end.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.recorded import PORTFOLIO, RECORDED_SPACE
from benchmarks.tables import command_of, read_table, write_table
from spaces.loader import load_space
from spaces.space import Choices, Space
from trainable.commandline import Parser, add_flag, run
from trainable.errors import ConfigError
from trainable.scoring.metrics import mean_auc

TABLES = Path(__file__).parent / "results" / "curves"
CONFIGURATIONS = "configurations.csv"
CHOSEN = "chosen"
FUSED = "fused"


@dataclass(frozen=True)
class Curve:
    """One score of one training."""

    values: np.ndarray
    """Validation AUC after each epoch, float64 (epochs,)."""
    held_out: float
    fresh: float | None

    @property
    def truth(self) -> float:
        """AUC after the last epoch, on clips that no search has seen: the fresh ones where there are any."""
        return self.held_out if self.fresh is None else self.fresh


@dataclass(frozen=True)
class Recorded:
    """One training."""

    configuration: int
    repeat: int
    """0, or 1 … for another seed."""
    seconds_an_epoch: float
    curves: dict[str, Curve]
    """By score."""


@dataclass(frozen=True)
class DataSet:
    """The recorded trainings of one data set."""

    name: str
    params: dict[int, dict[str, Any]]
    """Drawn parameters of every configuration, by number."""
    trainings: tuple[Recorded, ...]

    @cached_property
    def once(self) -> tuple[Recorded, ...]:
        """The first training of each configuration, by number."""
        return tuple(each for each in self.trainings if each.repeat == 0)

    @cached_property
    def drawn(self) -> tuple[Recorded, ...]:
        """Those of configurations that were drawn uniformly from the space."""
        return tuple(each for each in self.once if each.configuration < PORTFOLIO)

    def by_repeat(self, configuration: int) -> list[Recorded]:
        """All trainings of a configuration."""
        return [each for each in self.trainings if each.configuration == configuration]


# ---- from stores -----------------------------------------------------------------------------------------------------


def curves_of(store: Path) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
    """Parameters by configuration and the rows of the table. Raises ConfigError where nothing is recorded."""
    paths = sorted(store.glob("[0-9]*-[0-9].npz"), key=lambda path: (path.stem[-1], path.stem))
    if not paths:
        raise ConfigError(f"{store} holds no recorded trainings; make some with python -m benchmarks.recorded")
    kept = np.load(store / "clips.npz")
    clips = {split: (kept[f"{split}/labels"], kept[f"{split}/ids"]) for split in _splits(kept.files)}
    halves = _halves(*clips["validation"])
    params, rows = {}, []
    for path in paths:
        configuration, repeat = (int(part) for part in path.stem.split("-"))
        scores = np.load(path)
        params[configuration] = json.loads(str(scores["params"]))
        curves = {}
        by_half: dict[str, np.ndarray] = {}
        for density in sorted({name.split("/")[0] for name in scores.files if "/" in name}):
            validation = scores[f"{density}/validation"]
            ends = {split: _auc(clips[split], scores[f"{density}/{split}"]) for split in clips if split != "validation"}
            curves[density] = ([_auc(clips["validation"], epoch) for epoch in validation], ends)
            by_half[density] = np.array(
                [[_auc(clips["validation"], epoch, half) for half in halves] for epoch in validation]
            )
        best = max(curves, key=lambda density: curves[density][0][-1])
        crossed = [_cross_fitted({name: found[at] for name, found in by_half.items()}) for at in range(len(validation))]
        curves[CHOSEN] = (crossed, curves[best][1])
        for score, (values, ends) in curves.items():
            row: dict[str, Any] = {"configuration": configuration, "repeat": repeat, "score": score}
            row |= {split: f"{auc:.4f}" for split, auc in ends.items()}
            row |= {str(epoch): f"{value:.4f}" for epoch, value in enumerate(values, start=1)}
            row["seconds_an_epoch"] = f"{scores['seconds'].mean():.2f}"
            rows.append(row)
    return params, rows


def _splits(names: Sequence[str]) -> list[str]:
    return sorted({name.split("/")[0] for name in names})


def _halves(labels: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every other clip of each id and label, and the rest; bool (clips,)."""
    first = np.zeros(len(labels), dtype=bool)
    for machine_id in np.unique(ids):
        for label in (0, 1):
            first[np.flatnonzero((ids == machine_id) & (labels == label))[::2]] = True
    return first, ~first


def _auc(clips: tuple[np.ndarray, np.ndarray], scores: np.ndarray, part: np.ndarray | None = None) -> float:
    labels, ids = clips
    rows = np.ones(len(labels), dtype=bool) if part is None else part
    return mean_auc(labels[rows], scores[rows].astype(np.float64), tuple(ids[rows]))


def _cross_fitted(by_half: dict[str, np.ndarray]) -> float:
    """Mean AUC on each half of the density model that the other half chooses."""
    values = []
    for chooses, judges in ((0, 1), (1, 0)):
        best = max(by_half, key=lambda density: by_half[density][chooses])
        values.append(by_half[best][judges])
    return float(np.mean(values))


def write(stores: Path, output: Path, command: str) -> None:
    """Adds every store below a folder to its table; a configuration must be the same in all of them."""
    table = output / CONFIGURATIONS
    known = {int(row["configuration"]): _filled(row) for row in _rows_of(table)}
    found = sorted(each for each in stores.iterdir() if (each / "clips.npz").exists())
    if not found:
        raise ConfigError(f"{stores} holds no store of recorded trainings")
    for store in found:
        params, rows = curves_of(store)
        for number, drawn in params.items():
            shown = {"configuration": str(number)} | {name: _cell(value) for name, value in drawn.items()}
            if known.setdefault(number, shown) != shown:
                raise ConfigError(f"{store} drew configuration {number} from another space or seed than the others")
        path = output / f"{store.name}.csv"
        recorded = {_key(row) for row in rows}
        rows += [row for row in _rows_of(path) if _key(row) not in recorded]
        write_table(path, sorted(rows, key=_key), command)
    write_table(table, [known[number] for number in sorted(known)], command)


def _rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no table yet."""
    return read_table(path) if path.exists() else []


def _key(row: Mapping[str, Any]) -> tuple[int, int]:
    """Repeat and configuration: the first training of each configuration, then the others."""
    return int(row["repeat"]), int(row["configuration"])


def _filled(row: Mapping[str, str]) -> dict[str, str]:
    """A row without its empty cells, which are parameters whose condition does not hold."""
    return {name: value for name, value in row.items() if value}


# ---- read back -------------------------------------------------------------------------------------------------------


def read_curves(space: Space, folder: Path = TABLES) -> list[DataSet]:
    """All data sets of a folder of tables. Raises OSError if they cannot be read."""
    params = {int(row["configuration"]): _typed(row, space) for row in read_table(folder / CONFIGURATIONS)}
    sets = []
    for path in sorted(folder.glob("*.csv")):
        if path.name == CONFIGURATIONS:
            continue
        found: dict[tuple[int, int], Recorded] = {}
        for row in read_table(path):
            key = int(row["configuration"]), int(row["repeat"])
            training = found.setdefault(key, Recorded(*key, float(row["seconds_an_epoch"]), {}))
            values = np.array([float(row[name]) for name in row if name.isdigit()])
            fresh = row.get("fresh")
            training.curves[row["score"]] = Curve(values, float(row["held_out"]), float(fresh) if fresh else None)
        sets.append(DataSet(path.stem, params, tuple(found.values())))
    return sets


def _typed(row: dict[str, str], space: Space) -> dict[str, Any]:
    """A row's parameters with the types of the space; an empty cell is a parameter whose condition does not hold."""
    typed: dict[str, Any] = {}
    for parameter in space.parameters:
        shown = row.get(parameter.name, "")
        if shown == "":
            continue
        distribution = parameter.distribution
        if isinstance(distribution, Choices):
            typed[parameter.name] = {_cell(value): value for value in distribution.values}[shown]
        else:
            typed[parameter.name] = int(shown) if distribution.integer else float(shown)
    return typed


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---- what the curves say ---------------------------------------------------------------------------------------------


def analyse(sets: Sequence[DataSet]) -> list[dict[str, Any]]:
    """For each data set and score: how well an epoch's value ranks the trainings by their truth, Spearman's ρ."""
    rows = []
    for data in sets:
        for score in (FUSED, CHOSEN):
            curves = [training.curves[score] for training in data.drawn]
            truth = [curve.truth for curve in curves]
            row: dict[str, Any] = {"data set": data.name, "score": score, "trainings": len(curves)}
            row |= {"truth": f"{np.mean(truth):.3f} ± {np.std(truth):.3f}", "best": f"{max(truth):.3f}"}
            for epoch in (1, 2, 4, 8, 12):
                rho = spearmanr([curve.values[epoch - 1] for curve in curves], truth).statistic
                row[f"ρ after {epoch}"] = f"{rho:.2f}"
            row["of chance"] = f"{np.mean([curve.values[-1] - curve.truth for curve in curves]):+.3f}"
            rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.curves", description=__doc__.split("\n")[0])
    add_flag(parser, "stores", metavar="DIR", help="write tables of the stores below this folder")
    add_flag(parser, "output", metavar="DIR", default=str(TABLES), help="where the tables are")
    add_flag(parser, "space", default=str(RECORDED_SPACE))
    arguments = parser.parse_args(argv)
    if arguments.stores:
        write(Path(arguments.stores), Path(arguments.output), command_of("curves", argv))
    for row in analyse(read_curves(load_space(arguments.space), Path(arguments.output))):
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
