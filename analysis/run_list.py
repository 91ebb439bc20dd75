"""Runs side by side: what each searched, found and cost, one row a run."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from analysis.averaged import averaged
from analysis.results import RunResults, load_run
from analysis.state import SearchState
from trainable.errors import ProjectError, RunError
from trainable.record import RunFolder, TrialEnd
from trainable.units import aligned, duration_text, format_bytes


@dataclass(frozen=True)
class RunRow:
    """One run of a list; None where something is not known."""

    folder: str
    name: str
    begun: str
    """ISO 8601, UTC."""
    space: str
    recordings: str
    """Machine type and where it lies."""
    data_digest: str
    """Equal for runs on the same clips."""
    objective: str
    measure: str
    """What `best` is, such as ``validation AUC``."""
    best: float | None
    """Value of the best trial."""
    best_trial: int | None
    held_out_auc: float | None
    """Of the detector that the search left, or of its best trial where it left none."""
    held_out_low: float | None
    """95 % interval."""
    held_out_high: float | None
    held_out_of: str
    """What it is of: ``detector``, ``trial``, or nothing."""
    requested: int
    """Trials asked for."""
    trials: int
    """Trials that began."""
    completed: int
    unfinished: int
    epochs: int
    """Trained in all trials together."""
    hours: float
    """Time of these epochs, summed over trials."""
    budget_bytes: int | None
    end: str
    """``ended``, ``stopped: REASON``, ``running``, or ``interrupted or running on another machine``."""

    @property
    def held_out_interval(self) -> tuple[float, float] | None:
        """Both ends of the interval."""
        if self.held_out_low is None or self.held_out_high is None:
            return None
        return self.held_out_low, self.held_out_high


COLUMNS = tuple(each.name for each in fields(RunRow))

SORTS: dict[str, Callable[[RunRow], Any]] = {
    "best": lambda row: -1.0 if row.best is None else -row.best - 1.0,
    "held-out": lambda row: -1.0 if row.held_out_auc is None else -row.held_out_auc - 1.0,
    "begun": lambda row: row.begun,
    "epochs": lambda row: row.epochs,
    "hours": lambda row: row.hours,
    "name": lambda row: row.folder,
}
"""Orders of runs on the same recordings; AUCs descend."""


def find_runs(path: Path) -> tuple[list[Path], list[Path]]:
    """A run's folder itself, or the runs directly in a folder; and the folders in it that are no run.

    Raises RunError if there is neither.
    """
    if RunFolder(path).manifest_path.exists():
        return [path], []
    if not path.is_dir():
        raise RunError(f"{path} is not a folder; name runs, or a folder of runs such as runs/")
    inside = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    runs = [each for each in inside if RunFolder(each).manifest_path.exists()]
    if not runs:
        raise RunError(f"{path} holds no run; name runs, or a folder of runs such as runs/")
    return runs, [each for each in inside if each not in runs]


def read_rows(paths: Iterable[Path]) -> tuple[list[RunRow], dict[Path, str]]:
    """The rows of runs, and why others cannot be read."""
    rows, unreadable = [], {}
    for path in paths:
        try:
            rows.append(run_row(load_run(path)))
        except ProjectError as error:
            unreadable[path] = str(error)
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # edited by hand
            unreadable[path] = f"its files do not describe a run: {error!r}"
    return rows, unreadable


def run_row(run: RunResults) -> RunRow:
    manifest, number = run.manifest, run.best_number
    ends = run.end_counts()
    auc, interval, of = _held_out(run)
    return RunRow(
        folder=str(run.folder.path),
        name=manifest.name,
        begun=manifest.created,
        space=manifest.space_name,
        recordings=f"{manifest.data.get('machine_type')} of {manifest.source}",
        data_digest=manifest.data_digest,
        objective=manifest.objective.value,
        measure=run.measure,
        best=None if number is None else float(run.trials["final_auc"].loc[number]),
        best_trial=number,
        held_out_auc=auc,
        held_out_low=None if interval is None else interval[0],
        held_out_high=None if interval is None else interval[1],
        held_out_of=of,
        requested=manifest.num_samples,
        trials=len(run.trials) - ends[TrialEnd.OVER_BUDGET.value],
        completed=ends[TrialEnd.COMPLETED.value],
        unfinished=run.unfinished,
        epochs=int(run.trials["epochs"].sum()),
        hours=float(run.trials["hours"].sum()),
        budget_bytes=manifest.gpu_memory_budget_bytes,
        end=end_text(run),
    )


def _held_out(run: RunResults) -> tuple[float | None, tuple[float, float] | None, str]:
    """AUC and interval as the search measured them, and what of; nothing of a search that goes on."""
    if run.state is not SearchState.ENDED:
        return None, None, ""
    detector, best = averaged(run), run.summary.get("best") or {}
    if detector is not None and detector.held_out_auc is not None:
        return detector.held_out_auc, detector.held_out_interval, "detector"
    if best.get("held_out_auc") is None:
        return None, None, ""
    interval = best.get("held_out_interval")
    return best["held_out_auc"], None if interval is None else (interval[0], interval[1]), "trial"


def end_text(run: RunResults) -> str:
    """How a search ended, in a few words."""
    return f"stopped: {run.stopped}" if run.stopped else run.state.value


def sorted_rows(rows: Iterable[RunRow], order: str) -> list[RunRow]:
    """Rows grouped by recordings and measure, across which AUCs cannot be compared, each group in one of `SORTS`."""
    return sorted(rows, key=lambda row: (*_group(row), SORTS[order](row), row.folder))


def _group(row: RunRow) -> tuple[str, str, str]:
    return row.recordings, row.data_digest, row.measure


def rows_text(rows: Sequence[RunRow]) -> str:
    """Rows for a terminal, in their order: two lines a run below a heading for each group, never cropped."""
    lines: list[str] = []
    for _, group in groupby(rows, _group):
        members = list(group)
        first = members[0]
        lines += [*([""] if lines else []), f"{first.recordings}, judged by {first.measure}"]
        heading = ("run", "best", "held-out AUC", "trials", "epochs", "trained")
        table = aligned([heading, *(_cells(row) for row in members)], left=(0, 2))
        for line, row in zip(table, [None, *members], strict=True):
            lines += [line] if row is None else [line, f"    {_below(row)}"]
    return "\n".join(lines)


def _cells(row: RunRow) -> tuple[str, ...]:
    held_out = "–"
    if row.held_out_auc is not None:
        held_out = f"{row.held_out_auc:.3f}"
        if row.held_out_interval is not None:
            held_out += " ({:.3f} … {:.3f})".format(*row.held_out_interval)
    return (
        row.folder,
        "–" if row.best is None else f"{row.best:.3f}",
        held_out,
        f"{row.trials} of {row.requested}",
        str(row.epochs),
        duration_text(3600 * row.hours),
    )


def _below(row: RunRow) -> str:
    budget = format_bytes(row.budget_bytes) if row.budget_bytes else "none"
    begun = row.begun[:16].replace("T", " ")
    parts = [f"space {row.space}", f"budget {budget}", f"begun {begun}", row.end]
    parts += [f"{row.unfinished} unfinished"] if row.unfinished else []
    return ", ".join([*parts, *([] if row.completed else ["none completed"])])


def plain(row: RunRow) -> dict[str, Any]:
    """A row as plain values by the names of `COLUMNS`."""
    return asdict(row)
