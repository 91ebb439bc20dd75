"""What MLflow is told of a search, by a client in its place; MLflow itself is not among the dependencies."""

import dataclasses
import json
import logging
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

from search.listeners.mlflow import MlflowRuns
from tests.search_tests.listeners_tests.test_progress import ended, report, start
from trainable.errors import ConfigError
from trainable.ray_trainable import ENDED, REPORT
from trainable.record import RunFolder, TrialEnd

URI = "http://127.0.0.1:5000"


class MlflowError(Exception):
    """In the place of mlflow.exceptions.MlflowException."""


class Client:
    """Remembers what it is told; refuses everything once it is `down`."""

    down = False
    server = None

    def __init__(self, tracking_uri):
        if tracking_uri != URI:
            raise MlflowError(f"no store\nat {tracking_uri}")
        self.experiments, self.runs = self.server

    def _answer(self):
        if self.down:
            raise MlflowError("connection refused")

    def get_experiment_by_name(self, name):
        self._answer()
        return self.experiments.get(name)

    def create_experiment(self, name):
        self.experiments[name] = SimpleNamespace(experiment_id="7", lifecycle_stage="active")
        return "7"

    def search_runs(self, experiments, filter_string, max_results):
        assert experiments == ["7"]
        search, trial = re.findall(r"'(.*?)'", filter_string)
        found = [
            SimpleNamespace(info=SimpleNamespace(run_id=run_id))
            for run_id, run in self.runs.items()
            if (run["tags"]["search"], run["tags"]["trial"]) == (search, trial)
        ]
        return found[:max_results]

    def update_run(self, run_id, status):
        self._answer()
        self.runs[run_id]["status"] = status

    def create_run(self, experiment, run_name, tags):
        self._answer()
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = {"experiment": experiment, "name": run_name, "tags": tags, "status": "RUNNING"}
        self.runs[run_id] |= {"params": {}, "metrics": []}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

    def log_batch(self, run_id, metrics=(), params=()):
        self._answer()
        self.runs[run_id]["params"].update({each.key: each.value for each in params})
        self.runs[run_id]["metrics"] += [(each.key, each.value, each.step) for each in metrics]

    def set_tag(self, run_id, key, value):
        self.runs[run_id]["tags"][key] = value

    def set_terminated(self, run_id, status):
        self.runs[run_id]["status"] = status


@pytest.fixture(autouse=True)
def mlflow(monkeypatch):
    module, entities, exceptions = ModuleType("mlflow"), ModuleType("mlflow.entities"), ModuleType("mlflow.exceptions")
    module.__spec__ = SimpleNamespace(name="mlflow")
    module.MlflowClient, module.exceptions = Client, exceptions
    monkeypatch.setattr(Client, "server", ({}, {}))
    exceptions.MlflowException = MlflowError
    entities.Param = lambda key, value: SimpleNamespace(key=key, value=value)
    entities.Metric = lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step)
    for each in (module, entities, exceptions):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    return module


class RayTuneTrial:
    """What the logger sees of a trial of Ray Tune."""

    def __init__(self, number):
        self.start = start(number)
        self.config = {"start": dataclasses.asdict(self.start)}

    def __str__(self):
        return f"trial {self.start.number}"


def told(epoch):
    return {REPORT: json.dumps(report(epoch, 0.5 + 0.1 * epoch).to_dict()), "pid": 1}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "pumps")


def logger_of(folder, identity="pumps-1"):
    return MlflowRuns(URI, "pumps", folder, identity)


def test_a_trial_is_a_run_with_parameters_scalars_by_epoch_and_its_end(folder):
    runs, trial = logger_of(folder), RayTuneTrial(3)
    folder.write_start(trial.start)
    runs.log_trial_start(trial)
    runs.log_trial_result(1, trial, told(1))
    runs.log_trial_result(2, trial, told(2))
    runs.log_trial_result(3, trial, {ENDED: "non_finite"})
    folder.write_outcome(3, ended(TrialEnd.NON_FINITE, 2))
    runs.log_trial_end(trial)
    assert list(runs._client.experiments) == ["pumps"]
    (run,) = runs._client.runs.values()
    assert (run["experiment"], run["name"]) == ("7", "trial 3")
    assert run["tags"] == {"trial": "3", "search": "pumps-1", "end": "non_finite"}
    assert run["params"] == {name: str(value) for name, value in trial.start.params.items()}
    aucs = [(value, step) for name, value, step in run["metrics"] if name == "validation_auc"]
    assert aucs == [(pytest.approx(0.6), 1), (pytest.approx(0.7), 2)]
    assert run["status"] == "FAILED"


def test_a_trial_that_is_tried_again_goes_on_in_its_run(folder):
    runs, trial = logger_of(folder), RayTuneTrial(0)
    folder.write_start(trial.start)
    runs.log_trial_start(trial)
    runs.log_trial_end(trial, failed=True)
    again = RayTuneTrial(0)
    runs.log_trial_start(again)
    (run,) = runs._client.runs.values()
    assert run["status"] == "RUNNING"
    runs.log_trial_result(1, again, told(1))
    folder.write_outcome(0, ended(TrialEnd.PRUNED, 1))
    runs.log_trial_end(again)
    assert [(run["status"], run["tags"]["end"]) for run in runs._client.runs.values()] == [("FINISHED", "pruned")]


def test_a_resumed_search_goes_on_in_the_runs_it_left_and_another_has_its_own(folder):
    first, trial = logger_of(folder), RayTuneTrial(0)
    folder.write_start(trial.start)
    first.log_trial_start(trial)
    first.log_trial_result(1, trial, told(1))
    first.close()  # Ctrl-C: Ray tells loggers nothing of it
    (run,) = first._client.runs.values()
    assert run["status"] == "KILLED"
    resumed = logger_of(folder)
    resumed.log_trial_start(trial)
    assert run["status"] == "RUNNING"
    resumed.log_trial_result(2, trial, told(2))
    assert [step for name, _, step in run["metrics"] if name == "loss"] == [1, 2]
    logger_of(folder, "pumps-2").log_trial_start(trial)
    assert [run["tags"]["search"] for run in Client.server[1].values()] == ["pumps-1", "pumps-2"]


def test_an_end_without_a_beginning_is_no_run(folder, caplog):
    """A worker that was lost before its trial began; Ray tells of the error alone."""
    runs = logger_of(folder)
    runs.on_trial_error(iteration=1, trials=[], trial=RayTuneTrial(0))
    assert not runs.lost
    assert (runs._client.runs, caplog.records) == ({}, [])


def test_a_server_that_goes_away_is_left_alone_after_one_warning(folder, caplog):
    runs, trial = logger_of(folder), RayTuneTrial(0)
    runs.log_trial_start(trial)
    runs._client.down = True
    with caplog.at_level(logging.WARNING):
        runs.log_trial_result(1, trial, told(1))
        runs.log_trial_result(2, trial, told(2))
        runs.log_trial_end(trial)
        runs.log_trial_start(RayTuneTrial(1))
    (record,) = caplog.records
    assert record.getMessage() == f"MLflow at {URI} is told nothing more of this search: connection refused"


def test_a_server_that_does_not_answer_is_said_before_the_search(folder, monkeypatch):
    monkeypatch.setattr(Client, "down", True)
    with pytest.raises(ConfigError, match=r"--mlflow http://127.0.0.1:5000 is not usable: connection refused"):
        logger_of(folder)


def test_an_address_or_experiment_that_cannot_be_used_is_one_line(folder):
    with pytest.raises(ConfigError, match=r"^--mlflow \./mlruns is not usable: no store at \./mlruns$"):
        MlflowRuns("./mlruns", "pumps", folder, "pumps-1")
    Client.server[0]["pumps"] = SimpleNamespace(experiment_id="7", lifecycle_stage="deleted")
    with pytest.raises(ConfigError, match="the experiment pumps is deleted"):
        logger_of(folder)


def test_mlflow_that_is_not_installed_is_said_before_the_search(folder, monkeypatch):
    monkeypatch.delitem(sys.modules, "mlflow")
    monkeypatch.setattr("search.listeners.mlflow.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install mlflow"):
        logger_of(folder)
