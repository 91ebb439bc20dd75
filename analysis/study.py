"""The Optuna study of a run, opened for reading only: what the sampler proposed, and from which ranges."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from trainable.errors import RunError
from trainable.record import RunFolder, RunManifest


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna without its announcements: a reader of results has created no study."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


@dataclass(frozen=True)
class StudyContent:
    """What a study holds: plain objects, no open connection."""

    trials: tuple[FrozenTrial, ...]
    distributions: dict[str, BaseDistribution]
    """Range of each parameter that any trial drew; the first seen where several were."""


def read_study(folder: RunFolder, manifest: RunManifest) -> StudyContent:
    """The study of a run, also while the search writes it.

    Raises
    ------
    RunError
        If the study is missing, cannot be reached or is no study.
    """
    url = manifest.study_storage or read_only_url(folder.study_path)
    where = manifest.study_storage or str(folder.study_path)
    try:
        with quiet_optuna():
            storage = optuna.storages.RDBStorage(url, skip_table_creation=True)
            try:
                study = optuna.load_study(study_name=manifest.study_name, storage=storage)
                trials = tuple(study.get_trials(deepcopy=False))
            finally:
                storage.remove_session()
                storage.engine.dispose()
    except KeyError:
        raise RunError(f"{where} holds no study named {manifest.study_name!r}") from None
    except (SQLAlchemyError, OSError, ValueError, RuntimeError, ImportError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"the study in {where} cannot be read: {first_line}") from None
    distributions: dict[str, BaseDistribution] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            distributions.setdefault(name, distribution)
    return StudyContent(trials, distributions)


def read_only_url(path: Path) -> str:
    """SQLAlchemy's URL of an SQLite file that can be read but not changed. Raises RunError if it is not there."""
    if not path.is_file():
        raise RunError(f"the study {path} does not exist")
    return f"sqlite:///file:{quote(str(path.resolve()))}?mode=ro&uri=true"
