"""A study in PostgreSQL: drivers at once, connections that drop, a server that goes and comes back."""

import gc
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.engine.conductor import Conductor
from search.runners.local import LocalRunner
from search.store.study import SearchStudy
from tests.search_tests.synthetic import SyntheticTrial, make_conductor, report_at
from trainable.errors import RunError

pytestmark = [
    # Connections of threads and of servers that are gone: nobody can close them any more.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
PASSWORD = "hunter2secret"


def programs() -> Path | None:
    """Where initdb and postgres lie; Debian has them beside the path."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


class Server:
    """A private server of one database, which only this test knows."""

    def __init__(self, folder: Path, user: str | None):
        self._folder, self._user = folder, user
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        (folder / "password").write_text(PASSWORD)
        if user is not None:
            for path in (folder, folder / "password"):
                shutil.chown(path, user)
        words = ["-D", str(folder / "data"), "-U", "tuner", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        subprocess.run([*self._program("initdb"), *words], check=True, capture_output=True, user=user, cwd=folder)
        self._process: subprocess.Popen[bytes] | None = None

    def _program(self, name: str) -> list[str]:
        folder = programs()
        assert folder is not None
        return [str(folder / name)]

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://tuner:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        import psycopg

        words = ["-D", str(self._folder / "data"), "-p", str(self.port), "-k", str(self._folder)]
        words += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        self._process = subprocess.Popen(
            [*self._program("postgres"), *words],
            user=self._user,
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while True:
            try:
                psycopg.connect(self.url.replace("+psycopg", "")).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, "the server ended by itself"
                time.sleep(0.1)

    def drop_connections(self) -> None:
        import psycopg

        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            connection.execute(query)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.send_signal(2)  # "fast": it does not wait for who is connected
            self._process.wait(timeout=60)
            self._process = None


@pytest.fixture(autouse=True)
def _deleted_here() -> Iterator[None]:
    """What nobody can close is deleted where it is expected, not in a later test."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="psycopg is in the extra `postgres`")
    if programs() is None:
        pytest.skip("needs PostgreSQL's server programs (Debian: apt-get install postgresql)")
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as folder:
        running = Server(Path(folder), user)
        running.start()
        try:
            yield running
        finally:
            running.stop()


def driver(server: Server, path: Path, name: str, **options: object) -> Conductor:
    study = SearchStudy(server.url, path.name, name, shared=True)
    return make_conductor(path / name, study=study, max_epochs=2, grace_period=2, **options)


def dispose(*conductors: Conductor) -> None:
    for conductor in conductors:
        conductor.store.study._writer._storage.engine.dispose()


def test_drivers_at_once_take_numbers_of_their_own_and_see_each_other(server: Server, tmp_path: Path) -> None:
    names = ("a", "b", "c")
    ended: dict[str, Conductor] = {}
    errors: list[BaseException] = []

    def drive(name: str, seed: int) -> None:
        try:
            conductor = driver(server, tmp_path, name, num_samples=6, seed=seed)
            LocalRunner(conductor, store=conductor.store, options=conductor.options, trial_factory=SyntheticTrial).run()
            ended[name] = conductor
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=drive, args=(name, seed)) for seed, name in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    numbers = {name: ended[name].store.folder.numbers() for name in names}
    assert sorted(number for each in numbers.values() for number in each) == list(range(18))
    again = driver(server, tmp_path, "a", num_samples=6)
    assert again.done
    assert again.sampler.history.finished == 18, "all drivers' trials are learned from"
    for trial in again.store.study.trials():
        assert trial.number in numbers[trial.user_attrs["run"]]
        assert trial.state.is_finished()
        assert sorted(trial.intermediate_values) == [1, 2]
    dispose(again, *ended.values())


def test_a_dropped_connection_is_made_again_and_a_lost_server_is_one_line(server: Server, tmp_path: Path) -> None:
    conductor = driver(server, tmp_path, "a", num_samples=2)
    start = conductor.next_trial()
    assert start is not None
    server.drop_connections()
    conductor.report(start.number, report_at(1, 0.6))
    server.stop()
    with pytest.raises(RunError, match=r"cannot be written: .*continue with --resume") as caught:
        conductor.report(start.number, report_at(2, 0.7))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert PASSWORD not in message
    assert "postgresql+psycopg://***@127.0.0.1" in message
    with pytest.raises(RunError, match="cannot be opened") as refused:
        driver(server, tmp_path, "a", num_samples=2)
    assert PASSWORD not in str(refused.value)
    server.start()
    again = driver(server, tmp_path, "a", num_samples=2)
    assert again.started == 1
    LocalRunner(again, store=again.store, options=again.options, trial_factory=SyntheticTrial).run()
    records = again.store.folder.read_trials()
    assert [[report.epoch for report in record.epochs] for record in records] == [[1, 2], [1, 2]]
    assert records[0].epochs[1].validation_auc == 0.7, "what was in the folder alone is reported to the study"
    stored = again.store.study.trials()
    assert [sorted(trial.intermediate_values.items()) for trial in stored] == [
        [(report.epoch, report.validation_auc) for report in record.epochs] for record in records
    ]
    dispose(conductor, again)
