"""The Optuna storage: opened with every commit forced to disk, and written one fact a transaction.

Private parts of optuna 5.0.0 that are used, and why: ``RDBStorage``'s tables directly. `Study.ask` writes a new trial
in one transaction per parameter and attribute, and an ending likewise; here each is one transaction of a few
statements. ``Trial.set_constraint`` stores the system attribute ``constraints:<name>``, and so do we.
"""

import json
import logging
import random
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import delete, event, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session

_CONSTRAINT = "constraints:{}"
WRITE_TIMEOUT_SECONDS = 60
"""How long a writer waits for another one before SQLite says that the database is locked."""
CREATE_ATTEMPTS = 5
"""As many as Optuna makes where drivers that share a database are in each other's way."""


def open_storage(url: str) -> RDBStorage:
    """The storage behind a URL; SQLite in WAL mode, every commit forced to disk.

    ``synchronous=FULL`` rather than NORMAL: in WAL mode NORMAL survives a killed process but may lose the last commits
    when the machine loses power, and a report that was told must stay. It costs one fsync a commit.
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
    storage.engine.dispose()  # connections made before the listener are closed; the next ones have the pragmas
    return storage


def _made_or_found(url: str, engine_kwargs: dict[str, Any]) -> RDBStorage:
    """The storage; of drivers that make its tables at the same moment all but one fail, and find them the next time."""
    for attempt in range(CREATE_ATTEMPTS):
        try:
            return RDBStorage(url, engine_kwargs=engine_kwargs)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            made_meanwhile = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not made_meanwhile or attempt == CREATE_ATTEMPTS - 1:
                raise
            time.sleep(random.random())
    raise AssertionError("the last attempt returns or raises")


class StudyWriter:
    """Writes trials of one study, each fact in one transaction.

    Through Optuna's own tables, in sessions that it makes. Its public methods ask for the trial anew for each parameter
    and attribute, and commit each alone: that was two thirds of the driver's time a trial and eight forced writes.

    Parameters
    ----------
    alike
        Whether all trials must have distributions that Optuna can bring together; a study of one run alone may hold
        trials of several spaces, if its user says so.
    """

    def __init__(self, storage: RDBStorage, study: Study, *, alike: bool = True):
        self._storage = storage
        self._study_id = study._study_id
        self._alike = alike
        self._ids: dict[int, int] = {}
        self._unfinished: set[int] = set()
        self._newest = -1
        self._distributions: dict[str, BaseDistribution] = {}

    def create(
        self,
        state: TrialState,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        user_attrs: Mapping[str, Any],
        constraints: Mapping[str, float],
    ) -> int:
        """Adds a trial, complete with what is known of it, and gives its number.

        Raises
        ------
        ValueError
            If the study holds trials with another distribution of a parameter that Optuna cannot bring together.
        """
        for attempt in range(CREATE_ATTEMPTS):
            try:
                number, trial_id = self._create(state, params, distributions, user_attrs, constraints)
                break
            except optuna.exceptions.StorageInternalError:  # a deadlock with another driver of the same database
                if attempt == CREATE_ATTEMPTS - 1:
                    raise
                time.sleep(random.random())
        self._distributions.update(distributions)
        if not state.is_finished():
            self._ids[number] = trial_id
        return number

    def _create(
        self,
        state: TrialState,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        user_attrs: Mapping[str, Any],
        constraints: Mapping[str, float],
    ) -> tuple[int, int]:
        now = datetime.now()
        with _create_scoped_session(self._storage.scoped_session) as session:
            # Locked until the commit: two drivers must not count the same trials and take the same number.
            models.StudyModel.find_or_raise_by_id(self._study_id, session, for_update=True)
            trial = models.TrialModel(
                study_id=self._study_id,
                number=None,
                state=state,
                datetime_start=now,
                datetime_complete=now if state.is_finished() else None,
            )
            session.add(trial)
            session.flush()
            for name in distributions.keys() - self._distributions.keys() if self._alike else ():
                self._check_compatible(session, name, distributions[name])
            trial_id = int(trial.trial_id)
            rows = [
                {
                    "trial_id": trial_id,
                    "param_name": name,
                    "param_value": distributions[name].to_internal_repr(value),
                    "distribution_json": distribution_to_json(distributions[name]),
                }
                for name, value in params.items()
            ]
            system_attrs = {_CONSTRAINT.format(name): value for name, value in constraints.items()}
            _insert(session, models.TrialParamModel, rows)
            _insert(session, models.TrialUserAttributeModel, _attributes(trial_id, user_attrs))
            _insert(session, models.TrialSystemAttributeModel, _attributes(trial_id, system_attrs))
            trial.number = trial.count_past_trials(session)
            return int(trial.number), trial_id

    def _check_compatible(self, session: Session, name: str, distribution: BaseDistribution) -> None:
        """Once a parameter: that of the study's first trial stays what all others are compared with."""
        query = (
            select(models.TrialParamModel.distribution_json)
            .join(models.TrialModel, models.TrialModel.trial_id == models.TrialParamModel.trial_id)
            .where(models.TrialModel.study_id == self._study_id, models.TrialParamModel.param_name == name)
            .limit(1)
        )
        first = session.execute(query).scalar()
        if first is not None:
            check_distribution_compatibility(json_to_distribution(first), distribution)

    def adopt(self, trial: FrozenTrial) -> None:
        """Takes over a running trial of an earlier process."""
        self._ids[trial.number] = trial._trial_id

    def seen(self, trial: FrozenTrial) -> None:
        """The trial is known as it stands."""
        self._newest = max(self._newest, trial._trial_id)
        (self._unfinished.discard if trial.state.is_finished() else self._unfinished.add)(trial._trial_id)

    def fresh(self) -> list[FrozenTrial]:
        """Trials that are new or were unfinished the last time; asks the database for no others.

        Optuna's own `get_trials` sorts and walks all trials of the study each time. Numbers and ids rise together:
        whoever creates a trial holds the study's row until its commit.
        """
        trials = self._storage._get_trials(self._study_id, None, self._unfinished, self._newest)
        for trial in trials:
            self.seen(trial)
        return trials

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
        """Ends a trial, with what is said of its ending, all at once or not at all."""
        trial_id = self._ids[number]
        system_attrs = {_CONSTRAINT.format(name): violated for name, violated in constraints.items()}
        with _create_scoped_session(self._storage.scoped_session) as session:
            trial: Any = models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            self._storage.check_trial_is_updatable(trial_id, trial.state)
            for model, attrs in (
                (models.TrialUserAttributeModel, user_attrs),
                (models.TrialSystemAttributeModel, system_attrs),
            ):
                if attrs:
                    session.execute(delete(model).where(model.trial_id == trial_id, model.key.in_(list(attrs))))
                    _insert(session, model, _attributes(trial_id, attrs))
            if value is not None:
                stored, kind = models.TrialValueModel.value_to_stored_repr(value)
                row = {"trial_id": trial_id, "objective": 0, "value": stored, "value_type": kind}
                _insert(session, models.TrialValueModel, [row])
            trial.state = state
            trial.datetime_complete = datetime.now()
        del self._ids[number]


def _attributes(trial_id: int, attrs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]


def _insert(session: Session, model: type[Any], rows: list[dict[str, Any]]) -> None:
    if rows:
        session.execute(insert(model), rows)
