"""Reads the Optuna study of a run without changing it: what the sampler proposed, and from which ranges."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from trainable.errors import RunError
from trainable.record import RunFolder, RunManifest
from trainable.study_address import optuna_address, sqlite_address


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silences Optuna: its messages announce a new study, but reading results creates none."""
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
    """The content of a study as plain objects, without an open connection."""

    trials: tuple[FrozenTrial, ...]
    distributions: dict[str, BaseDistribution]
    """Range of each parameter that any trial drew; if there were several, the first."""


def read_study(folder: RunFolder, manifest: RunManifest) -> StudyContent:
    """Reads the study of a run, even while the search writes it.

    Raises
    ------
    RunError
        If the study is missing, cannot be reached or is not a study.
    """
    urls = read_only_urls(folder.study_path) if manifest.study_storage is None else (manifest.study_storage,)
    where = manifest.study_storage or str(folder.study_path)
    try:
        try:
            trials = _read_trials(urls[0], manifest.study_name)
        except OperationalError:
            if len(urls) == 1:
                raise
            trials = _read_trials(urls[1], manifest.study_name)
    except KeyError:
        raise RunError(f"{where} holds no study named {manifest.study_name!r}") from None
    except (SQLAlchemyError, StorageInternalError, OSError, ValueError, RuntimeError, ImportError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"the study in {where} cannot be read: {first_line}") from None
    distributions: dict[str, BaseDistribution] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            distributions.setdefault(name, distribution)
    return StudyContent(trials, distributions)


def _read_trials(url: str, study_name: str) -> tuple[FrozenTrial, ...]:
    with quiet_optuna():
        storage = optuna.storages.RDBStorage(optuna_address(url), skip_table_creation=True)
        try:
            study = optuna.load_study(study_name=study_name, storage=storage)
            return tuple(study.get_trials(deepcopy=False))
        except StorageInternalError as error:
            # Optuna reports every failure as one "during the commit"; the cause says what happened.
            if isinstance(error.__cause__, SQLAlchemyError):
                raise error.__cause__ from None
            raise
        finally:
            storage.remove_session()
            storage.engine.dispose()


def read_only_urls(path: Path) -> tuple[str, ...]:
    """SQLAlchemy URLs that open an SQLite file read-only, in the order to try them.

    Even reading a database in WAL mode needs a small file beside it. In a read-only folder (an archive, a mounted
    snapshot) the database can be opened as immutable, which is correct if nobody writes to it: then there is no WAL.
    Raises RunError if the file does not exist.
    """
    if not path.is_file():
        raise RunError(f"the study {path} does not exist")
    plain = sqlite_address(path, mode="ro")
    has_wal = path.with_name(path.name + "-wal").exists()
    return (plain,) if has_wal else (plain, sqlite_address(path, mode="ro", immutable="1"))
