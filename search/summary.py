"""Results of a search: the table on the terminal, ``best.yaml`` for retraining, ``summary.json`` for programs."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from search.engine.conductor import Conductor
from search.store.run_store import RunStore
from search.store.study import outcome_of
from search.winner import Winner
from trainable.commands import as_called
from trainable.detection.gain import gain_text
from trainable.detection.ranking import Pair
from trainable.printable import printable
from trainable.record import FAILURES, TrialEnd
from trainable.scoring.clip_counts import auc_text
from trainable.scoring.evaluate import Evaluation
from trainable.scoring.faults_found import FaultsFound, faults_found
from trainable.units import counted, duration_text, format_bytes
from trainable.yardsticks.catalogue import title_of
from trainable.yardsticks.comparison import NOT_MEASURED, Comparison


class _PrintableTable(Table):
    """A table whose texts may come from names of files and machines."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(printable(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def counts_text(conductor: Conductor) -> str:
    """``20 trials: 7 completed, 13 pruned``, by ending; proposals over budget are listed separately."""
    counts = conductor.standing.counts
    unfinished = len(conductor.running)
    parts = [f"{count} {end.value}" for end, count in counts.items() if count and end is not TrialEnd.OVER_BUDGET]
    parts += [f"{unfinished} unfinished"] if unfinished else []
    trials = counted(sum(counts.values()) - counts[TrialEnd.OVER_BUDGET] + unfinished, "trial")
    text = f"{trials}: {', '.join(parts) or 'none started'}"
    if counts[TrialEnd.OVER_BUDGET]:
        text += f"; {counted(counts[TrialEnd.OVER_BUDGET], 'proposal')} over_budget"
    return text


def print_summary(
    console: Console, conductor: Conductor, store: RunStore, winner: Winner | None, *, seconds: float, skipped: int
) -> None:
    """The table at the end of a search."""
    folder = store.folder.path
    table = _PrintableTable(title=f"Search {printable(folder.name)}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    table.add_row("trials", counts_text(conductor))
    resumed = bool(store.folder.read_manifest().history)
    table.add_row("time", f"{duration_text(seconds)}{' since it was resumed' if resumed else ''}")
    if conductor.stop_reason:
        table.add_row("ended early", conductor.stop_reason)
    if (gain := conductor.standing.expected_gain) is not None:
        flat = _ended_itself(conductor)
        table.add_row(
            "ended early" if flat else "more trials",
            gain_text(gain) + (", less than --until-flat asks" if flat else ""),
        )
    if conductor.running:
        table.add_row("to go on", _resume_command(folder))
    if skipped:
        table.add_row("skipped recordings", f"{skipped} could not be used")
    if winner is None:
        table.add_row("best", f"none: {_why_none(conductor, store)}")
    else:
        _add_winner(table, conductor, winner)
    console.print(table)
    console.print(f"results: {printable(str(folder))}", soft_wrap=True, highlight=False)
    if winner is not None:
        advice = []
        if winner.members:
            model = shlex.quote(str(store.folder.detector_path))
            advice.append(f"score: python -m trainable.score --model {model} FILES")
        run = shlex.quote(str(folder))
        advice.append(
            f"train it again on all normal clips that calibration can spare: python -m analysis.best {run} --retrain"
        )
        advice.append(f"report: python -m analysis.report {run}")
        for line in advice:
            console.print(printable(as_called(line)), soft_wrap=True, highlight=False)


def _ended_itself(conductor: Conductor) -> bool:
    """Whether fewer trials started than were asked for, since more are expected to bring less than `--until-flat`."""
    return conductor.flat and conductor.started < conductor.options.num_samples


def _why_none(conductor: Conductor, store: RunStore) -> str:
    """Why no trial completed, and what to do."""
    if failures := _failures(store):
        first = failures[0]
        alike = sum(each["end"] == first["end"] for each in failures)
        return (
            f"no trial completed; trial {first['trial']} ended as {first['end']}: {first['reason']} "
            f"({counted(alike, 'such trial')}: {store.folder.summary_path.name})"
        )
    if conductor.running:
        return "no trial completed before the search ended"
    return f"no trial completed; start more with {_resume_command(store.folder.path)} --num-samples N"


def _resume_command(run: Path) -> str:
    return as_called(f"python -m search.run --resume {shlex.quote(str(run))}")


def _add_winner(table: Table, conductor: Conductor, winner: Winner) -> None:
    table.add_row("best trial", f"{winner.start.number} ({counted(winner.epochs, 'epoch')})")
    for name, value in winner.start.used.items():
        table.add_row(f"  {name}", f"{value:.4g}" if isinstance(value, float) else str(value))
    last = winner.last
    if last.validation_auc is not None:
        table.add_row("validation AUC", _with_interval(last.validation_auc, winner.validation))
    if last.pseudo_auc is not None:
        families = last.pseudo_auc_by_density[winner.start.config.score.density]
        shown = ", ".join(f"{family} {auc:.3f}" for family, auc in families.items())
        table.add_row("pseudo-AUC", f"{last.pseudo_auc:.3f}  ({shown}): of pseudo-anomalies, not of faults")
    if winner.held_out is not None:
        table.add_row("held-out AUC", _with_interval(winner.held_out.auc, winner.held_out))
        by_id = ", ".join(f"{machine_id} {auc:.3f}" for machine_id, auc in winner.held_out.auc_by_id.items())
        table.add_row("  by machine id", by_id)
        _add_domains(table, winner.held_out)
        table.add_row("held-out pAUC", f"{winner.held_out.pauc:.3f}")
    else:
        table.add_row("held-out AUC", f"not measured: {winner.unmeasured}")
    _add_detector(table, winner)
    for warning in (*winner.few_clips, *winner.warnings):
        table.add_row(Text("  mind", style="bold red"), warning)
    if winner.start.predicted_bytes:
        budget = conductor.options.budget_bytes
        of = f" of {format_bytes(budget)}" if budget else ""
        table.add_row("GPU memory", f"{format_bytes(winner.start.predicted_bytes)} predicted{of}")


def _add_detector(table: Table, winner: Winner) -> None:
    if not winner.members:
        table.add_row("detector", f"none: {winner.no_detector}")
    else:
        table.add_row("detector", f"the mean of {_members_text(winner.members)}")
    if winner.detector_held_out is not None:
        table.add_row("  held-out AUC", _with_interval(winner.detector_held_out.auc, winner.detector_held_out))
        by_id = ", ".join(f"{machine_id} {auc:.3f}" for machine_id, auc in winner.detector_held_out.auc_by_id.items())
        table.add_row("  by machine id", by_id)
        _add_domains(table, winner.detector_held_out)
    if (found := _faults_found(winner.judged)) is not None:
        table.add_row("  finds", found.text)
    if winner.judged is not None:
        _add_yardsticks(table, winner.yardsticks, "detector" if winner.members else "winner")


def _add_domains(table: Table, evaluation: Evaluation) -> None:
    if evaluation.by_domain is not None:
        table.add_row("  by domain", evaluation.by_domain.text)


def _members_text(members: tuple[Pair, ...]) -> str:
    """``trial 3 (fused, mahalanobis), trial 5 (fused)``, the best pair's trial first."""
    densities: dict[int, list[str]] = {}
    for pair in members:
        densities.setdefault(pair.trial, []).append(pair.density)
    return ", ".join(f"trial {number} ({', '.join(names)})" for number, names in densities.items())


def _add_yardsticks(table: Table, yardsticks: Comparison | None, beside: str) -> None:
    if yardsticks is None:
        table.add_row("yardsticks", "not measured; see the warning above")
        return
    table.add_row("yardsticks", ", ".join(f"{title_of(name)} {auc:.3f}" for name, auc in yardsticks.aucs.items()))
    answer = Text("  not beaten", style="bold red")
    if yardsticks.beaten or yardsticks.too_few:
        answer = Text("  beaten?" if yardsticks.too_few else "  beaten")
    table.add_row(answer, f"the {beside} {yardsticks.verdict}")


def _with_interval(auc: float, evaluation: Evaluation | None) -> str:
    return auc_text(auc, *((None, None) if evaluation is None else (evaluation.interval, evaluation.clips)))


def write_results(
    conductor: Conductor, store: RunStore, winner: Winner | None, *, seconds: float, skipped: int
) -> None:
    """``summary.json``, and ``best.yaml`` and the detector if there are any; `seconds` counts from the last resume."""
    folder = store.folder
    summary: dict[str, Any] = {
        "counts": {end.value: count for end, count in conductor.standing.counts.items()},
        "seconds": round(seconds, 1),
        # Number of starts and resumes so far: if the manifest has more, the search has been resumed since.
        "parts": 1 + len(folder.read_manifest().history),
        "stop_reason": conductor.stop_reason,
        "flat": _ended_itself(conductor),
        "skipped_recordings": skipped,
        "failures": _failures(store),
        "best": None,
    }
    if winner is not None:
        judged = winner.judged
        best = {
            "trial": winner.start.number,
            "epochs": winner.epochs,
            "params": winner.start.used,
            "objective": winner.objective.value,
            "validation_auc": winner.last.validation_auc,
            "validation_interval": None if winner.validation is None else list(winner.validation.interval),
            "validation_clips": None if winner.validation is None else winner.validation.clips.to_dict(),
            "held_out_auc": None if winner.held_out is None else winner.held_out.auc,
            "held_out_interval": None if winner.held_out is None else list(winner.held_out.interval),
            "held_out_clips": None if judged is None else judged.clips.to_dict(),
            "held_out_auc_by_id": None if winner.held_out is None else winner.held_out.auc_by_id,
            **({} if judged is None or judged.by_domain is None else {"by_domain": judged.by_domain.to_dict()}),
            "held_out_pauc": None if winner.held_out is None else winner.held_out.pauc,
            # At fixed false alarms, of the detector or else of the winner; null without enough normal clips.
            "faults_found": None if (found := _faults_found(judged)) is None else found.to_dict(),
            "detector_held_out_auc": None if winner.detector_held_out is None else winner.detector_held_out.auc,
            "detector_held_out_interval": (
                None if winner.detector_held_out is None else list(winner.detector_held_out.interval)
            ),
            "members": [asdict(pair) for pair in winner.members],
            **(NOT_MEASURED if winner.yardsticks is None else winner.yardsticks.to_dict()),
            "predicted_bytes": winner.start.predicted_bytes,
        }
        if winner.objective.holds_back:
            best["pseudo_auc"] = winner.last.pseudo_auc
            best["warnings"] = list(winner.warnings)
        summary["best"] = best
        content = {
            "config": winner.start.config.flat(),
            "data": conductor.options.data.to_dict(),
            "plan": None if winner.start.plan is None else winner.start.plan.to_dict(),
            "result": {key: value for key, value in best.items() if key != "params"},
        }
        folder.write_text(folder.best_path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    folder.write_text(folder.summary_path, json.dumps(summary, indent=1))
    if winner is not None and winner.averaged is not None:
        winner.averaged.finished.detector.save(folder.detector_path)


def _faults_found(judged: Evaluation | None) -> FaultsFound | None:
    return None if judged is None else faults_found(judged.labels, judged.scores, judged.machine_ids)


def _failures(store: RunStore) -> list[dict[str, Any]]:
    """Trials of this run that failed, with reasons; skips other runs in a shared study."""
    ended = ((trial.number, outcome_of(trial)) for trial in store.study.trials() if store.study.is_mine(trial))
    return [
        {"trial": number, "end": outcome.end.value, "reason": outcome.reason}
        for number, outcome in ended
        if outcome is not None and outcome.end in FAILURES
    ]
