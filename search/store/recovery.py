"""Recovery at the start of a search: brings study and folder to the same state and returns all trials.

A driver may have died between any two writes, and a study may have been lost, damaged or moved: afterwards both places
hold all that either knew about this run's trials.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from search.engine.observation import state_of
from search.engine.optuna_trials import to_optuna
from search.engine.trial_store import KnownTrial
from search.store.study import SearchStudy, failures_of, outcome_of, start_of
from spaces.space import Choices, Space
from trainable.errors import RunError
from trainable.record import OtherVersionError, RunFolder, TrialEnd, TrialOutcome, TrialRecord, TrialStart

logger = logging.getLogger(__name__)


def recovered_trials(
    study: SearchStudy, folder: RunFolder, space: Space, *, budget_bytes: int | None
) -> list[KnownTrial]:
    """All trials of the study by number; those of this run are now complete in both places.

    Raises
    ------
    RunError
        If the study lacks trials of the folder that cannot be added, or holds data that no search has written.
    """
    _restore(study, folder, space, budget_bytes)
    found: list[KnownTrial] = []
    for trial in study.trials():
        if not study.is_mine(trial):
            found.append(of_another_driver(study, trial))
        elif trial.state.is_finished():
            found.append(_ended(study, folder, trial))
        else:
            found.append(_running(study, folder, trial))
    return found


def of_another_driver(study: SearchStudy, trial: FrozenTrial) -> KnownTrial:
    """A trial that this run has not started. Raises RunError if its ending cannot be read."""
    with _reading(study, trial):
        return KnownTrial(trial, False, None, outcome_of(trial), dict(trial.intermediate_values))


def _ended(study: SearchStudy, folder: RunFolder, trial: FrozenTrial) -> KnownTrial:
    start, outcome = _checked(study, trial)
    if outcome is None:
        raise RunError(
            f"trial {trial.number} of the study {study.where} has ended, but this search did not record its "
            "ending; was it changed by another program? start a new run, or restore the study from a copy"
        )
    _write_missing(folder, start, outcome)
    with _reading(study, trial):
        _compare(trial, start, outcome, folder.read_trial(trial.number))
        if (trial.state, trial.value) != state_of(outcome):
            raise ValueError(f"its state {trial.state.name} with the value {trial.value} is not that of its ending")
    return KnownTrial(trial, True, start, outcome, dict(trial.intermediate_values), failures_of(trial))


def _running(study: SearchStudy, folder: RunFolder, trial: FrozenTrial) -> KnownTrial:
    """A trial that the previous driver left running."""
    study.adopt(trial)
    start, outcome = _checked(study, trial)
    _write_missing(folder, start, None)
    record = folder.read_trial(start.number)
    with _reading(study, trial):
        _compare(trial, start, outcome or record.outcome, record)
    values = dict(trial.intermediate_values)
    for report in record.epochs:
        if report.epoch not in values:
            study.report(start.number, report.epoch, report.value)
            values[report.epoch] = report.value
    outcome = outcome or record.outcome
    failures = max(failures_of(trial), 0 if outcome is None else outcome.failures)
    return KnownTrial(trial, True, start, outcome, values, failures, record.epochs)


def _checked(study: SearchStudy, trial: FrozenTrial) -> tuple[TrialStart, TrialOutcome | None]:
    """Start and ending of a trial of this run, with every value validated."""
    with _reading(study, trial):
        start, outcome = start_of(trial), outcome_of(trial)
        if not all(type(epoch) is int for epoch in trial.intermediate_values):
            raise ValueError("an epoch is not an integer")
    return start, outcome


def _compare(trial: FrozenTrial, start: TrialStart, outcome: TrialOutcome | None, record: TrialRecord) -> None:
    """Raises ValueError where the study says other things of a trial than the run's folder, which has the same facts.

    The folder may know more: it is written first.
    """
    if (start.params, start.config, start.plan) != (record.start.params, record.start.config, record.start.plan):
        raise ValueError("its parameters, configuration or plan are not those of trial.json")
    if record.outcome is not None and outcome != record.outcome:
        raise ValueError("its ending is not that of end.json")
    reported = {report.epoch: report.value for report in record.epochs}
    missing = reported.keys() - trial.intermediate_values.keys() if trial.state.is_finished() else set()
    if reported and (missing or trial.intermediate_values.keys() - reported.keys()):
        raise ValueError("it has values of other epochs than epochs.jsonl")
    for epoch, value in trial.intermediate_values.items():
        if value != reported.get(epoch, value) and not math.isnan(reported[epoch]):
            raise ValueError(f"its value after epoch {epoch} is {value}, that of epochs.jsonl {reported[epoch]}")


@contextmanager
def _reading(study: SearchStudy, trial: FrozenTrial) -> Iterator[None]:
    """Turns a trial that no search has written so into a RunError that says what to do."""
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        advice = study.if_damaged
        if isinstance(error, OtherVersionError):  # the run's folder holds the same, so that a new study would, too
            advice = "resume with the version that wrote it (manifest.json names its commit), or restore it from a copy"
        raise RunError(
            f"trial {trial.number} of the study {study.where} cannot be read: {' '.join(str(error).split())[:300]}; "
            f"{advice}"
        ) from None


def _write_missing(folder: RunFolder, start: TrialStart, outcome: TrialOutcome | None) -> None:
    """Writes the folder's files that a killed driver did not get to."""
    path = folder.trial_path(start.number)
    if not (path / "trial.json").exists():
        folder.write_start(start)
    if outcome is not None and not (path / "end.json").exists():
        folder.write_outcome(start.number, outcome)


def _restore(study: SearchStudy, folder: RunFolder, space: Space, budget_bytes: int | None) -> None:
    """Adds the trials that only the folder has to the study: it was lost, or the run moved to another one."""
    numbers = folder.numbers()
    if not numbers:
        return
    trials = {trial.number: trial for trial in study.trials()}
    foreign = [number for number in numbers if number in trials and not study.is_mine(trials[number])]
    missing = [number for number in numbers if number not in trials]
    if foreign or missing != list(range(len(trials), len(trials) + len(missing))):
        first = (foreign or missing)[0]
        raise RunError(
            f"the study {study.where} does not hold trial {first} of {folder.path}, and its number is "
            f"{'taken by another run' if foreign else 'not the next one'}; restore the study from a copy, or give "
            "a --study-storage (or --study-name) that is empty: it is then rebuilt from the run's folder"
        )
    if missing:
        logger.warning(
            "the study %s lacks %d of the trials of %s; they are copied from there",
            study.where,
            len(missing),
            folder.path,
        )
    for number in missing:
        _add(study, folder.read_trial(number), space, budget_bytes)


def _add(study: SearchStudy, record: TrialRecord, space: Space, budget_bytes: int | None) -> None:
    """Adds a trial as before its first epoch; its reports and ending are then recovered as after a kill."""
    start, outcome = record.start, record.outcome
    distributions = _distributions(space, start.params)
    if outcome is None and start.plan is None:
        reason = "no plan fits the budget"
        outcome = TrialOutcome(end=TrialEnd.OVER_BUDGET, reason=reason, epochs=0, best_auc=None, final_auc=None)
    if outcome is not None and outcome.end is TrialEnd.OVER_BUDGET:
        # The constraint that repels the sampler must stay violated, whatever the budget is now.
        budget = max(1, min(budget_bytes or start.predicted_bytes, start.predicted_bytes - 1))
        added = study.over_budget(start, distributions, outcome, budget_bytes=budget)
    else:
        added = study.start(start, distributions, budget_bytes=budget_bytes)
    if added.number != start.number:
        raise RunError(
            f"another driver wrote to the study {study.where} while trial {record.start.number} was copied to it; "
            "resume when that driver has ended"
        )


def _distributions(space: Space, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Optuna's distributions of parameters; a value outside the space is the only choice of its distribution."""
    known = {parameter.name: parameter.distribution for parameter in space.parameters}
    return {
        name: to_optuna(known[name] if space.covers({name: value}) else Choices((value,)))
        for name, value in params.items()
    }
