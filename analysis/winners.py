"""The best configurations of a run with their results: value and held-out AUC, interval, memory, time."""

import json
import logging
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.commands import retrain_command
from analysis.results import RunResults
from analysis.state import LABEL_SOME, NO_LABELS
from trainable.config import Objective
from trainable.durable import write_json
from trainable.errors import CheckpointError, ProjectError, RunError
from trainable.scoring.clip_counts import ClipCounts
from trainable.steps import Steps
from trainable.units import format_bytes

if TYPE_CHECKING:
    from trainable.data.load import Dataset
    from trainable.scoring.evaluate import Evaluation

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Winner:
    """One configuration and its results."""

    rank: int
    number: int
    end: str
    objective: Objective
    """What judged it."""
    value: float
    """What the search maximised (`Objective.measure`)."""
    validation_auc: float | None
    """None, as the pAUC, where no label judges."""
    validation_pauc: float | None
    pseudo_auc: float | None
    """None where only labels judge."""
    epochs: int
    """Epochs it trained; its AUCs are from the last one."""
    held_out_auc: float | None
    """None if no anomaly is labelled or the checkpoint is gone; `missing` says why."""
    held_out_pauc: float | None
    held_out_interval: tuple[float, float] | None
    held_out_clips: ClipCounts | None
    """The clips that judged, the same for every trial."""
    predicted_bytes: int
    peak_bytes: int
    """Measured; 0 on a CPU."""
    epoch_seconds: float
    params: dict[str, Any]
    config: dict[str, Any]
    """TrialConfig.flat()."""
    plan: dict[str, Any] | None
    missing: str = ""
    """Why there is no held-out AUC."""
    shared: bool = False
    """Whether that reason holds for all trials of the run."""
    driver_bytes: int = 0
    """The driver's largest count for its process; 0 on a CPU and where the driver did not tell."""


def find_winners(
    run: RunResults, top: int, *, held_out: bool = False, device: str = "cpu", steps: Steps | None = None
) -> tuple[list[Winner], list[str]]:
    """Returns the `top` trials of `RunResults.ranked`, and notes that hold for all of them.

    Held-out clips are scored for each once the search has ended (earlier with `held_out`), but never decide the
    order. If no anomaly is labelled, or the recordings are gone or have changed, only the held-out AUCs are missing.
    `steps` are told what is done.

    Raises RunError if no trial has an AUC.
    """
    from analysis.model_view import load_run_data

    if not len(run.ranked):
        raise RunError(f"no trial of {run.folder.path} has finished an epoch, so there is no best one")
    dataset, reason = None, "" if held_out else run.held_out_later
    if not run.labelled:
        reason = f"{NO_LABELS} {LABEL_SOME}"
    steps = steps or Steps()
    if not reason:
        steps.expect(1 + len(run.ranked.index[:top]))
        steps.begin("reading the recordings")
        try:
            dataset = load_run_data(run)
        except ProjectError as error:
            reason = f"No held-out AUC: {error}."
    winners = []
    for rank, number in enumerate(run.ranked.index[:top].tolist(), start=1):
        record, row = run.records[number], run.ranked.loc[number]
        last = record.epochs[-1]
        if dataset is not None:
            steps.begin(f"scoring held-out clips with trial {number}")
        found, missing = (None, reason) if dataset is None else _held_out(run, number, dataset, device)
        plan = last.plan or record.start.plan
        winners.append(
            Winner(
                rank=rank,
                number=number,
                end=str(row["end"]),
                objective=run.manifest.objective,
                value=float(row["final_auc"]),
                validation_auc=last.validation_auc,
                validation_pauc=last.validation_pauc,
                pseudo_auc=last.pseudo_auc,
                epochs=int(row["epochs"]),
                held_out_auc=None if found is None else found.auc,
                held_out_pauc=None if found is None else found.pauc,
                held_out_interval=None if found is None else found.interval,
                held_out_clips=None if found is None else found.clips,
                predicted_bytes=int(row["predicted_bytes"]),
                peak_bytes=int(row["peak_bytes"]),
                epoch_seconds=float(row["epoch_seconds"]),
                params=record.start.used,
                config=record.start.config.flat(),
                plan=None if plan is None else plan.to_dict(),
                missing=missing,
                shared=bool(reason),
                driver_bytes=int(row["driver_bytes"]),
            )
        )
    return winners, [reason] if reason else []


def _held_out(run: RunResults, number: int, dataset: "Dataset", device: str) -> "tuple[Evaluation | None, str]":
    """Returns a trial's evaluation on held-out clips, or why there is none."""
    from analysis.model_view import load_view
    from trainable.data.clips import Split

    try:
        return load_view(run, number, dataset=dataset, device=device).evaluation(Split.HELD_OUT), ""
    except (CheckpointError, RunError) as error:
        _log.warning("held-out AUC of trial %d: %s", number, error)
        return None, f"{error}; to measure it, train it again: {retrain_command(run, number)}"


def _columns(objective: Objective) -> dict[str, int]:
    """Heading → width of `winners_text`; text is left-aligned (negative width), numbers are right-aligned."""
    if objective is Objective.BOTH:
        judged = {objective.short: 8, Objective.LABELS.measure: 14, Objective.NORMAL_ONLY.measure: 10}
    else:
        judged = {objective.measure: 14}
    return {
        "rank": 4,
        "trial": 5,
        **judged,
        "held-out AUC (95 % interval)": -28,
        "held-out pAUC": 13,
        "ended": -13,
        "epochs": 6,
        "GPU memory": -18,
        "s an epoch": 10,
    }


def winners_text(winners: Sequence[Winner], width: int | None = None) -> str:
    """Formats the configurations for a terminal of `width` characters (None: as wide as needed), no word broken.

    One line each, with its parameters below; where the terminal is too narrow for that, a few lines each.
    """
    objective = winners[0].objective
    columns = _columns(objective)
    heading = _line(list(columns), columns)
    narrow = width is not None and width < len(heading)
    lines = [] if narrow else [heading]
    for winner in winners:
        cells = dict(zip(columns, _cells(winner), strict=True))
        lines += _block(cells) if narrow else [_line(list(cells.values()), columns)]
        lines.append("      " + ", ".join(f"{name}={_short(value)}" for name, value in winner.params.items()))
        # Reasons that hold for all trials are printed once, below.
        if winner.missing and not winner.shared:
            lines.append(f"      no held-out AUC: {winner.missing}")
    judged = next((winner.held_out_clips for winner in winners if winner.held_out_clips is not None), None)
    if judged is not None:
        lines.append(f"Held-out AUCs: {judged.text}{f'; {judged.warning}' if judged.few else ''}.")
    lines.append(f"Completed trials first, by the {objective.measure} of their last epoch; {_CHOICE[objective]}.")
    return "\n".join(lines if width is None else [wrapped(line, width) for line in lines])


def wrapped(line: str, width: int) -> str:
    """The line over several, indented as it is; what is longer than a line, such as a path, stays whole."""
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )


def _cells(winner: Winner) -> list[str]:
    """A winner's cells, in the order of `_columns`."""
    held_out = "–"
    if winner.held_out_auc is not None and winner.held_out_interval is not None:
        low, high = winner.held_out_interval
        held_out = f"{winner.held_out_auc:.3f} ({low:.3f} … {high:.3f})"
    cells = [str(winner.rank), str(winner.number), _auc(winner.value)]
    if winner.objective is Objective.BOTH:
        cells += [_auc(winner.validation_auc), _auc(winner.pseudo_auc)]
    cells += [held_out, _auc(winner.held_out_pauc)]
    return [
        *cells,
        winner.end.replace("_", " "),
        str(winner.epochs),
        memory_text(winner),
        f"{winner.epoch_seconds:.3g}",
    ]


def _block(cells: Mapping[str, str]) -> list[str]:
    """A winner's cells for a narrow terminal."""
    epochs = "1 epoch" if cells["epochs"] == "1" else f"{cells['epochs']} epochs"
    head = f"{cells['rank']}. trial {cells['trial']}, {cells['ended']} after {epochs}"
    told = ("rank", "trial", "ended", "epochs", "s an epoch")
    figures = [f"{name} {cell}" for name, cell in cells.items() if name not in told and cell != "–"]
    figures.append(f"{cells['s an epoch']} s an epoch")
    return [head, f"      {', '.join(figures)}"]


_CHOICE = {
    Objective.LABELS: "held-out clips took no part in the choice",
    Objective.NORMAL_ONLY: "a pseudo-AUC ranks trainings and does not say how many faults are heard, "
    "and no labelled clip took part in the choice",
    Objective.BOTH: "held-out clips took no part in the choice",
}
"""What the end of the table says about the choice."""


def _auc(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _line(cells: Sequence[str], columns: Mapping[str, int]) -> str:
    padded = [
        cell.ljust(-width) if width < 0 else cell.rjust(width)
        for cell, width in zip(cells, columns.values(), strict=True)
    ]
    return "  ".join(padded).rstrip()


def memory_text(winner: Winner) -> str:
    """Measured memory if there is any, by the driver where it told; else predicted."""
    if winner.driver_bytes:
        return f"{format_bytes(winner.driver_bytes)} by the driver"
    if winner.peak_bytes:
        return f"{format_bytes(winner.peak_bytes)} measured"
    return f"{format_bytes(winner.predicted_bytes)} predicted" if winner.predicted_bytes else "–"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def export_winners(run: RunResults, winners: Sequence[Winner], folder: Path) -> list[Path]:
    """Writes one YAML per configuration (for ``python -m trainable.train --config``) and all as ``best.json``.

    Raises RunError if the folder cannot be written.
    """
    import yaml

    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("best-*.yaml"):  # of an earlier export
            stale.unlink()
        for winner in winners:
            path = folder / f"best-{winner.rank}-trial-{winner.number:05d}.yaml"
            results = {k: v for k, v in asdict(winner).items() if k not in ("config", "params", "plan", "shared")}
            content = {
                "config": winner.config,
                "data": run.manifest.data,
                "params": winner.params,
                "plan": winner.plan,
                "result": {**results, "run": run.manifest.name},
            }
            # Via JSON, which turns tuples and numpy scalars into types that safe YAML can hold.
            path.write_text(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False), encoding="utf-8")
            written.append(path)
        listed = [{k: v for k, v in asdict(winner).items() if k != "shared"} for winner in winners]
        write_json(folder / "best.json", {"run": run.manifest.name, "best": listed})
        written.append(folder / "best.json")
    except OSError as error:
        raise RunError(f"--export {folder} cannot be written: {error.strerror}") from None
    return written
