"""Several drivers at once on one study storage; and Optuna's own dashboard on a run's study as it is."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest

from tests.analysis_tests.trained import write_recordings
from tests.search_tests.test_run import SPACE
from trainable.record import RunFolder

TRIALS = 3


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("machines"), machine_type="press", train=6, test=4)


def begin(
    machine: Path, folder: Path, name: str, *more: str, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    space = folder / "space.yaml"
    space.write_text(SPACE.replace("width: 0.25", "width: 0.125"))
    command = [sys.executable, "-m", "search.run", "--space", str(space), "--data-root", str(machine)]
    command += ["--machine-type", "press", "--num-samples", str(TRIALS), "--output", str(folder / name), *more]
    environment = None if env is None else {**os.environ, **env}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def end(*processes: subprocess.Popen[str], warning: str | None = None) -> list[str]:
    """Output of each; all of them must have ended well, with nothing on stderr but one line with the `warning`."""
    told = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert err == "" if warning is None else (err.count("\n") == 1 and warning in err)
        told.append(out)
    return told


def numbers(path: Path) -> list[int]:
    return [record.number for record in RunFolder(path).read_trials()]


def test_two_drivers_share_a_study_and_two_others_do_not_disturb_each_other(machine, tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"

    def driver(run: str, study: str, seed: int) -> subprocess.Popen[str]:
        flags = ["--local", "--study-storage", url, "--study-name", study, "--seed", str(seed)]
        flags += ["--grace-period", "3"]  # as many as there are epochs: none is stopped for what another driver found
        return begin(machine, tmp_path, run, *flags)

    warning = "no trial will be stopped early"
    end(driver("a", "together", 1), driver("b", "together", 2), driver("c", "alone", 3), warning=warning)
    together = optuna.load_study(study_name="together", storage=url).trials
    alone = optuna.load_study(study_name="alone", storage=url).trials
    ids = {run: RunFolder(tmp_path / run).read_manifest().identity for run in "abc"}
    assert Counter(trial.user_attrs["run"] for trial in together) == {ids["a"]: TRIALS, ids["b"]: TRIALS}
    assert Counter(trial.user_attrs["run"] for trial in alone) == {ids["c"]: TRIALS}
    assert sorted(numbers(tmp_path / "a") + numbers(tmp_path / "b")) == list(range(2 * TRIALS))
    assert numbers(tmp_path / "c") == list(range(TRIALS))
    for run, trials in (("a", together), ("b", together), ("c", alone)):
        for number in numbers(tmp_path / run):
            record, trial = RunFolder(tmp_path / run).read_trial(number), trials[number]
            assert trial.user_attrs["run"] == ids[run]
            assert trial.params == record.start.params
            assert trial.state.is_finished()
            assert trial.user_attrs["outcome"]["end"] == record.outcome.end
            reported = {report.epoch: report.validation_auc for report in record.epochs}
            assert trial.intermediate_values == pytest.approx(reported)
    # A third driver adds its trials and leaves the others as they are.
    end(driver("d", "together", 4), warning=warning)
    again = optuna.load_study(study_name="together", storage=url).trials
    assert numbers(tmp_path / "d") == list(range(2 * TRIALS, 3 * TRIALS))
    assert [trial.params for trial in again[: 2 * TRIALS]] == [trial.params for trial in together]


@pytest.mark.long
def test_two_ray_searches_at_once_on_one_machine(machine, tmp_path):
    told = end(*(begin(machine, tmp_path, name, "--concurrency", "1") for name in ("a", "b")))
    for name, out in zip(("a", "b"), told, strict=True):
        assert f"{TRIALS} trials:" in out
        assert numbers(tmp_path / name) == list(range(TRIALS))
    addresses = {line.split()[1] for out in told for line in out.splitlines() if line.startswith("dashboard: ")}
    assert len(addresses) == 2


@pytest.mark.long
def test_two_searches_at_once_on_one_cluster_and_one_storage(machine, tmp_path):
    from ray.cluster_utils import Cluster

    url = f"sqlite:///{tmp_path / 'shared.db'}"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        flags = ["--address", cluster.address, "--study-storage", url, "--concurrency", "1", "--grace-period", "3"]
        tokens = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        refused = begin(machine, tmp_path, "refused", *flags, env=tokens)
        _, err = refused.communicate(timeout=240)
        assert refused.returncode == 2
        assert err.count("\n") == 1
        assert f"the cluster at --address {cluster.address} loses every worker of this search" in err
        searches = [
            begin(machine, tmp_path, name, *flags, "--seed", seed, env={"RAY_AUTH_MODE": "disabled"})
            for name, seed in (("a", "1"), ("b", "2"))
        ]
        end(*searches, warning="no trial will be stopped early")
    finally:
        cluster.shutdown()
    for name in ("a", "b"):
        run = RunFolder(tmp_path / name)
        trials = optuna.load_study(study_name=run.read_manifest().study_name, storage=url).trials
        assert numbers(run.path) == [trial.number for trial in trials] == list(range(TRIALS))
        for record, trial in zip(run.read_trials(), trials, strict=True):
            assert trial.params == record.start.params
            reported = {report.epoch: report.validation_auc for report in record.epochs}
            assert trial.intermediate_values == pytest.approx(reported)
            assert sorted(reported) == [1, 2, 3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, process: subprocess.Popen[bytes]) -> dict:
    """The answer of a server that may not have started yet."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=300) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, "the server ended by itself"
            time.sleep(0.1)


def test_optuna_dashboard_opens_the_study_as_it_is(machine, tmp_path):
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is in the extra `notebooks`")
    end(begin(machine, tmp_path, "run", "--local"))
    port = free_port()
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [str(program), f"sqlite:///{tmp_path / 'run/study.db'}", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        (study,) = ask(f"http://127.0.0.1:{port}/api/studies", process)["study_summaries"]
        assert study["study_name"] == "run"
        detail = ask(f"http://127.0.0.1:{port}/api/studies/{study['study_id']}?after=0", process)
    finally:
        process.terminate()
        process.wait(timeout=300)
    records = RunFolder(tmp_path / "run").read_trials()
    assert [trial["number"] for trial in detail["trials"]] == [record.number for record in records]
    for trial, record in zip(detail["trials"], records, strict=True):
        assert trial["state"] == ("Complete" if record.outcome.end == "completed" else "Pruned")
        assert [each["step"] for each in trial["intermediate_values"]] == [report.epoch for report in record.epochs]
        assert {each["name"] for each in trial["params"]} == set(record.start.params)
