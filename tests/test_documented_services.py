"""Commands of the documents that stay until they are stopped, or need Ray; and short forms of the benchmarks."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.reader import DOCUMENTS, ROOT, TINY_DATA, Command, appended, inline, own_folder, reader, run_module, shown

__all__ = ["own_folder", "reader"]  # fixtures
BIN = Path(sys.executable).parent
PRINTED = [command for document in DOCUMENTS for command in shown(document)]
WAIT_S = 600.0


def printed(pattern: str) -> Command:
    """The first command of the documents that matches."""
    return next(command for command in PRINTED if re.match(pattern, command.text))


@contextmanager
def running(words: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process that is asked to stop at the end, and killed with those it left if it does not."""
    process = subprocess.Popen(
        [str(BIN / words[0]), *words[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(url: str, process: subprocess.Popen[str]) -> str:
    """What a server says as soon as it says anything."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                return str(reply.read().decode())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer")


@pytest.mark.parametrize(
    ("command", "path", "says"),
    [
        (printed("tensorboard "), "/data/runs", "00000"),
        (printed("optuna-dashboard "), "/api/studies", '"study_name":"first"'),
        (printed("optuna-dashboard "), "/api/studies/1", '"objective_names":["validation_auc"]'),
    ],
    ids=str,
)
def test_a_documented_server_serves_the_run(command: Command, path: str, says: str, own_folder: Path) -> None:
    port = free_port()
    words = [*shlex.split(command.text), "--host", "127.0.0.1", "--port", str(port)]
    with running(words, cwd=own_folder) as process:
        deadline = time.monotonic() + WAIT_S
        told = ""
        while says not in told.replace(" ", "") and time.monotonic() < deadline:  # a run appears when it has been read
            told = answer(f"http://127.0.0.1:{port}{path}", process)
    assert says in told.replace(" ", "")


# ---- Ray -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ray_environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables for a Ray of its own: another on this machine is neither found nor touched."""
    home = tmp_path / "home"
    home.mkdir()
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:  # sockets' paths are short
        changed = {"HOME": str(home), "RAY_TMPDIR": short, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        yield {**{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}, **changed}


def search_on_ray(command: Command, folder: Path, environment: dict[str, str]) -> str:
    """A documented search as it is but for its size: not ``--local``."""
    flags = appended(command.text).replace("--local ", "")
    done = subprocess.run(
        [sys.executable, *shlex.split(f"{command.text} {flags}")[1:]],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    assert "--local" not in shlex.split(f"{command.text} {flags}")
    return done.stdout


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_documented_search_runs_on_ray(own_folder: Path, ray_environment: dict[str, str]) -> None:
    command = printed(r"python -m search\.run --space ad_tuning --output runs/first$")
    shutil.rmtree(own_folder / "runs/first")
    assert "held-out AUC" in search_on_ray(command, own_folder, ray_environment)
    assert (own_folder / "runs/first/best.yaml").exists()


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("mode", [{}, {"RAY_AUTH_MODE": "token"}], ids=["as it is", "as from Ray 2.61 on"])
def test_the_documented_cluster_is_started_and_joined(
    own_folder: Path, ray_environment: dict[str, str], mode: dict[str, str]
) -> None:
    ray_environment = {**ray_environment, **mode}
    token = subprocess.run(
        shlex.split(printed("ray get-auth-token").text), env=ray_environment, capture_output=True, text=True, check=True
    )
    assert token.stdout.strip()
    start = printed(r"ray start --head$")
    words = [*shlex.split(start.text), "--port", "0", "--dashboard-port", "0", "--num-cpus", "2", "--block"]
    search = printed(r"python -m search\.run .*--address auto --storage-path /mnt/shared")
    with running(words, env=ray_environment) as process:
        deadline = time.monotonic() + WAIT_S
        while not list(Path(ray_environment["RAY_TMPDIR"]).rglob("ray_current_cluster")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "Ray did not start"
            time.sleep(0.2)
        assert "held-out AUC" in search_on_ray(search, own_folder, ray_environment)
    (name,) = (path.name for path in (own_folder / "shared").iterdir())
    assert name.startswith("cluster-"), "checkpoints at --storage-path"


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_is_not_joined_without_one(
    own_folder: Path, ray_environment: dict[str, str]
) -> None:
    command = (
        f"{sys.executable} -m search.run --space my_space.yaml --address 127.0.0.1:1 --output runs/none {TINY_DATA}"
    )
    environment = {**ray_environment, "RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        shlex.split(command), cwd=own_folder, env=environment, capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "error: the cluster at --address 127.0.0.1:1 cannot be joined: Token authentication is enabled"
    )
    assert "~/.ray/auth_token" in line


# ---- benchmarks ----------------------------------------------------------------------------------------------------

TINY_MODEL = "--width 0.125 --latent-dim 4 --num-embeddings 8 --n-patches 1 --batch-size 8 --epochs 1"
SHORT = {
    "against_default": "runs/first --seeds 1",
    "auc_intervals": "--repetitions 1",
    "budget_sampler": "--seeds 2 --trainings 6",
    "data_scale": "--recordings 80 --seconds 1",
    "density": f"--seeds 1 --network-epochs 1 {TINY_MODEL} {TINY_DATA}",
    "driver_scale": "--trials 10",
    "epoch_time": "",
    "export": "runs/first/detector --clips 4",
    "prediction": "--architectures 1",
    "half_precision": f"--seeds 1 --epochs 1 {TINY_DATA}",
    "formats": f"--seeds 1 {TINY_MODEL} {TINY_DATA}",
    "long_recordings": f"--draws 5 --joined 3 {TINY_MODEL} {TINY_DATA}",
    "learning_curves": f"--space my_space.yaml --configurations 3 --epochs 3 --output curves.csv {TINY_DATA}",
    "no_labels": f"--record --space my_space.yaml --configurations 1 --scores runs/no_labels/tiny {TINY_DATA}",
    "recorded": f"--space my_space.yaml --configurations 1 --repeated 0 --epochs 1 --store runs/tiny {TINY_DATA}",
    "ablations": f"--seeds 1 {TINY_MODEL} {TINY_DATA}",
    "real_without_labels": f"--space my_space.yaml --seeds 1 --epochs 4 --store runs/tiny {TINY_DATA}",
    "real_searches": f"--space my_space.yaml --yardsticks --seeds 1 --epochs 2 --max-epochs 1 --store st {TINY_DATA}",
}
"""Flags with which a benchmark takes seconds."""
NOT_SHORT = {
    "fused_trials": "trains models of full width; small ones in benchmark_tests/test_fused_trials.py",
    "gpu_fit": "fits a hundred measured peaks; with two in test_gpu_memory.py",
    "gpu_memory": "needs a GPU",
    "gpu_times": "fits steps of full width; with made-up times in test_gpu_memory.py",
    "gpu_packing": "needs a GPU",
    "gpu_session": "needs a GPU; on a card that computes nothing in tests/card_tests",
    "orchestration": "plain Ray Tune beside ours, each starting its actors anew",
    **dict.fromkeys(
        ("curves", "portfolio", "ensemble", "prefer_fast", "search_methods", "trial_length", "until_flat"),
        "replays recorded trainings, as benchmark_tests/test_search_bench.py does",
    ),
    "mutation": "needs mutmut, which nothing else needs",
    "quantizer": "its sizes are those of real batches, with --quick too; in `make bench`",
    "throughput": "trains models of full width; in `make bench`",
}


def test_every_documented_benchmark_has_a_short_form_or_a_reason() -> None:
    texts = [command.text for document in DOCUMENTS for command in (*inline(document), *shown(document))]
    named = {match[1] for text in texts if (match := re.match(r"python -m benchmarks\.(\w+)", text))}
    assert named == set(SHORT) | set(NOT_SHORT)


@pytest.mark.parametrize("name", SHORT)
def test_a_benchmark_runs(name: str, own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_module([f"benchmarks.{name}", *SHORT[name].split()])
    assert capsys.readouterr().out.strip()
