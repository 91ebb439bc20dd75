"""What must run where little is installed: the GPU benchmarks with torch and numpy, the trial without the engines."""

import subprocess
import sys

import pytest

BLOCKER = """
import sys
class Finder:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Finder(finder) for finder in sys.meta_path]
"""
"""As if the packages were not installed: their files are not found, and nothing else changes."""
BENCHMARKS = ("scipy", "sklearn", "ray", "optuna", "yaml", "pandas", "soundfile", "rich", "matplotlib")
ENGINES = ("ray", "optuna", "pandas", "sqlalchemy", "matplotlib")
PREDICTS = """
from benchmarks.gpu_cases import DATA, cases
from trainable.memory.planner import Planner
case = next(iter(cases()))
assert Planner(DATA, budget_bytes=None).predict(case.config, case.plan).predicted_bytes > 2**20
"""


def run_without(blocked: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKER.format(blocked=blocked) + code], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocked", "code"),
    [
        (BENCHMARKS, "import benchmarks.gpu_memory, benchmarks.gpu_packing"),
        (BENCHMARKS, PREDICTS),
        (ENGINES, "import trainable.train, trainable.trial, trainable.memory.planner, trainable.device.cap"),
    ],
    ids=["benchmarks", "prediction", "trial"],
)
def test_it_runs_without(blocked: tuple[str, ...], code: str) -> None:
    done = run_without(blocked, code)
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks() -> None:
    done = run_without(("scipy",), "import scipy.signal")
    assert done.returncode == 1
    assert "No module named 'scipy'" in done.stderr
