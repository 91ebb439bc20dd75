"""The Optuna storage: opened with every commit forced to disk, and written only through Optuna's public methods.

A trial starts in one transaction with all its attributes. A report is one transaction. An ending is several, in an
order that stays readable if the process is killed between any two: first the user attribute ``outcome``, which is
complete, then the attributes for readers, and the state last. A trial that is still running but has an outcome has
ended (`search.store.recovery` writes the rest).
"""

import logging
import random
import time
from collections.abc import Mapping
from copy import copy
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from trainable.study_address import optuna_address

WRITE_TIMEOUT_SECONDS = 60
"""How long a writer waits for another one before SQLite reports that the database is locked."""
CREATE_ATTEMPTS = 5
"""As many as Optuna makes when drivers that share a database conflict."""
OTHER_SPACE = "other_space"
"""User attribute: parameters whose distribution is incompatible in Optuna with the study's first trials."""


def open_storage(url: str) -> RDBStorage:
    """The storage behind a URL; SQLite in WAL mode, every commit forced to disk.

    ``synchronous=FULL`` rather than NORMAL: in WAL mode NORMAL survives a killed process but may lose the last commits
    when the machine loses power, and a report must never be lost. It costs one fsync per commit.
    """
    logging.getLogger("optuna").setLevel(logging.WARNING)
    if not url.startswith("sqlite"):
        return _made_or_found(url, {"pool_pre_ping": True})
    storage = _made_or_found(url, {"connect_args": {"timeout": WRITE_TIMEOUT_SECONDS}})

    def set_pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    event.listen(storage.engine, "connect", set_pragmas)
    storage.engine.dispose()  # close connections made before the listener: new ones get the pragmas
    return storage


def _made_or_found(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    """The storage. If drivers create its tables at the same time, all but one fail and find them when they retry."""
    for attempt in range(CREATE_ATTEMPTS):
        try:
            return RDBStorage(optuna_address(url), engine_kwargs=engine_kwargs)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            made_meanwhile = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not made_meanwhile or attempt == CREATE_ATTEMPTS - 1:
                raise
            time.sleep(random.random())
    raise AssertionError("the last attempt returns or raises")


class StudyWriter:
    """Writes the trials of one study through the public methods of its storage.

    Parameters
    ----------
    require_compatible
        Whether all trials must have distributions that Optuna considers compatible. A study of a single run may hold
        trials of several spaces (``--allow-changes``). Optuna rejects their incompatible parameters, so these are
        stored in the user attribute `OTHER_SPACE` and restored when the trial is read.
    """

    def __init__(self, storage: RDBStorage, study: Study, *, require_compatible: bool = True):
        self._storage = storage
        self._study = study
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._require_compatible = require_compatible
        self._ids: dict[int, int] = {}
        self._settled: set[int] = set()
        """Numbers of the trials that had ended when they were marked as read."""
        self._first: dict[str, BaseDistribution] | None = None
        """The distribution of each parameter that Optuna compares others with; None until first needed."""

    def create(
        self,
        state: TrialState,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        user_attrs: Mapping[str, Any],
        constraints: Mapping[str, float],
    ) -> int:
        """Adds a trial with all its attributes in one transaction, and returns its number.

        Drivers that share the database get different numbers, and Optuna retries after a deadlock.

        Raises
        ------
        ValueError
            If the study holds a trial with an incompatible distribution of one of the parameters.
        """
        other = {} if self._require_compatible else self._incompatible(distributions)
        attrs = dict(user_attrs)
        if other:
            attrs[OTHER_SPACE] = {
                name: {"value": params[name], "distribution": distribution_to_json(dist)}
                for name, dist in other.items()
            }
        trial = create_trial(
            state=state,
            params={name: value for name, value in params.items() if name not in other},
            distributions={name: dist for name, dist in distributions.items() if name not in other},
            user_attrs=attrs,
            constraints=dict(constraints),
        )
        trial_id = self._storage.create_new_trial(self._study_id, template_trial=trial)
        number = self._storage.get_trial_number_from_id(trial_id)
        if not state.is_finished():
            self._ids[number] = trial_id
        return number

    def _incompatible(self, distributions: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
        """The distributions that Optuna would reject as incompatible with the first ones; records new first ones."""
        if self._first is None:
            self._first = {}
            for trial in self._study.get_trials(deepcopy=False):
                self._first = {**trial.distributions, **self._first}
        other = {}
        for name, distribution in distributions.items():
            try:
                check_distribution_compatibility(self._first.setdefault(name, distribution), distribution)
            except ValueError:
                other[name] = distribution
        return other

    def adopt(self, trial: FrozenTrial) -> None:
        """Takes over a running trial of an earlier process."""
        self._ids[trial.number] = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)

    def mark_read(self, trial: FrozenTrial) -> None:
        """Marks a trial as read; has an effect only if it has ended."""
        if trial.state.is_finished():
            self._settled.add(trial.number)

    def trials(self) -> list[FrozenTrial]:
        """All trials by number, with all parameters; Optuna caches ended trials and does not read them again."""
        return [_complete(trial) for trial in self._study.get_trials(deepcopy=False)]

    def unread_trials(self) -> list[FrozenTrial]:
        """Trials that were new or unfinished at the last call, by number; each call marks them as read."""
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.number not in self._settled]
        for trial in trials:
            self.mark_read(trial)
        return [_complete(trial) for trial in trials]

    def note(self, number: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._ids[number], key, value)

    def report(self, number: int, epoch: int, value: float) -> None:
        self._storage.set_trial_intermediate_value(self._ids[number], epoch, value)

    def finish(
        self,
        number: int,
        state: TrialState,
        value: float | None,
        user_attrs: Mapping[str, Any],
        constraints: Mapping[str, float],
    ) -> None:
        """Ends a trial: writes user attributes one by one in their order, then the constraints, then the state.

        The first attribute must describe the complete ending: if the process is killed after it, a resume ends the
        trial.

        Raises
        ------
        StorageInternalError
            If the database rejects the state.
        """
        trial_id = self._ids[number]
        for key, attr in user_attrs.items():
            self._storage.set_trial_user_attr(trial_id, key, attr)
        # Optuna stores constraints as system attributes.
        for key, attr in create_trial(state=TrialState.RUNNING, constraints=dict(constraints)).system_attrs.items():
            self._storage.set_trial_system_attr(trial_id, key, attr)
        if not self._storage.set_trial_state_values(trial_id, state, None if value is None else [value]):
            raise StorageInternalError(f"the state {state.name} of trial {number} was rejected")
        del self._ids[number]


def _complete(trial: FrozenTrial) -> FrozenTrial:
    """The trial with the parameters that Optuna rejected."""
    other = trial.user_attrs.get(OTHER_SPACE)
    if not other:
        return trial
    whole = copy(trial)
    whole.params = {**trial.params, **{name: each["value"] for name, each in other.items()}}
    known = {name: json_to_distribution(each["distribution"]) for name, each in other.items()}
    whole.distributions = {**trial.distributions, **known}
    return whole
