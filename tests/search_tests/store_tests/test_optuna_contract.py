"""Optuna's contract of storages on the storage as a study opens it, and no private name of Optuna in the search."""

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage
from optuna.testing.pytest_storages import StorageTestCase

import search
from search.store.storage import open_storage

PACKAGE = Path(search.__file__).parent


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[BaseStorage]:
    level = logging.getLogger("optuna").level
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}")
    yield storage
    storage.engine.dispose()
    logging.getLogger("optuna").setLevel(level)


class TestContract(StorageTestCase):
    """All of Optuna's cases apply: what is opened is its own `RDBStorage`, with its commits forced to disk."""


# ---- no private names ------------------------------------------------------------------------------------------------

OWNERS = (optuna.Study, optuna.Trial, optuna.trial.FrozenTrial, RDBStorage, optuna.samplers.TPESampler)
IN_INSTANCES = {"_storage", "_study_id", "_trial_id", "_backend", "_rng", "_get_trials"}
"""Private attributes that Optuna's objects get when they are made."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(source: str) -> list[str]:
    """Line and name of each private part of Optuna that a source uses."""
    of_optuna = {name for owner in OWNERS for name in dir(owner) if is_private(name)} | IN_INSTANCES
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "optuna":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "optuna"]
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            whose = ast.unparse(node.value)
            if whose.split(".")[0] == "optuna" or (whose not in ("self", "cls") and node.attr in of_optuna):
                names = [f"{whose}.{node.attr}"]
        private = [name for name in names if any(is_private(part) for part in name.split("."))]
        found += [(getattr(node, "lineno", 0), name) for name in private]
    return [f"{line}: {name}" for line, name in sorted(found)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_search_uses_no_private_name_of_optuna(path: Path) -> None:
    found = private_names(path.read_text(encoding="utf-8"))
    assert not found, f"{path}: private names of Optuna, which any version may change: {', '.join(found)}"


def test_private_names_are_found() -> None:
    source = """
from optuna.storages._rdb import models
from optuna.samplers._tpe.sampler import default_gamma
from optuna.storages import _CachedStorage, RDBStorage
import optuna._warnings
optuna.storages._cached_storage
study._storage.get_trial(trial._trial_id)
self._storage.create_new_trial(study.study_name)
"""
    assert private_names(source) == [
        "2: optuna.storages._rdb.models",
        "3: optuna.samplers._tpe.sampler.default_gamma",
        "4: optuna.storages._CachedStorage",
        "5: optuna._warnings",
        "6: optuna.storages._cached_storage",
        "7: study._storage",
        "7: trial._trial_id",
    ]
