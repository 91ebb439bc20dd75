"""What MLflow is told of a search, asked of a real MLflow server on this machine."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.engine.asha import Decision
from search.listeners import mlflow as listener
from search.listeners.mlflow import MlflowRuns
from search.run import main
from tests.analysis_tests.trained import write_recordings
from tests.search_tests.listeners_tests.test_progress import ended, report, start
from trainable.errors import ConfigError
from trainable.record import RunFolder, TrialEnd

pytestmark = [pytest.mark.xdist_group("mlflow")]

QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


class Server:
    """``mlflow server`` with a database of its own."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        self._log = (folder / "server.log").open("w")
        words = [
            "server",
            "--backend-store-uri",
            f"sqlite:///{folder}/mlflow.db",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            cwd=folder,
            env={**os.environ, **QUIET},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        until = time.monotonic() + 120
        while not self._answers():
            assert self._process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < until, f"no answer in time: {(folder / 'server.log').read_text()}"
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Waits of this listener alone, gone after the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def experiment(request) -> str:
    return request.node.name


def listen(server: Server, experiment: str, identity: str = "pumps-1") -> MlflowRuns:
    return MlflowRuns(server.uri, experiment, space="pumps", identity=identity)


def runs_of(server: Server, experiment: str) -> list:
    """Runs of an experiment, the oldest first."""
    client = MlflowClient(server.uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"]))


def scalar(server: Server, run, name: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in MlflowClient(server.uri).get_metric_history(run.info.run_id, name)]


def test_a_trial_is_a_run_with_parameters_scalars_by_epoch_and_its_end(server, experiment):
    trial = start(3, num_embeddings=64, learning_rate=0.00125)
    with listen(server, experiment) as runs:
        runs.on_start(trial, resumed=False)
        runs.on_report(3, report(1, 0.6), Decision.CONTINUE)
        runs.on_report(3, report(2, float("nan")), Decision.STOP)
        runs.on_end(trial, ended(TrialEnd.NON_FINITE, 2))
    assert not runs.lost
    (run,) = runs_of(server, experiment)
    label = "pumps 00003 num_embeddings=64 learning_rate=0.00125"
    assert run.info.run_name == label
    assert run.data.tags == {"mlflow.runName": label, "trial": "3", "search": "pumps-1", "end": "non_finite"}
    assert run.data.params == {"num_embeddings": "64", "learning_rate": "0.00125"}
    assert set(run.data.metrics) == set(report(1, 0.6).scalars())
    assert scalar(server, run, "validation_auc") == [
        (1, pytest.approx(0.6)),
        (2, pytest.approx(float("nan"), nan_ok=True)),
    ]
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("end", [each for each in TrialEnd if each is not TrialEnd.OVER_BUDGET])
def test_how_a_trial_ended_is_a_tag_and_a_failure_fails(server, experiment, end):
    runs = listen(server, experiment)
    runs.on_start(start(0), resumed=False)
    runs.on_end(start(0), ended(end, 1))
    (run,) = runs_of(server, experiment)
    failed = end in (TrialEnd.OUT_OF_MEMORY, TrialEnd.NON_FINITE, TrialEnd.CRASHED)
    assert (run.data.tags["end"], run.info.status) == (end.value, "FAILED" if failed else "FINISHED")


def test_a_resumed_search_goes_on_in_the_runs_it_left_and_another_has_its_own(server, experiment):
    trial = start(0, latent_dim=8)
    first = listen(server, experiment)
    first.on_start(trial, resumed=False)
    first.on_report(0, report(1, 0.6), Decision.CONTINUE)
    first.close()  # Ctrl-C
    assert [run.info.status for run in runs_of(server, experiment)] == ["KILLED"]
    resumed = listen(server, experiment)
    resumed.on_start(trial, resumed=True)
    assert [run.info.status for run in runs_of(server, experiment)] == ["RUNNING"]
    resumed.on_report(0, report(2, 0.7), Decision.STOP)
    resumed.on_end(trial, ended(TrialEnd.COMPLETED, 2))
    resumed.close()
    another = listen(server, experiment, "pumps-2")
    another.on_start(trial, resumed=True)  # begun before MLflow was told of its search
    another.close()
    one, two = runs_of(server, experiment)
    assert [step for step, _ in scalar(server, one, "loss")] == [1, 2]
    assert (one.info.status, one.data.tags["search"]) == ("FINISHED", "pumps-1")
    assert (two.info.status, two.data.tags["search"]) == ("KILLED", "pumps-2")
    assert two.data.params == {"latent_dim": "8"}


def test_a_proposal_over_budget_is_no_run(server, experiment):
    runs = listen(server, experiment)
    runs.on_end(start(0), ended(TrialEnd.OVER_BUDGET, 0, None))
    runs.close()
    assert not runs.lost
    assert runs_of(server, experiment) == []


def test_a_server_that_goes_away_is_left_alone_after_one_warning(tmp_path, experiment, caplog):
    server = Server(tmp_path)
    try:
        runs = listen(server, experiment)
        runs.on_start(start(0), resumed=False)
    finally:
        server.stop()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        runs.on_report(0, report(1, 0.6), Decision.CONTINUE)
        waited = time.monotonic() - began
        runs.on_report(0, report(2, 0.6), Decision.CONTINUE)
        runs.on_end(start(0), ended(TrialEnd.COMPLETED, 2))
        runs.on_start(start(1), resumed=False)
        runs.close()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"MLflow at {server.uri} failed and receives nothing more: ")
    assert "\n" not in record.getMessage()
    assert waited < 30, "MLflow's own retries take minutes"
    assert time.monotonic() - began < waited + 1, "only what found it away may wait for it"


def test_a_server_that_hangs_is_said_within_the_time_the_user_gave(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ConfigError, match=rf"^--mlflow {uri} cannot be used: .*timed out"):
            MlflowRuns(uri, "pumps", space="pumps", identity="pumps-1")
        assert time.monotonic() - began < 30


def test_a_server_that_is_not_there_is_said_before_the_search():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"^--mlflow {uri} cannot be used: .*refused"):
            MlflowRuns(uri, "pumps", space="pumps", identity="pumps-1")


@pytest.mark.parametrize("uri", ["./mlruns", "nonsense://here"])
def test_an_address_that_cannot_be_used_is_one_line(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^--mlflow {re.escape(uri)} cannot be used: [^\n]+$"):
        MlflowRuns(uri, "pumps", space="pumps", identity="pumps-1")


def test_a_deleted_experiment_is_said_before_the_search(server, experiment):
    client = MlflowClient(server.uri)
    client.delete_experiment(client.create_experiment(experiment))
    with pytest.raises(ConfigError, match=f"the experiment {experiment} was deleted"):
        listen(server, experiment)


def test_mlflow_that_is_not_installed_is_said_before_the_search(monkeypatch):
    monkeypatch.setattr(listener, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install mlflow-skinny"):
        MlflowRuns("http://127.0.0.1:5000", "pumps", space="pumps", identity="pumps-1")


def test_what_the_user_set_of_mlflow_stays(server, experiment, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    listen(server, experiment)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"


SPACE = """
parameters:
  num_embeddings: {choices: [4, 8]}
fixed: {width: 0.25, latent_dim: 4, batch_size: 4, n_patches: 1, stride: 32, head_hidden: 8, density: counts}
search: {num_samples: 3, max_epochs: 2, grace_period: 1, reduction_factor: 3}
"""


def test_a_search_in_this_process_is_told_to_mlflow_and_gives_nothing_away(server, experiment, tmp_path, monkeypatch):
    """Ends, epochs and parameters there are those of the run's folder; the credentials of its server are nowhere."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "Pa55-word")
    (tmp_path / "space.yaml").write_text(SPACE)
    recordings = write_recordings(tmp_path / "machines", machine_type="press")
    folder = RunFolder(tmp_path / "press")
    told = ["--mlflow", server.uri, "--local", "--quiet", "--output", str(folder.path)]
    data = ["--data-root", str(recordings), "--machine-type", "press"]
    assert main(["--space", str(tmp_path / "space.yaml"), *data, *told]) == 0
    runs = {int(run.data.tags["trial"]): run for run in runs_of(server, "press")}
    records = folder.read_trials()
    assert set(runs) == {record.number for record in records} == {0, 1, 2}
    for record in records:
        run = runs[record.number]
        assert record.outcome is not None
        assert run.data.tags["end"] == record.outcome.end.value
        assert run.data.params == {name: str(value) for name, value in record.start.used.items()}
        aucs = [(each.epoch, pytest.approx(each.validation_auc)) for each in record.epochs]
        assert scalar(server, run, "validation_auc") == aucs
        assert "Pa55-word" not in str(run.to_dictionary())
    for path in folder.path.rglob("*"):
        assert not path.is_file() or b"Pa55-word" not in path.read_bytes(), path
    assert threading.active_count() < 20, "nothing is left waiting"
