"""Addresses of studies: whatever a path or a password holds, the file that was meant is opened."""

import os
import sqlite3
from pathlib import Path

import pytest
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, make_url, text

from trainable.study_address import optuna_address, sqlite_address

NAMES = ["plain", "p q", "p%20q", "feature%2Fx", "a?b=c&d", "a#b", "{0}", "file:", ":memory:", "é", "+", "%", "\udce9"]


@pytest.mark.parametrize("name", NAMES)
def test_the_file_that_was_meant_is_opened_and_no_other(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "study.db"
    path.parent.mkdir()
    with create_engine(sqlite_address(path)).begin() as connection:
        connection.execute(text("CREATE TABLE trials (number INTEGER)"))
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]
    database = sqlite3.connect(path)
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == [("trials",)]
    database.close()
    engine = create_engine(sqlite_address(path, mode="ro", immutable="1"))
    with engine.connect() as connection, pytest.raises(Exception, match="readonly database"):
        connection.execute(text("DROP TABLE trials"))
    engine.dispose()


def test_a_relative_path_is_that_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = sqlite_address(Path("study.db"))
    monkeypatch.chdir(os.sep)
    create_engine(address).connect().close()
    assert (tmp_path / "study.db").exists()


def test_braces_reach_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna formats addresses."""
    url = "postgresql://bob:{hunter}2@db/ad"
    formatted = RDBStorage._fill_storage_url_template(optuna_address(url))
    assert make_url(formatted).password == "{hunter}2"
