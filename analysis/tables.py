"""Tables for readers: rounded, with units, in words. Cells are strings, so a page and a terminal show the same."""

from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from analysis.front import FRONT_ROWS, memory_cost, unbeaten
from analysis.pruning import pruning_savings
from analysis.results import CUT_OFF, PARAM, UNFINISHED, RunResults
from analysis.state import time_text
from trainable.config import Objective
from trainable.record import TrialEnd
from trainable.units import duration_text, format_bytes


@dataclass(frozen=True)
class Table:
    """A heading and rows of text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def _repr_html_(self) -> str:
        """HTML for notebooks."""
        head = "".join(f'<th style="text-align:left">{escape(name)}</th>' for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row) + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text_of(value: Any) -> str:
    """Formats a value for readers: four significant digits, a dash for nothing."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def range_text(distribution: BaseDistribution) -> str:
    """``32 … 512, logarithmic`` and the like."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(text_of(choice) for choice in distribution.choices)
    if isinstance(distribution, IntDistribution | FloatDistribution):
        step = f", steps of {text_of(distribution.step)}" if distribution.step not in (None, 1) else ""
        log = ", logarithmic" if distribution.log else ""
        return f"{text_of(distribution.low)} … {text_of(distribution.high)}{step}{log}"
    return str(distribution)


def searched_table(run: RunResults) -> Table:
    """Each searched parameter: range, the winner's value, the middle half of the best ten trials."""
    best = run.ranked.iloc[0] if len(run.ranked) else None
    top = run.ranked.head(10)
    rows = []
    for name in run.params:
        column = PARAM + name
        distribution = run.distributions.get(name)
        rows.append(
            (
                name,
                range_text(distribution) if distribution else "unknown",
                _whole(best[column], distribution) if best is not None else "–",
                _spread(top[column], distribution),
            )
        )
    best_ten = f"best {len(top)}: middle half, or how often" if len(top) > 1 else "best trial"
    return Table(("parameter", "searched", "winner", best_ten), tuple(rows))


def _whole(value: Any, distribution: BaseDistribution | None) -> str:
    """Formats integers as such, although pandas keeps them as floats if some trials lack them."""
    if isinstance(distribution, IntDistribution) and not pd.isna(value):
        return str(int(value))
    return text_of(value.item() if hasattr(value, "item") else value)


def _spread(values: "pd.Series[Any]", distribution: BaseDistribution | None) -> str:
    values = values.dropna()
    if not len(values):
        return "–"
    if isinstance(distribution, CategoricalDistribution) or not pd.api.types.is_numeric_dtype(values):
        counts = values.map(text_of).value_counts()
        return ", ".join(f"{name} ({count}×)" for name, count in counts.head(3).items())
    whole = isinstance(distribution, IntDistribution)
    ends = [f"{round(q) if whole else q:.4g}" if whole else f"{q:.3g}" for q in values.quantile([0.25, 0.75])]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} … {ends[1]}"


def memory_bytes(row: pd.Series) -> int:
    """A trial's memory as well as it is known: the driver's count, the allocator's peak, the prediction; 0 if none."""
    return int(row["driver_bytes"] or row["peak_bytes"] or row["predicted_bytes"])


def top_table(run: RunResults, count: int = 5) -> Table:
    """The best trials by value, with what they were judged by."""
    judged = _judged_columns(run)
    rows = []
    for number, row in run.ranked.head(count).iterrows():
        rows.append(
            (
                str(number),
                *(f"{row[column]:.3f}" for column in judged.values()),
                f"{row['epochs']} of {run.manifest.max_epochs}",
                str(row["end"]).replace("_", " "),
                format_bytes(memory) if (memory := memory_bytes(row)) else "–",
                f"{row['epoch_seconds']:.3g} s",
                _params_text(run, row),
            )
        )
    return Table(("trial", *judged, "epochs", "ended", "memory", "an epoch", "parameters"), tuple(rows))


def front_table(run: RunResults) -> Table:
    """Completed trials that no other one beats in value, memory and time at once, the highest value first."""
    memory, how = memory_cost(run.trials)
    rows = [
        (
            str(number),
            f"{row['final_auc']:.3f}",
            "–" if pd.isna(row["memory"]) else format_bytes(int(row["memory"])),
            f"{row['epoch_seconds']:.3g} s",
            _params_text(run, row),
        )
        for number, row in unbeaten(run.trials.assign(memory=memory)).head(FRONT_ROWS).iterrows()
    ]
    return Table(("trial", run.measure, f"memory ({how})", "an epoch", "parameters"), tuple(rows))


def _params_text(run: RunResults, row: pd.Series) -> str:
    return ", ".join(
        f"{name} {_whole(row[PARAM + name], run.distributions.get(name))}"
        for name in run.params
        if not pd.isna(row[PARAM + name])
    )


def _judged_columns(run: RunResults) -> dict[str, str]:
    """Heading → column of `RunResults.trials`, of the numbers that a trial was judged by; the value comes first."""
    objective, columns = run.manifest.objective, {run.measure: "final_auc"}
    if objective is not Objective.NORMAL_ONLY:
        columns |= {Objective.LABELS.measure: "validation_auc", "pAUC": "final_pauc"}
    if objective.holds_back:
        columns[Objective.NORMAL_ONLY.measure] = "pseudo_auc"
    return columns


END_MEANINGS = {
    TrialEnd.COMPLETED.value: "trained for all its epochs",
    TrialEnd.PRUNED.value: "stopped early by ASHA: weaker than others at the same epoch",
    TrialEnd.OVER_BUDGET.value: "never started: no execution plan fits the memory budget",
    TrialEnd.OUT_OF_MEMORY.value: "ran out of memory and no smaller plan was left",
    TrialEnd.NON_FINITE.value: "its loss became NaN or infinite",
    TrialEnd.CRASHED.value: "an exception, a lost worker or a time-out",
    UNFINISHED: "still running, or its search ended before it did; --resume goes on with it",
    CUT_OFF: "ended with its search, which an earlier version recorded as pruned",
}


def ends_table(run: RunResults) -> Table:
    """Every way a trial can end, with the number of trials and the most frequent reason.

    Trials that were cut off are listed only where there are any: searches of today leave none.
    """
    rows = []
    for end, count in run.end_counts().items():
        if end == CUT_OFF and not count:
            continue
        reasons = run.trials.loc[run.trials["end"] == end, "reason"]
        reasons = reasons[reasons.astype(bool)]
        common = str(reasons.value_counts().index[0]) if len(reasons) and end != TrialEnd.PRUNED.value else ""
        if end == UNFINISHED and count:
            common = run.stopped
        rows.append((end.replace("_", " "), str(count), END_MEANINGS[end], common))
    return Table(("ended", "trials", "meaning", "most frequent reason"), tuple(rows))


def plans_table(run: RunResults) -> Table:
    """Execution plans that trials ran under, the most frequent first."""
    started = run.trials[run.trials["plan"].astype(bool) & (run.trials["end"] != TrialEnd.OVER_BUDGET.value)]
    rows = []
    for plan, part in started.groupby("plan"):
        peak, seconds = int(part["predicted_bytes"].max()), part["epoch_seconds"].dropna().median()
        rows.append(
            (
                str(plan),
                str(len(part)),
                format_bytes(peak) if peak else "–",
                "–" if pd.isna(seconds) else f"{seconds:.3g} s",
            )
        )
    rows.sort(key=lambda row: -int(row[1]))
    return Table(("execution plan", "trials", "largest predicted peak", "median epoch"), tuple(rows[:12]))


def savings_table(run: RunResults) -> Table:
    """ASHA's savings in trials, epochs and time."""
    savings = pruning_savings(run.trials, run.manifest.max_epochs)
    return Table(
        ("what", "value"),
        (
            ("trials stopped early", str(savings.pruned)),
            ("epochs trained", f"{savings.trained_epochs:,}"),
            ("epochs saved", f"{savings.saved_epochs:,} ({savings.saved_share:.0%} of all)"),
            ("time trained, summed over trials", duration_text(3600 * savings.trained_hours)),
            ("time saved, at each trial's own pace", duration_text(3600 * savings.saved_hours)),
        ),
    )


def moment_text(iso: str) -> str:
    """Formats a time of a manifest for readers; returns other text unchanged."""
    try:
        return time_text(datetime.fromisoformat(iso))
    except ValueError:
        return iso


def run_table(run: RunResults) -> Table:
    """The settings of the run."""
    manifest = run.manifest
    budget = manifest.gpu_memory_budget_bytes
    rows = [
        ("command", manifest.command),
        ("begun", moment_text(manifest.created)),
        ("space", manifest.space_name),
        ("recordings", f"{manifest.data.get('machine_type')} of {manifest.source}"),
        ("trials judged by", run.measure),
        ("trials requested", str(manifest.num_samples)),
        ("epochs of a full training", str(manifest.max_epochs)),
        ("GPU memory budget a trial", format_bytes(budget) if budget else "none"),
        ("device", manifest.device),
        ("seed", str(manifest.seed)),
        ("code", manifest.commit[:12] or "unknown commit"),
        ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    ]
    for entry in manifest.history:
        rows.append((f"resumed {moment_text(str(entry.get('resumed', '')))}".strip(), str(entry.get("command", ""))))
    return Table(("what", "value"), tuple(rows))
