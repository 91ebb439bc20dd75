"""The protocol and result files of DCASE 2020 Task 2, and the official baseline's numbers for comparison.

Training sees normal clips only. Every test clip is scored; AUC and pAUC (max_fpr 0.1) are computed for each machine
id, then averaged. Labels choose neither the epoch nor anything else.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.tables import Table
from trainable.config import DataConfig, TrialConfig
from trainable.data.clips import TestClips
from trainable.data.layout import machine_types
from trainable.data.load import Dataset, load_dataset
from trainable.durable import write_text
from trainable.errors import DataError, NonFiniteError, RunError
from trainable.execution_plan import ExecutionPlan, MemoryPlan
from trainable.scoring.metrics import auc, pauc
from trainable.scoring.registry import make_density
from trainable.training.seeds import derived_seed
from trainable.trial import PlannedTrial, Trial
from trainable.yardsticks.catalogue import YARDSTICKS, title_of

BASELINE: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "ToyCar": {"01": (0.828, 0.679), "02": (0.866, 0.762), "03": (0.639, 0.547), "04": (0.869, 0.701)},
    "ToyConveyor": {"01": (0.793, 0.650), "02": (0.642, 0.564), "03": (0.745, 0.605)},
    "fan": {"00": (0.540, 0.492), "02": (0.722, 0.554), "04": (0.622, 0.527), "06": (0.723, 0.530)},
    "pump": {"00": (0.671, 0.573), "02": (0.609, 0.580), "04": (0.889, 0.677), "06": (0.735, 0.570)},
    "slider": {"00": (0.963, 0.818), "02": (0.788, 0.629), "04": (0.946, 0.740), "06": (0.702, 0.490)},
    "valve": {"00": (0.687, 0.513), "02": (0.674, 0.512), "04": (0.744, 0.515), "06": (0.553, 0.483)},
}
"""(AUC, pAUC) of the official autoencoder on the development set, by machine id, from the baseline's README,
github.com/y-kawagu/dcase2020_task2_baseline."""
BASELINE_MEANS: Mapping[str, tuple[float, float]] = {
    "ToyCar": (0.801, 0.672),
    "ToyConveyor": (0.727, 0.607),
    "fan": (0.652, 0.526),
    "pump": (0.726, 0.600),
    "slider": (0.850, 0.669),
    "valve": (0.665, 0.506),
}
"""Averages printed there; an average of the rounded numbers above may differ in the last digit."""


@dataclass(frozen=True)
class MachineScores:
    """Scores of one training for all test clips of a machine type: normal clips first, then anomalies, by name."""

    machine_type: str
    names: tuple[str, ...]
    ids: tuple[str, ...]
    labels: np.ndarray
    """0 normal, 1 anomaly."""
    scores: np.ndarray
    """float64 (clips,), higher = more anomalous."""

    def by_id(self) -> dict[str, tuple[float, float]]:
        """AUC and pAUC of each machine id."""
        clip_ids = np.array(self.ids)
        found = {}
        for machine_id in sorted(set(self.ids)):
            mine = clip_ids == machine_id
            labels, scores = self.labels[mine], self.scores[mine]
            found[machine_id] = (auc(labels, scores), pauc(labels, scores))
        return found


def find_machine_types(root: Path) -> list[str]:
    """Machine types below a data root. Raises DataError if there are none."""
    if not root.is_dir():
        raise DataError(f"data root {root} is not a folder; --data-root names the folder of the machine types")
    names = machine_types(root)
    if not names:
        raise DataError(f"data root {root} holds no <machine_type>/train folder; see the layout in docs/data.md")
    return names


def train_and_score(
    config: TrialConfig,
    data: DataConfig,
    *,
    seeds: int,
    device: str = "cpu",
    plan: ExecutionPlan,
    log: Callable[[str], None],
) -> list[MachineScores]:
    """Trains once per seed on a machine type, each time to the last epoch, and scores all its test clips.

    Parameters
    ----------
    log
        Called with one line per epoch.

    Raises
    ------
    DataError
        If the recordings cannot be loaded, or no anomaly among them is labelled.
    RunError
        If a training diverges.
    """
    dataset = _load(data)
    results = []
    for index in range(seeds):
        its_config = seeded(config, index)
        trial = Trial(PlannedTrial(its_config, MemoryPlan(plan, 0)), dataset, device=device)
        try:
            while not trial.done:
                losses = trial.trainer.train_epoch()
                log(
                    f"{data.machine_type}  seed {index + 1}/{seeds}  epoch {trial.epoch}/{config.phase.epochs}  "
                    f"loss {losses.total:.4f}"
                )
        except NonFiniteError as error:
            raise RunError(f"{data.machine_type}: training with seed {its_config.seed} diverged ({error})") from None
        results.append(_score(trial, dataset))
        trial.release()
    return results


def _load(data: DataConfig) -> Dataset:
    """A machine type's clips, no normal one held back whatever judged the search that `data` is from."""
    return load_dataset(dataclasses.replace(data, objective="labels"))


def _score(trial: Trial, dataset: Dataset) -> MachineScores:
    seed = derived_seed(trial.config.seed, "density")
    density = make_density(trial.config.score, seed=seed).fit(trial.train_codes(), trial.codebook())
    return _machine_scores(dataset, lambda clips: density.score_samples(trial.codes(clips)), "the density model")


def score_yardsticks(
    config: TrialConfig, data: DataConfig, *, seeds: int, log: Callable[[str], None]
) -> dict[str, list[MachineScores]]:
    """Fits every yardstick once per seed on a machine type and scores all its test clips; by the yardstick's name.

    Raises
    ------
    DataError
        If the recordings cannot be loaded, or no anomaly among them is labelled.
    RunError
        If a yardstick's score is not finite.
    """
    dataset = _load(data)
    results: dict[str, list[MachineScores]] = {}
    for kind in YARDSTICKS:
        for index in range(seeds):
            log(f"{data.machine_type}  seed {index + 1}/{seeds}  yardstick {kind.title}")
            yardstick = kind.beside(seeded(config, index)).fit(dataset.train)
            results.setdefault(kind.name, []).append(_machine_scores(dataset, yardstick.score_samples, kind.title))
    return results


def seeded(config: TrialConfig, index: int) -> TrialConfig:
    """The configuration of a machine type's n-th training."""
    return config.replace(seed=(config.seed + index) % 2**31)


def _machine_scores(dataset: Dataset, score: Callable[[TestClips], np.ndarray], scored_by: str) -> MachineScores:
    parts = [dataset.validation, dataset.held_out]
    scores = np.concatenate([score(part) for part in parts])
    if not np.isfinite(scores).all():
        raise RunError(f"{dataset.machine_type}: {scored_by} gave a score that is not finite")
    names = [name for part in parts for name in part.names]
    ids = [machine_id for part in parts for machine_id in part.machine_ids]
    labels = np.concatenate([part.labels for part in parts])
    order = sorted(range(len(names)), key=lambda index: (ids[index], labels[index], names[index]))
    return MachineScores(
        dataset.machine_type,
        tuple(names[index] for index in order),
        tuple(ids[index] for index in order),
        labels[order],
        scores[order],
    )


def mean_by_id(runs: Sequence[MachineScores]) -> dict[str, tuple[float, float]]:
    """AUC and pAUC of each machine id, averaged over trainings, as in the baseline's table."""
    found = [run.by_id() for run in runs]
    return {
        machine_id: (
            float(np.mean([one[machine_id][0] for one in found])),
            float(np.mean([one[machine_id][1] for one in found])),
        )
        for machine_id in found[0]
    }


def average(by_id: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Mean AUC and mean pAUC over machine ids."""
    return tuple(float(np.mean(column)) for column in zip(*by_id.values(), strict=True))  # type: ignore[return-value]


def write_scores(folder: Path, scores: MachineScores) -> list[Path]:
    """Writes DCASE's ``anomaly_score_<machine>_id_<NN>.csv``: a line ``name,score`` per clip, without a header."""
    paths = []
    for machine_id in sorted(set(scores.ids)):
        path = folder / f"anomaly_score_{scores.machine_type}_id_{machine_id}.csv"
        rows = zip(scores.names, scores.ids, scores.scores.tolist(), strict=True)
        _write_rows(path, [(name, score) for name, its_id, score in rows if its_id == machine_id])
        paths.append(path)
    return paths


def write_results(path: Path, results: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Writes DCASE's ``result.csv``: per machine type ``id,AUC,pAUC`` lines, their ``Average`` and a blank line."""
    rows: list[tuple[object, ...]] = []
    for machine_type, by_id in results.items():
        rows += [(machine_type,), ("id", "AUC", "pAUC")]
        rows += [(machine_id, *values) for machine_id, values in by_id.items()]
        rows += [("Average", *average(by_id)), ()]
    _write_rows(path, rows)


def _write_rows(path: Path, rows: Sequence[Sequence[object]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_text(path, text.getvalue())
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from None


Results = Mapping[str, Mapping[str, tuple[float, float]]]
"""(AUC, pAUC) by machine type and machine id."""


def comparison_table(results: Results, yardsticks: Mapping[str, Results] | None = None) -> Table:
    """Compares each machine id with the official baseline, and the mean of each machine type and of all of them.

    A baseline's mean is shown only if the same ids were scored.

    Parameters
    ----------
    yardsticks
        Results of each yardstick, by its name, on the same clips; each adds a column ``AUC / pAUC``.
    """
    rows = []
    means, official = [], []
    beside = (yardsticks or {}).values()
    for machine_type, by_id in results.items():
        known = BASELINE.get(machine_type, {})
        rows += [
            (machine_type, i, *_pair(values), *_pair(known.get(i)), *(_both(each[machine_type][i]) for each in beside))
            for i, values in by_id.items()
        ]
        base = BASELINE_MEANS[machine_type] if known and set(known) == set(by_id) else None
        yardstick_means = [_both(average(each[machine_type])) for each in beside]
        rows.append((machine_type, "mean", *_pair(average(by_id)), *_pair(base), *yardstick_means))
        means.append(average(by_id))
        official.append(base)
    if len(results) > 1:
        complete = [base for base in official if base is not None]
        base = _columns_mean(complete) if len(complete) == len(official) else None
        overall = [_both(_columns_mean([average(each[name]) for name in results])) for each in beside]
        rows.append(("all", "mean", *_pair(_columns_mean(means)), *_pair(base), *overall))
    columns = ("machine type", "id", "AUC", "pAUC", "baseline AUC", "baseline pAUC", *map(title_of, yardsticks or ()))
    return Table(columns, tuple(rows))


def _columns_mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return float(np.mean([pair[0] for pair in pairs])), float(np.mean([pair[1] for pair in pairs]))


def _pair(values: tuple[float, float] | None) -> tuple[str, str]:
    return ("–", "–") if values is None else (f"{values[0]:.3f}", f"{values[1]:.3f}")


def _both(values: tuple[float, float]) -> str:
    return " / ".join(_pair(values))
