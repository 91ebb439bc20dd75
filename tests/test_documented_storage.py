"""Documented searches with checkpoints in an object store or the study in PostgreSQL, on servers that are there."""

import gc
import shlex
from pathlib import Path

import optuna
import pytest

from tests.reader import DOCUMENTS, Command, appended, own_folder, reader, run_module, shown
from tests.search_tests.store_tests.test_postgres import Server
from tests.search_tests.store_tests.test_postgres import server as database
from tests.search_tests.test_checkpoint_place import BUCKET
from tests.search_tests.test_checkpoint_place import server as object_store
from trainable.checkpoint_place import CheckpointPlace

__all__ = ["database", "object_store", "own_folder", "reader"]  # fixtures
pytestmark = [
    # Connections of engines that the command leaves to the end of its process.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
SEARCHES = [command for document in DOCUMENTS for command in shown(document) if "search.run" in command.text]


def run_here(command: Command, placeholder: str, address: str) -> None:
    """A documented search, cheap and in this process, with the address of a server that is there."""
    assert placeholder in command.text
    words = shlex.split(f"{command.text} {appended(command.text)}")
    run_module([word.replace(placeholder, address) for word in words[2:]])


def test_the_documented_object_store_holds_the_winners_checkpoint(object_store: str, own_folder: Path) -> None:
    (command,) = [search for search in SEARCHES if "endpoint_override" in search.text]
    address = f"s3://{BUCKET}/documented?endpoint_override={object_store}"
    run_here(command, "s3://bucket/checkpoints?endpoint_override=minio:9000", address)
    (run,) = CheckpointPlace(f"{address}&scheme=http").names()
    assert run.startswith("minio-")
    assert not list((own_folder / "runs/minio").glob("trials/*/checkpoints/*.ckpt"))


def test_the_documented_drivers_share_a_study_in_postgresql(database: Server, own_folder: Path) -> None:
    commands = [search for search in SEARCHES if "postgresql://" in search.text]
    assert len(commands) == 2
    for command in commands:
        run_here(command, "postgresql://tuner@db/studies", database.url.replace("+psycopg", ""))
    trials = optuna.load_study(study_name="fans", storage=database.url).trials
    assert len({trial.user_attrs["run"] for trial in trials}) == 2
    del trials
    gc.collect()
