"""The examples in deploy/ and the Dockerfile, as far as they can be tried without Docker, Slurm and Kubernetes."""

import configparser
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from search.flags import build_parser, new_options
from spaces.loader import load_space
from tests.reader import ROOT, TINY_DATA, own_folder, reader
from trainable.record import RunFolder

__all__ = ["own_folder", "reader"]  # fixtures

DEPLOY = ROOT / "deploy"
SCRIPTS = sorted(DEPLOY.glob("*.sh"))
START = "start_or_resume.sh"
INSTALLED = "/opt/vqvae-ad-search"
"""Where the Dockerfile and the service have the checkout."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STOPS = """#!/bin/bash
trap 'exit 138' USR1
trap 'exit 143' TERM
echo "$@" > started
while true; do sleep 0.05; done
"""


def executable(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def flags_of(path: Path) -> list[str]:
    """What an example passes to `start_or_resume.sh`, behind the run's folder."""
    text = re.sub(r"#.*", "", path.read_text()).replace("\\\n", " ")
    if path.suffix == ".yaml":
        text = yaml.safe_load(path.read_text())["spec"]["entrypoint"]
    (found,) = re.findall(rf"{START} \S+ (.*?)(?: &)?$", text, flags=re.MULTILINE)
    return shlex.split(found)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_executable_and_parse(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).stderr == b""


@pytest.mark.parametrize(
    "name", ["slurm_one_node.sh", "slurm_several_nodes.sh", "vqad-search.service", "kuberay_search.yaml"]
)
def test_flags_are_those_of_a_search_and_of_a_resume(name: str) -> None:
    arguments = build_parser().parse_args(flags_of(DEPLOY / name))
    assert new_options(arguments, load_space(arguments.space)).budget_bytes == 24 * 2**30
    assert {arguments.warm_start, arguments.no_portfolio} <= {None, False}, "a resume refuses these"


def test_what_is_started_again_is_resumed(own_folder: Path) -> None:
    command = f"{DEPLOY / START} runs/again --space my_space.yaml --local --quiet --num-samples 1 {TINY_DATA}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for times in (0, 1):
        done = subprocess.run(
            shlex.split(command),
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert len(RunFolder("runs/again").read_manifest().history) == times


@pytest.mark.parametrize(
    ("sent", "status", "requeued"), [(signal.SIGUSR1, 138, "requeue 7"), (signal.SIGTERM, 143, None)]
)
def test_a_slurm_job_that_is_warned_stops_its_search_and_is_queued_again(
    sent: signal.Signals, status: int, requeued: str | None, tmp_path: Path
) -> None:
    """Slurm's commands and the search are stand-ins; the script is the real one."""
    executable(tmp_path / "bin/scontrol", '#!/bin/sh\necho "$@" > requeued\n')
    executable(tmp_path / "deploy" / START, STOPS)
    executable(tmp_path / ".venv/bin/activate", "")
    environment = {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "7",
    }
    job = subprocess.Popen([str(DEPLOY / "slurm_one_node.sh")], env=environment)
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline, "the job has not started its search"
        time.sleep(0.02)
    job.send_signal(sent)
    assert job.wait(timeout=120) == status
    told = tmp_path / "requeued"
    assert (told.read_text().strip() if told.exists() else None) == requeued


def test_the_service_is_one_that_systemd_accepts(tmp_path: Path) -> None:
    text = (DEPLOY / "vqad-search.service").read_text()
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    service = unit["Service"]
    assert service["ExecStart"].startswith(f"{INSTALLED}/deploy/{START} ")
    assert (service["KillSignal"], service["SuccessExitStatus"]) == ("SIGTERM", str(128 + signal.SIGTERM))
    verify = shutil.which("systemd-analyze")
    if verify is None:
        return
    here = tmp_path / "vqad-search.service"
    here.write_text(text.replace(f"{INSTALLED}/deploy", str(DEPLOY)))
    done = subprocess.run([verify, "verify", str(here)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_kuberay_job_has_our_ray_asks_for_a_token_and_does_not_scale() -> None:
    job = yaml.safe_load((DEPLOY / "kuberay_search.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert f"ray[tune,default]=={cluster['rayVersion']}" in PROJECT["dependencies"]
    assert cluster["authOptions"] == {"mode": "token"}
    for group in cluster["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"], "slots are counted at the start"
    assert job["spec"]["entrypoint"].startswith(f"{INSTALLED}/deploy/{START} ")


def test_the_image_holds_what_it_installs() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert f"WORKDIR {INSTALLED}\nCOPY . ." in text
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert kept == {*packages, "deploy", "pyproject.toml", "requirements.lock", PROJECT["readme"], "LICENSE"}
