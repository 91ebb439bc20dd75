"""The durable study: every start, report and ending is in the Optuna storage before the search continues.

How our endings map to Optuna's states (the user attribute ``end`` keeps our own name, see `TrialEnd`):

=============  ========  =============================================================================
our name       state     why
=============  ========  =============================================================================
completed      COMPLETE  its value is that of the *last* epoch: choosing the best epoch on the
                         same clips would overestimate it
pruned         PRUNED    with its intermediate values, so that TPE ranks it after completed trials
over_budget    PRUNED    constraint ``memory`` = log(predicted / budget) > 0; never trained
out_of_memory  PRUNED    constraint ``failure`` = 1 > 0: Optuna ignores FAIL, and the sampler would return to
non_finite     PRUNED    the failing region; a violated constraint repels it, whatever AUC the trial had
crashed        PRUNED    before
=============  ========  =============================================================================
"""

import logging
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from search.engine.observation import failure_constraint, memory_constraint, state_of
from search.store.storage import StudyWriter, open_storage
from trainable.config import Objective
from trainable.errors import RunError
from trainable.record import TrialOutcome, TrialStart, outcome_in
from trainable.redaction import redact, without_secrets
from trainable.study_address import sqlite_address
from trainable.units import MIB

logger = logging.getLogger(__name__)

_FAILURES = "failures"
_OBJECTIVE = "objective"
"""User attribute of a study whose values are not AUCs on labelled clips."""
_START = ("config", "plan", "predicted_bytes", "predicted_allocated_bytes", "predicted_epoch_seconds")
"""User attributes set when a trial starts."""


class SearchStudy:
    """One Optuna study, written by this run and possibly by others.

    Parameters
    ----------
    url
        Storage, ``sqlite:///…`` or another database.
    name
        Study name in that storage.
    run
        This run's identity: a study may hold trials of several drivers, and each driver handles only its own.
    shared
        Whether other drivers may write too: their trials (`unread_trials`) must have compatible distributions.
    objective
        What the trials' values are; drivers of one study must agree.
    path
        The file behind the URL, if it is in this run's folder: all that it holds is in the folder, too.

    Raises
    ------
    RunError
        If the storage cannot be opened, or later, in any method, cannot be read or written; the message names it.
    """

    def __init__(
        self,
        url: str,
        name: str,
        run: str,
        *,
        shared: bool = False,
        objective: Objective = Objective.LABELS,
        path: Path | None = None,
    ):
        self.url, self.name, self.run, self.shared, self.path = url, name, run, shared, path
        try:
            storage = open_storage(url)
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True
            )
            self._writer = StudyWriter(storage, self._study, require_compatible=shared)
        except Exception as error:  # many types; none may reveal the password
            otherwise = "check the address, the driver (psycopg for postgresql) and the access rights"
            raise RunError(
                f"study storage {self.where} cannot be opened: {_reason(error, url)}; "
                f"{self._advice(error, otherwise=otherwise)}"
            ) from None
        self._claim(objective)

    @classmethod
    def in_folder(
        cls, path: Path, name: str, run: str | None = None, *, objective: Objective = Objective.LABELS
    ) -> "SearchStudy":
        """The study in a run's folder, ``study.db``; the run's identity defaults to the study's name."""
        return cls(sqlite_address(path), name, run or name, objective=objective, path=path)

    def _claim(self, objective: Objective) -> None:
        """Writes down what the values are, or raises RunError if trials with other values are there."""
        with self._writing():
            known = self._study.user_attrs.get(_OBJECTIVE)
        # A study from before there was a choice has none written down.
        theirs = Objective(known or Objective.LABELS)
        if theirs is not objective and (known is not None or self.trials()):
            raise RunError(
                f"the study {self.name} at {self.where} holds trials judged by {theirs.measure}, and this "
                f"search judges by {objective.measure}; name another --study-name, or give --objective {theirs.value}"
            )
        with self._writing(), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if known is None and objective is not Objective.LABELS:
                self._study.set_user_attr(_OBJECTIVE, objective.value)
            if self._study.metric_names is None:
                self._study.set_metric_names([objective.metric])

    @property
    def optuna_study(self) -> optuna.Study:
        """The Optuna study, for reading (analysis, dashboards, tests)."""
        return self._study

    @property
    def where(self) -> str:
        """The storage's name in messages: a file, or an address without credentials."""
        return redact(self.url) if self.path is None else str(self.path)

    @property
    def if_damaged(self) -> str:
        """What to do about content that cannot be read."""
        if self.path is None:
            return "restore it from a copy"
        name = self.path.name
        return (
            "restore it from a copy, or move it away and resume: it is rebuilt from the run's folder "
            f"({name}-wal and {name}-shm go with it)"
        )

    def trials(self) -> list[FrozenTrial]:
        """All trials of the study, including other drivers', by number."""
        with self._reading():
            return self._writer.trials()

    def unread_trials(self) -> list[FrozenTrial]:
        """Trials that were new or unfinished at the last call, by number; each call marks them as read."""
        with self._reading():
            return self._writer.unread_trials()

    def mark_read(self, trial: FrozenTrial) -> None:
        """Marks a trial as read: `unread_trials` leaves it out if it has ended."""
        self._writer.mark_read(trial)

    def is_mine(self, trial: FrozenTrial) -> bool:
        return bool(trial.user_attrs.get("run") == self.run)

    def start(
        self,
        known: TrialStart,
        distributions: Mapping[str, BaseDistribution],
        *,
        budget_bytes: int | None = None,
        draws: int = 1,
    ) -> TrialStart:
        """Adds a running trial and returns what is known of it, with the number that the study gives it.

        Parameters
        ----------
        draws
            Candidates that the sampler checked until this one fitted, including it.
        """
        return self._add(TrialState.RUNNING, known, distributions, budget_bytes, {"draws": draws})

    def over_budget(
        self,
        known: TrialStart,
        distributions: Mapping[str, BaseDistribution],
        outcome: TrialOutcome,
        *,
        budget_bytes: int,
        draws: int = 1,
    ) -> TrialStart:
        """Adds a trial that was never started, in one transaction; returns what is known of it, with its number."""
        further = {"outcome": asdict(outcome), "draws": draws}
        return self._add(TrialState.PRUNED, known, distributions, budget_bytes, further)

    def _add(
        self,
        state: TrialState,
        known: TrialStart,
        distributions: Mapping[str, BaseDistribution],
        budget_bytes: int | None,
        further: Mapping[str, Any],
    ) -> TrialStart:
        values = known.to_dict()
        attrs = {
            "run": self.run,
            **{name: values[name] for name in _START if name == "plan" or values[name] is not None},
            **further,
            **_memory_for_readers(known.predicted_bytes, budget_bytes),
        }
        constraints = memory_constraint(known.predicted_bytes, budget_bytes)
        with self._writing():
            number = self._writer.create(state, known.params, distributions, attrs, constraints)
        return replace(known, number=number)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Writes an intermediate value."""
        with self._writing():
            self._writer.report(number, epoch, value)

    def restarted(self, number: int, failures: int) -> None:
        """Writes how often a running trial has failed and resumed from its checkpoint."""
        with self._writing():
            self._writer.note(number, _FAILURES, failures)

    def finish(self, number: int, outcome: TrialOutcome, attributes: Mapping[str, Any] | None = None) -> None:
        """Ends a trial: writes its complete outcome first, then other user attributes, and its state last."""
        attrs = {"outcome": asdict(outcome), **(attributes or {})}
        constraints = failure_constraint(outcome)
        with self._writing():
            self._writer.finish(number, *state_of(outcome), attrs, constraints)

    def adopt(self, trial: FrozenTrial) -> None:
        """Takes over a trial that an earlier process of this run left running."""
        self._writer.adopt(trial)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns errors from a full disk, a lost connection or another space's trials into a one-line RunError."""
        try:
            yield
        except (StorageInternalError, SQLAlchemyError, sqlite3.Error, OSError) as error:
            otherwise = "make room or restore access to it, and continue with --resume"
            raise RunError(
                f"the study {self.where} cannot be written: {_reason(error, self.url)}; "
                f"{self._advice(error, otherwise=otherwise)}"
            ) from None
        except ValueError as error:  # from Optuna, for incompatible distributions
            raise RunError(
                f"the study {self.name} at {self.where} holds trials of another space: {_reason(error, self.url)}; "
                "name another --study-name"
            ) from None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Optuna raises many types for a damaged database
            advice = self._advice(error, otherwise=self.if_damaged)
            raise RunError(f"the study {self.where} cannot be read: {_reason(error, self.url)}; {advice}") from None

    def _advice(self, error: BaseException, *, otherwise: str) -> str:
        """What to do about an error: what SQLite or Optuna says is wrong, or `otherwise` where neither does."""
        code = getattr(_cause(error), "sqlite_errorname", "")
        for start, advice in _SQLITE_ADVICE.items():
            if code.startswith(start):
                return advice
        if code.startswith(_SQLITE_DAMAGE):
            return self.if_damaged
        if isinstance(error, RuntimeError):
            return "it is another Optuna's: use that version, or upgrade a copy of the study (optuna storage upgrade)"
        return otherwise


def _memory_for_readers(predicted_bytes: int, budget_bytes: int | None) -> dict[str, float]:
    """User attributes for dashboards, which show none of Optuna's named constraints; nothing here reads them."""
    if predicted_bytes <= 0:
        return {}
    memory = {"predicted_MiB": round(predicted_bytes / MIB, 1)}
    if budget_bytes is not None:
        memory["predicted_share_of_budget"] = round(predicted_bytes / budget_bytes, 4)
    return memory


_SQLITE_ADVICE = {
    "SQLITE_FULL": "make room, and continue with --resume",
    "SQLITE_BUSY": "another program holds it: end that one, or wait, and continue with --resume",
    "SQLITE_LOCKED": "another program holds it: end that one, or wait, and continue with --resume",
    "SQLITE_CANTOPEN": "check that its folder is there and that you may write to both, and continue with --resume",
    "SQLITE_PERM": "check that you may write to it and to its folder, and continue with --resume",
    "SQLITE_READONLY": "check that you may write to it and to its folder, and continue with --resume",
    "SQLITE_IOERR": "check the disk and its free space, and continue with --resume",
}
"""What to do by the start of SQLite's name for an error."""
_SQLITE_DAMAGE = ("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_ERROR")
"""No database, or one with a damaged page, or without a table or column of Optuna's."""


def _cause(error: BaseException) -> BaseException:
    """The innermost cause: what the database's driver raised, if it was one."""
    cause = error.__cause__ or error
    return getattr(cause, "orig", None) or cause


def _reason(error: BaseException, url: str) -> str:
    """The innermost cause in one line, without credentials."""
    cause = _cause(error)
    kind = type(cause).__name__
    lines = str(cause).split("\n")
    return without_secrets(" ".join(lines[0].split()) or kind, url, otherwise=kind)[:300]


def outcome_of(trial: FrozenTrial) -> TrialOutcome | None:
    """How a trial of the study ended; None if that was not written."""
    return outcome_in(trial.user_attrs)


def start_of(trial: FrozenTrial) -> TrialStart:
    """What was known about a trial before its first epoch. Raises ValueError if the study lacks it."""
    attrs = {name: trial.user_attrs[name] for name in _START if name in trial.user_attrs}
    return TrialStart.from_dict({"number": trial.number, "params": dict(trial.params), **attrs})


def failures_of(trial: FrozenTrial) -> int:
    """How often a trial of the study has failed and resumed from its checkpoint."""
    count = trial.user_attrs.get(_FAILURES, 0)
    return count if isinstance(count, int) else 0
