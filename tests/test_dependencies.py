"""What we import is declared, what is declared is imported and locked, and each part runs with what it declares."""

import ast
import functools
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.analysis_tests.trained import write_recordings
from tests.reader import ROOT

OURS = ("search", "spaces", "trainable", "analysis", "benchmarks", "tests")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ALLOWED = {
    "spaces": ("core",),
    "trainable": ("core", "completion"),
    "search": ("core", "mlflow", "wandb", "analysis"),  # the types of what a result reads with it
    "analysis": ("core", "analysis", "notebooks", "export"),
    "benchmarks": ("core", "analysis", "dev"),
}
"""Whose dependencies each package may import."""
ANCHORS = {"syne_tune", "smac", "ConfigSpace"}
"""Modules of other search systems, which one benchmark imports where they are installed; nothing needs them."""
RUN_NOT_IMPORTED = {
    "tensorboard": "reads what the search writes; documented",
    "optuna-dashboard": "reads the study; documented",
    "ipykernel": "runs the notebooks' cells",
    "psycopg": "SQLAlchemy's driver, named by an address",
    "onnx": "needed by torch.onnx.export",
    "onnxscript": "needed by torch.onnx.export",
}


def requirements(texts: Iterable[str]) -> Iterator[Requirement]:
    """Those declared, extras of the project itself resolved."""
    for text in texts:
        requirement = Requirement(text)
        if requirement.name != PROJECT["name"]:
            yield requirement
            continue
        for extra in requirement.extras:
            yield from requirements(EXTRAS[extra])


def declared(part: str) -> dict[str, Requirement]:
    """Distributions of the core or an extra, by their canonical name."""
    texts = PROJECT["dependencies"] if part == "core" else EXTRAS[part]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements(texts)}


@functools.cache
def imports(package: str) -> dict[str, set[str]]:
    """Other people's packages that a package of ours imports, wherever in a file, with the files."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            for name in {name.partition(".")[0] for name in names} - {*OURS, *sys.stdlib_module_names}:
                found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


@functools.cache
def distributions_by_module() -> Mapping[str, list[str]]:
    """Asked once: it reads the list of files of everything installed."""
    return packages_distributions()


def distributions(module: str) -> set[str]:
    """Canonical names of what gives a top-level module; its own name where nothing installed does."""
    return {canonicalize_name(name) for name in distributions_by_module().get(module, [module])}


# ---- declared --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", ALLOWED)
def test_what_is_imported_is_declared(package: str) -> None:
    known = {name for part in ALLOWED[package] for name in declared(part)}
    missing = {module: files for module, files in imports(package).items() if not distributions(module) & known}
    assert {module for module, files in missing.items() if files == {"benchmarks/search_anchors.py"}} <= ANCHORS
    missing = {module: files for module, files in missing.items() if module not in ANCHORS}
    assert not missing, f"declare these in pyproject.toml for {package}: {missing}"


PARTS = ("core", "analysis", "notebooks", "postgres", "mlflow", "wandb", "export", "completion")


@pytest.mark.parametrize("part", PARTS)
def test_what_is_declared_is_imported(part: str) -> None:
    used = {name for package in ALLOWED for module in imports(package) for name in distributions(module)}
    assert set(declared(part)) - used - set(RUN_NOT_IMPORTED) == set()


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_tracker_is_imported_by_its_listener_alone(tracker: str) -> None:
    assert imports("search")[tracker] == {f"search/listeners/{tracker}.py"}


# ---- locked ----------------------------------------------------------------------------------------------------------


def needed() -> set[str]:
    """Distributions that the core and all extras need here, and what those need in their turn."""
    waiting = [*requirements(PROJECT["dependencies"]), *requirements(text for each in EXTRAS.values() for text in each)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            pytest.fail(f"{requirement} is not installed; make setup", pytrace=False)
        waiting += [
            each
            for each in map(Requirement, found.requires or ())
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras))
        ]
    return {name for name, _ in seen}


def locked() -> Mapping[str, Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert lines == sorted(lines, key=str.lower)
    pins = [Requirement(line) for line in lines]
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    return {canonicalize_name(pin.name): pin for pin in pins}


def test_the_lock_holds_what_is_needed_and_nothing_else() -> None:
    wanted, pins = needed(), locked()
    cuda = {name for name in wanted if name.startswith(("nvidia-", "cuda-", "triton"))}  # of torch's builds with CUDA
    assert wanted - cuda - set(pins) == set(), "needed and not in requirements.lock"
    if sys.version_info[:2] == (3, 11):  # another Python may need less
        assert set(pins) - wanted == set(), "in requirements.lock and not needed"


def test_the_lock_agrees_with_what_is_declared() -> None:
    pins = locked()
    for part in ("core", *EXTRAS):
        for name, requirement in declared(part).items():
            (pin,) = pins[name].specifier
            assert requirement.specifier.contains(pin.version), f"{requirement} and {pins[name]}"


# ---- each part runs with what it declares ----------------------------------------------------------------------------

WITHOUT = """
import sys

HIDDEN = sys.argv[1].split(",")

class Without:
    '''A finder that does not find the packages that are named.'''

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for hidden in HIDDEN:
    try:
        __import__(hidden)
    except ModuleNotFoundError:
        continue
    raise SystemExit(hidden + " is there")
"""
RUN = WITHOUT + "import runpy; sys.argv[:2] = []; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
IMPORT = (
    WITHOUT
    + """
import importlib, pkgutil
package = importlib.import_module(sys.argv[2])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if module.name not in sys.argv[3:]:
        importlib.import_module(module.name)
"""
)
READERS = (
    "pandas",
    "matplotlib",
    "jinja2",
    "cycler",
    "tensorboard",
    "mlflow",
    "wandb",
    "nbclient",
    "nbformat",
    "IPython",
)
"""What the extras analysis, notebooks, mlflow and wandb bring."""


def python(code: str, hidden: Iterable[str], *words: str, folder: Path = ROOT) -> str:
    """What a fresh interpreter prints that has not the packages that are hidden."""
    done = subprocess.run(
        [sys.executable, "-c", code, ",".join(hidden), *words], cwd=folder, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_a_trial_needs_neither_ray_nor_optuna_nor_what_reads_results() -> None:
    python(IMPORT, ("ray", "optuna", "sqlalchemy", *READERS), "trainable", "trainable.ray_trainable")


def test_a_search_is_imported_without_what_reads_results() -> None:
    """But for the modules of Ray Tune, which needs pandas itself."""
    python(IMPORT, READERS, "search", "search.runners.ray_tune", "search.runners.ray_faults")
    assert "--space" in python(RUN, READERS, "search.run", "--help")


def test_reading_results_without_its_extra_says_what_to_install() -> None:
    command = [sys.executable, "-c", RUN, "pandas", "analysis.report", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode != 0
    assert "reading results needs pandas; install the extra: pip install" in done.stderr


SPACE = """
parameters:
  num_embeddings: {choices: [4, 8]}
fixed: {width: 0.25, latent_dim: 4, batch_size: 4, n_patches: 1, stride: 32, head_hidden: 8, density: counts}
search: {num_samples: 1, max_epochs: 1, grace_period: 1, reduction_factor: 3}
"""


def test_a_search_runs_without_what_reads_results_and_without_ray(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    recordings = write_recordings(tmp_path / "machines", machine_type="press")
    words = ["--space", "space.yaml", "--data-root", str(recordings), "--machine-type", "press", "--local"]
    shown = python(RUN, ("ray", *READERS), "search.run", *words, "--output", "run", folder=tmp_path)
    assert "1 trial: 1 completed" in shown
    assert (tmp_path / "run" / "best.yaml").is_file()
