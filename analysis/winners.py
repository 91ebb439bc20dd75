"""The best configurations of a run with what they are worth: validation and held-out AUC, interval, memory, time."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis.results import RunResults
from trainable.errors import CheckpointError, RunError
from trainable.record import write_json
from trainable.units import format_bytes

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Winner:
    """One configuration and its results."""

    rank: int
    number: int
    end: str
    validation_auc: float
    validation_pauc: float
    epochs: int
    """Epochs it trained; its AUCs are those of the last."""
    held_out_auc: float | None
    """None where the checkpoint is gone; `missing` says why."""
    held_out_pauc: float | None
    held_out_interval: tuple[float, float] | None
    predicted_bytes: int
    peak_bytes: int
    """Measured; 0 on a CPU."""
    epoch_seconds: float
    params: dict[str, Any]
    config: dict[str, Any]
    """TrialConfig.flat()."""
    plan: dict[str, Any] | None
    missing: str = ""


def find_winners(run: RunResults, top: int, *, device: str = "cpu") -> list[Winner]:
    """The `top` trials of `RunResults.ranked`; held-out clips are scored for each, but never decide the order.

    Raises
    ------
    RunError
        If no trial has an AUC, or the recordings have changed since the run.
    DataError
        If the recordings cannot be loaded.
    """
    from analysis.model_view import load_run_data, load_view
    from trainable.data.clips import Split

    if not len(run.ranked):
        raise RunError(f"no trial of {run.folder.path} has finished an epoch, so there is no best one")
    dataset = load_run_data(run)
    winners = []
    for rank, number in enumerate(run.ranked.index[:top].tolist(), start=1):
        record, row = run.records[number], run.ranked.loc[number]
        auc = pauc = interval = None
        missing = ""
        try:
            evaluation = load_view(run, number, dataset=dataset, device=device).evaluation(Split.HELD_OUT)
            auc, pauc, interval = evaluation.auc, evaluation.pauc, evaluation.interval
        except (CheckpointError, RunError) as error:
            missing = f"{error}; --retrain --trial {number} trains it again and says"
            _log.warning("held-out AUC of trial %d: %s", number, error)
        winners.append(
            Winner(
                rank=rank,
                number=number,
                end=str(row["end"]),
                validation_auc=float(row["final_auc"]),
                validation_pauc=float(row["final_pauc"]),
                epochs=int(row["epochs"]),
                held_out_auc=auc,
                held_out_pauc=pauc,
                held_out_interval=interval,
                predicted_bytes=int(row["predicted_bytes"]),
                peak_bytes=int(row["peak_bytes"]),
                epoch_seconds=float(row["epoch_seconds"]),
                params=dict(record.start.params),
                config=dict(record.start.config),
                plan=record.epochs[-1].plan or record.start.plan,
                missing=missing,
            )
        )
    return winners


def winners_text(winners: Sequence[Winner]) -> str:
    """A table for a terminal, a line a configuration, and its parameters below."""
    lines = ["rank  trial  validation AUC  held-out AUC (95 % interval)  held-out pAUC  GPU memory             epoch"]
    for winner in winners:
        held_out = "–"
        if winner.held_out_auc is not None and winner.held_out_interval is not None:
            low, high = winner.held_out_interval
            held_out = f"{winner.held_out_auc:.3f} ({low:.3f} … {high:.3f})"
        pauc = f"{winner.held_out_pauc:.3f}" if winner.held_out_pauc is not None else "–"
        lines.append(
            f"{winner.rank:>4}  {winner.number:>5}  {winner.validation_auc:>14.3f}  {held_out:<28}  {pauc:<13}  "
            f"{memory_text(winner):<20}  {winner.epoch_seconds:.3g} s"
        )
        lines.append("      " + ", ".join(f"{name}={_short(value)}" for name, value in winner.params.items()))
        if winner.missing:
            lines.append(f"      no held-out AUC: {winner.missing}")
    lines.append(
        "Completed trials first, by the validation AUC of their last epoch; held-out clips took no part in the choice."
    )
    return "\n".join(lines)


def memory_text(winner: Winner) -> str:
    """Measured where it was, else predicted."""
    if winner.peak_bytes:
        return f"{format_bytes(winner.peak_bytes)} measured"
    return f"{format_bytes(winner.predicted_bytes)} predicted" if winner.predicted_bytes else "–"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def export_winners(run: RunResults, winners: Sequence[Winner], folder: Path) -> list[Path]:
    """Writes one YAML a configuration (for ``python -m trainable.train --config``) and all of them as ``best.json``.

    Raises RunError if the folder cannot be written.
    """
    import yaml

    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for winner in winners:
            path = folder / f"best-{winner.rank}-trial-{winner.number:05d}.yaml"
            results = {k: v for k, v in asdict(winner).items() if k not in ("config", "params", "plan")}
            content = {
                "config": winner.config,
                "data": run.manifest.data,
                "params": winner.params,
                "plan": winner.plan,
                "result": {**results, "run": run.manifest.name},
            }
            # Through JSON: tuples and numpy scalars become what safe YAML can hold.
            path.write_text(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False), encoding="utf-8")
            written.append(path)
        write_json(folder / "best.json", {"run": run.manifest.name, "best": [asdict(winner) for winner in winners]})
        written.append(folder / "best.json")
    except OSError as error:
        raise RunError(f"--export {folder} cannot be written: {error.strerror}") from None
    return written
