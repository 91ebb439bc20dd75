"""A run's folder and study as tables. ``load_run(path)`` works on finished, running and interrupted searches.

The folder holds epochs and endings; the study holds ranges, times and proposals that never started. They are joined by
trial number.
"""

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from analysis.commands import resume_command
from analysis.state import SearchState, held_out_later, last_recorded, search_state, time_text
from analysis.study import StudyContent, read_study
from trainable.config import Objective
from trainable.detection.gain import expected_gain
from trainable.detection.ranking import competing
from trainable.errors import RunError
from trainable.execution_plan import ExecutionPlan
from trainable.record import (
    EPOCH_SCALARS,
    FAILURES,
    RunFolder,
    RunManifest,
    TrialEnd,
    TrialOutcome,
    TrialRecord,
    outcome_in,
)
from trainable.units import counted, format_bytes

_log = logging.getLogger(__name__)

PARAM = "params_"
"""Prefix of the columns that hold what the sampler chose, as in Optuna's own data frames."""
UNFINISHED = "unfinished"
"""The label of a trial without an ending: it still runs, or its search ended before it did."""
CUT_OFF = "cut_off"
"""The label of a trial that ended with its search, as earlier versions recorded it: pruned, but not by ASHA."""
_SEARCH_ENDED = ("the time limit of ", "the first ")
"""How the reason of such a trial begins."""
FAILED = tuple(end.value for end in TrialEnd if end in FAILURES)
_TIERS = {TrialEnd.COMPLETED.value: 0, TrialEnd.PRUNED.value: 1, UNFINISHED: 1, CUT_OFF: 1}
ENDS: tuple[str, ...] = (*[end.value for end in TrialEnd], UNFINISHED, CUT_OFF)


@dataclass(frozen=True)
class RunResults:
    """All records of a run, as plain tables."""

    folder: RunFolder
    manifest: RunManifest
    records: dict[int, TrialRecord]
    """By trial number; over-budget proposals may be in the study only."""
    trials: pd.DataFrame
    """One row per trial, indexed by number; see `trial_rows` for the columns."""
    distributions: dict[str, BaseDistribution]
    """Ranges that parameters were drawn from; empty if the study could not be read."""
    summary: dict[str, Any]
    """The summary that the search wrote when it ended; empty before."""
    notes: tuple[str, ...]
    """Caveats about the tables, one sentence each."""
    state: SearchState = SearchState.ENDED

    @property
    def measure(self) -> str:
        """What a trial's value is called, such as ``validation AUC``."""
        return self.manifest.objective.measure

    @property
    def labelled(self) -> bool:
        """Whether the recordings hold labelled anomalies: without them nobody knows how many faults are heard."""
        # Only a search that no label judges runs without them; older manifests count no clips.
        return self.manifest.objective is not Objective.NORMAL_ONLY or self.manifest.clips.get("held_out", 0) > 0

    @property
    def params(self) -> list[str]:
        """Names of the searched parameters, without prefix."""
        return [str(column).removeprefix(PARAM) for column in self.trials.columns if str(column).startswith(PARAM)]

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """Long form: one row per trial and epoch, columns ``number``, ``value`` and the scalars of `EpochReport`.

        Columns of registered loss terms (``<name>_loss``) come last. A number that a report does not have is NaN.
        """
        reports = [(number, report) for number, record in self.records.items() for report in record.epochs]
        extra = dict.fromkeys(name for _, report in reports for name in report.extra_losses)
        rows = [
            (
                number,
                report.epoch,
                report.value,
                *(_known(getattr(report, name)) for name in EPOCH_SCALARS),
                *(report.extra_losses.get(name, float("nan")) for name in extra),
            )
            for number, report in reports
        ]
        return pd.DataFrame(
            rows, columns=["number", "epoch", "value", *EPOCH_SCALARS, *(f"{name}_loss" for name in extra)]
        )

    def epochs_of(self, number: int) -> pd.DataFrame:
        """One trial's rows of `epochs`, in order."""
        return self.epochs[self.epochs["number"] == number]

    @cached_property
    def ids(self) -> pd.DataFrame:
        """Long form: one row per trial, epoch and machine id, with validation ``auc`` and ``pauc``.

        Empty where no label judges.
        """
        rows = [
            (number, report.epoch, machine_id, auc, report.pauc_by_id.get(machine_id, float("nan")))
            for number, record in self.records.items()
            for report in record.epochs
            for machine_id, auc in report.auc_by_id.items()
        ]
        return pd.DataFrame(rows, columns=["number", "epoch", "machine_id", "auc", "pauc"])

    @cached_property
    def densities(self) -> pd.DataFrame:
        """Long form: ``auc`` of every density model, and of scores for comparison only.

        ``measure`` says which it is: the validation AUC, or the pseudo-AUC, a mean over the families.
        """
        validation, pseudo = Objective.LABELS.measure, Objective.NORMAL_ONLY.measure
        rows = [
            (number, report.epoch, name, compared, measure, auc)
            for number, record in self.records.items()
            for report in record.epochs
            for compared, measure, by_name in (
                (False, validation, report.auc_by_density),
                (True, validation, report.comparison_auc),
                (False, pseudo, {name: fmean(aucs.values()) for name, aucs in report.pseudo_auc_by_density.items()}),
            )
            for name, auc in by_name.items()
        ]
        return pd.DataFrame(rows, columns=["number", "epoch", "density", "comparison", "measure", "auc"])

    @cached_property
    def families(self) -> pd.DataFrame:
        """Long form: pseudo-AUC (``auc``) by ``family`` of pseudo-anomalies for every density model.

        Empty where only labels judge.
        """
        rows = [
            (number, report.epoch, density, family, auc)
            for number, record in self.records.items()
            for report in record.epochs
            for density, aucs in report.pseudo_auc_by_density.items()
            for family, auc in aucs.items()
        ]
        return pd.DataFrame(rows, columns=["number", "epoch", "density", "family", "auc"])

    @cached_property
    def ranked(self) -> pd.DataFrame:
        """Trials with an AUC, the best first: completed ones, then those stopped or running, then those that failed.

        Each group is sorted by the value of the last epoch (`measure`); ties go to the earlier trial. The last epoch
        counts, not the best: an epoch chosen with the clips it is judged by looks better than it is.
        """
        scored = self.trials.dropna(subset=["final_auc"])
        tier = scored["end"].map(lambda end: _TIERS.get(str(end), 2))
        return scored.assign(tier=tier).sort_values(["tier", "final_auc"], ascending=[True, False], kind="stable")

    @property
    def unfinished(self) -> int:
        """Number of trials without an ending."""
        return int((self.trials["end"] == UNFINISHED).sum())

    @cached_property
    def state_text(self) -> str:
        """Progress of a search that has not ended, with the time of its last record; empty for one that has."""
        if self.state is SearchState.ENDED:
            return ""
        ended = len(self.trials) - self.unfinished - self.end_counts()[TrialEnd.OVER_BUDGET.value]
        recorded = last_recorded(self.folder)
        when = f", as of {time_text(recorded)}" if recorded else ""
        how = "still running" if self.state is SearchState.RUNNING else self.state.value
        return f"The search is {how}: {ended} of {self.manifest.num_samples} trials ended{when}."

    @property
    def stopped(self) -> str:
        """Why the search ended before all its trials did; empty if it did not."""
        if self.state is not SearchState.ENDED:
            return ""
        # Earlier versions called the entry stop_reason.
        return str(self.summary.get("stop_reason") or "")

    @cached_property
    def stopped_text(self) -> str:
        """Why the search ended early, what it left undone and the command that goes on; empty if it did not."""
        if not self.stopped:
            return ""
        left = [f"{counted(self.unfinished, 'trial')} unfinished"] if self.unfinished else []
        begun = len(self.trials) - self.end_counts()[TrialEnd.OVER_BUDGET.value]
        if begun < self.manifest.num_samples:
            left.append(f"{self.manifest.num_samples - begun} of {self.manifest.num_samples} not begun")
        cut = self.end_counts()[CUT_OFF]
        lost = f" {counted(cut, 'trial')} cut off with it cannot go on." if cut else ""
        what = f"{' and '.join(left)}: " if left else "The search ended early: "
        return f"{what}{self.stopped}; resume with {resume_command(self)}.{lost}"

    @property
    def held_out_later(self) -> str:
        """Why held-out clips are not scored yet; empty once the search has ended with a winner."""
        if self.stopped and not self.end_counts()[TrialEnd.COMPLETED.value]:
            return f"No trial completed before {self.stopped}. {held_out_later(SearchState.OPEN)}"
        return held_out_later(self.state)

    @property
    def best_number(self) -> int | None:
        """The winner, the first of `ranked`; None before the first epoch."""
        ranked = self.ranked
        return int(ranked.index[0]) if len(ranked) else None

    @property
    def best_epochs(self) -> int:
        """Epochs that the winner trained; 0 if there is none."""
        return 0 if self.best_number is None else int(self.trials["epochs"].loc[self.best_number])

    @property
    def optimised_density(self) -> str:
        """The density model that the winner's value is of; empty if there is no winner."""
        number = self.best_number
        return "" if number is None else self.records[number].start.config.score.density

    @property
    def expected_gain(self) -> float | None:
        """The most that more trials are expected to bring (`trainable.detection.gain`); None where it is too early."""
        values = [record.epochs[-1].value for record in competing(self.records.values())]
        finite = [value for value in values if value == value]
        counts = self.end_counts()
        ended = sum(counts[end.value] for end in TrialEnd if end is not TrialEnd.OVER_BUDGET)
        return expected_gain(finite, ended - len(finite))

    @property
    def flat(self) -> bool:
        """Whether the search ended itself because more trials were not expected to bring what was asked."""
        return self.state is SearchState.ENDED and bool(self.summary.get("flat"))

    @property
    def budget_text(self) -> str:
        """The memory budget in words."""
        budget = self.manifest.gpu_memory_budget_bytes
        return format_bytes(budget) if budget else "none"

    def end_counts(self) -> dict[str, int]:
        """Number of trials that ended in each way, zeros included."""
        counts = self.trials["end"].value_counts()
        return {end: int(counts.get(end, 0)) for end in ENDS}


def load_run(path: str | Path) -> RunResults:
    """Reads a run's folder and its study, and changes neither.

    Raises
    ------
    RunError
        If the folder is not a run, or no trial has started in it yet.
    """
    folder = RunFolder(path)
    manifest = folder.read_manifest()
    records = {record.number: record for record in folder.read_trials()}
    notes: list[str] = []
    try:
        study = read_study(folder, manifest)
    except RunError as error:
        _log.info("%s", error)
        notes.append(f"{error}; ranges, times and proposals that never started are missing from the tables.")
        study = StudyContent((), {})
    # A shared study holds the trials of other drivers too; this run's are marked with its identity.
    mine = tuple(trial for trial in study.trials if trial.user_attrs.get("run", manifest.identity) == manifest.identity)
    trials = trial_rows(records, mine)
    if not len(trials):
        raise RunError(f"{folder.path} holds no trial yet; wait for the search to start one, or run it first")
    summary = folder.read_summary(manifest)
    state = search_state(folder, summary)
    results = RunResults(folder, manifest, records, trials, study.distributions, summary, tuple(notes), state)
    first = results.state_text or results.stopped_text
    return replace(results, notes=(first, *notes)) if first else results


_TIMES = ("epoch_seconds", "predicted_epoch_seconds")


def trial_rows(records: dict[int, TrialRecord], proposed: tuple[FrozenTrial, ...]) -> pd.DataFrame:
    """Builds one row per trial, indexed by number.

    Columns: end, reason, failures, epochs, final_auc (value of the last epoch), validation_auc, final_pauc and
    pseudo_auc (of the last epoch, NaN where they did not judge), best_auc (highest value), best_epoch, predicted_bytes,
    predicted_allocated_bytes (the allocator's only, to compare with peak_bytes; 0 if it was not recorded), peak_bytes
    (largest measured, 0 on a CPU), driver_bytes (the driver's largest count for the process, 0 where it did not tell),
    cap_bytes (the allocator's last cap, 0 without), plan (a phrase), micro_batch_clips, recompute, precision,
    epoch_seconds (median), predicted_epoch_seconds (NaN where the device's speed was not known), hours, draws
    (candidates that the sampler tried for it), started and completed (if the study has them), and ``params_*``.
    """
    studied = {trial.number: trial for trial in proposed}
    rows = []
    for number in sorted({*records, *studied}):
        record, trial = records.get(number), studied.get(number)
        row = _record_row(record) if record is not None else _proposal_row(trial)
        if row is None:
            continue
        row["number"] = number
        row["draws"] = trial.user_attrs.get("draws") if trial else None
        row["started"] = trial.datetime_start if trial else None
        row["completed"] = trial.datetime_complete if trial else None
        params = record.start.used if record is not None else trial.params if trial else {}
        rows.append({**row, **{PARAM + name: value for name, value in params.items()}})
    frame = pd.DataFrame(rows)
    if not len(frame):
        return frame
    for name in ("best_auc", "final_auc", "validation_auc", "final_pauc", "pseudo_auc", *_TIMES, "draws"):
        frame[name] = frame[name].astype(float)
    return frame.set_index("number")


def _record_row(record: TrialRecord) -> dict[str, Any]:
    outcome, epochs = record.outcome, record.epochs
    best = max(epochs, key=lambda report: report.value, default=None)
    plan = epochs[-1].plan if epochs else record.start.plan
    return {
        "end": _end_of(outcome),
        "reason": outcome.reason if outcome else "",
        "failures": outcome.failures if outcome else 0,
        "epochs": len(epochs),
        "best_auc": best.value if best else None,
        "best_epoch": best.epoch if best else 0,
        "final_auc": epochs[-1].value if epochs else None,
        "validation_auc": epochs[-1].validation_auc if epochs else None,
        "final_pauc": epochs[-1].validation_pauc if epochs else None,
        "pseudo_auc": epochs[-1].pseudo_auc if epochs else None,
        "predicted_bytes": record.start.predicted_bytes,
        "predicted_allocated_bytes": _allocated(record),
        "peak_bytes": max((report.peak_bytes for report in epochs), default=0),
        "driver_bytes": max((report.driver_bytes for report in epochs), default=0),
        "cap_bytes": epochs[-1].cap_bytes if epochs else 0,
        **_plan_columns(plan),
        "epoch_seconds": median(report.epoch_seconds for report in epochs) if epochs else None,
        "predicted_epoch_seconds": record.start.predicted_epoch_seconds,
        "hours": sum(report.epoch_seconds for report in epochs) / 3600,
    }


def _end_of(outcome: TrialOutcome | None) -> str:
    if outcome is None:
        return UNFINISHED
    cut = outcome.end is TrialEnd.PRUNED and outcome.reason.startswith(_SEARCH_ENDED)
    return CUT_OFF if cut else outcome.end.value


def _allocated(record: TrialRecord) -> int:
    """Predicted peak of the allocator under the plan of the epoch with the trial's peak; 0 without a prediction."""
    epochs = record.epochs
    largest = max(epochs, key=lambda report: report.peak_bytes, default=None)
    return largest.predicted_allocated_bytes if largest else record.start.predicted_allocated_bytes


def _proposal_row(trial: FrozenTrial | None) -> dict[str, Any] | None:
    """The row of a trial that is in the study only: over budget, or lost before its record was written."""
    if trial is None:
        return None
    attrs = trial.user_attrs
    try:
        outcome = outcome_in(attrs)
    except ValueError as error:
        raise RunError(f"trial {trial.number} of the study says wrongly how it ended: {error}") from None
    if outcome is None:
        return None
    return {
        "end": outcome.end.value,
        "reason": outcome.reason,
        "failures": 0,
        "epochs": 0,
        "best_auc": None,
        "best_epoch": 0,
        "final_auc": None,
        "validation_auc": None,
        "final_pauc": None,
        "pseudo_auc": None,
        "predicted_bytes": int(attrs.get("predicted_bytes") or 0),
        "predicted_allocated_bytes": int(attrs.get("predicted_allocated_bytes") or 0),
        "peak_bytes": 0,
        "driver_bytes": 0,
        "cap_bytes": 0,
        **_plan_columns(None),
        "epoch_seconds": None,
        "predicted_epoch_seconds": None,
        "hours": 0.0,
    }


def _plan_columns(plan: ExecutionPlan | None) -> dict[str, Any]:
    if plan is None:
        return {"plan": "", "micro_batch_clips": 0, "recompute": False, "precision": ""}
    return {
        "plan": plan.describe(),
        "micro_batch_clips": plan.micro_batch_clips,
        "recompute": plan.recompute_encoder or plan.recompute_decoder,
        "precision": plan.precision,
    }


def _known(number: float | None) -> float:
    """A report's number as tables hold it."""
    return float("nan") if number is None else number


def comparison_epoch(epochs: pd.DataFrame, *, share: float = 0.8) -> int:
    """The latest epoch that at least `share` of the trained trials reached.

    ASHA stops weak trials early, so final AUCs compare long trainings with short ones; at this epoch nearly all
    trials are comparable. Raises ValueError if there is no epoch.
    """
    if not len(epochs):
        raise ValueError("no trial has finished an epoch")
    reached = epochs.groupby("epoch")["number"].nunique()
    enough = reached[reached >= share * epochs["number"].nunique()]
    return int(enough.index.max())


def auc_at(epochs: pd.DataFrame, epoch: int) -> pd.Series:
    """Value of each trial that reached an epoch, by trial number."""
    there = epochs[epochs["epoch"] == epoch]
    return there.set_index("number")["value"]
