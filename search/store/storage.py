"""The Optuna storage: opened with every commit forced to disk, and written through Optuna's public methods alone.

A trial begins in one transaction, complete with what is known of it. A report is one transaction. An ending is several,
in an order that a kill between any two leaves readable: first the user attribute ``outcome``, which says everything,
then what people read of it, the state last. A trial that still runs and has an outcome has ended
(`search.store.recovery` writes the rest of it).
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

WRITE_TIMEOUT_SECONDS = 60
"""How long a writer waits for another one before SQLite says that the database is locked."""
CREATE_ATTEMPTS = 5
"""As many as Optuna makes where drivers that share a database are in each other's way."""
OTHER_SPACE = "other_space"
"""User attribute: parameters whose distribution Optuna cannot bring together with that of the study's first trials."""


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
    """Writes trials of one study through the public methods of its storage.

    Parameters
    ----------
    alike
        Whether all trials must have distributions that Optuna can bring together; a study of one run alone may hold
        trials of several spaces, if its user says so. Optuna refuses such a parameter, so that it is kept as a user
        attribute, `OTHER_SPACE`, and put in its place when the trial is read.
    """

    def __init__(self, storage: RDBStorage, study: Study, *, alike: bool = True):
        self._storage = storage
        self._study = study
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._alike = alike
        self._ids: dict[int, int] = {}
        self._settled: set[int] = set()
        """Numbers of the trials that had ended when they were seen."""
        self._first: dict[str, BaseDistribution] | None = None
        """The distribution of each parameter that Optuna compares others with; None until it is asked for."""

    def create(
        self,
        state: TrialState,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        user_attrs: Mapping[str, Any],
        constraints: Mapping[str, float],
    ) -> int:
        """Adds a trial in one transaction, complete with what is known of it, and gives its number.

        Drivers that share the database do not get the same number, and Optuna repeats what a deadlock has undone.

        Raises
        ------
        ValueError
            If the study holds trials with another distribution of a parameter that Optuna cannot bring together.
        """
        other = {} if self._alike else self._of_another_space(distributions)
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

    def _of_another_space(self, distributions: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
        """Those that Optuna would refuse beside the study's first trials; the others are remembered as first ones."""
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

    def seen(self, trial: FrozenTrial) -> None:
        """The trial is known as it stands."""
        if trial.state.is_finished():
            self._settled.add(trial.number)

    def trials(self) -> list[FrozenTrial]:
        """All trials by number, complete; Optuna asks the database for none that it knows to have ended."""
        return [_complete(trial) for trial in self._study.get_trials(deepcopy=False)]

    def fresh(self) -> list[FrozenTrial]:
        """Trials that are new or were unfinished the last time, by number."""
        trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.number not in self._settled]
        for trial in trials:
            self.seen(trial)
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
        """Ends a trial: user attributes one by one in their order, then the constraints, then the state.

        The first attribute must say all of the ending: a trial that a kill leaves with it is ended by a resume.

        Raises
        ------
        StorageInternalError
            If the database refuses the state.
        """
        trial_id = self._ids[number]
        for key, attr in user_attrs.items():
            self._storage.set_trial_user_attr(trial_id, key, attr)
        # The attributes that Optuna itself makes of constraints.
        for key, attr in create_trial(state=TrialState.RUNNING, constraints=dict(constraints)).system_attrs.items():
            self._storage.set_trial_system_attr(trial_id, key, attr)
        if not self._storage.set_trial_state_values(trial_id, state, None if value is None else [value]):
            raise StorageInternalError(f"the state {state.name} of trial {number} was refused")
        del self._ids[number]


def _complete(trial: FrozenTrial) -> FrozenTrial:
    """The trial with the parameters that Optuna refused to take as such."""
    other = trial.user_attrs.get(OTHER_SPACE)
    if not other:
        return trial
    whole = copy(trial)
    whole.params = {**trial.params, **{name: each["value"] for name, each in other.items()}}
    known = {name: json_to_distribution(each["distribution"]) for name, each in other.items()}
    whole.distributions = {**trial.distributions, **known}
    return whole
