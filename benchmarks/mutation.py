"""How many small faults, put into a room of the code one at a time, its tests notice.

mutmut makes the faults ("mutants": a `<` for a `<=`, a missing argument, None for a value) and runs, for each, the
tests that reach the function it lies in. A room has hundreds to thousands of mutants, so a seeded sample is judged:

    pip install mutmut==3.8.1
    python -m benchmarks.mutation --room engine --sample 150 --seed 1

prints a row of the table and then every survivor as a diff. Whether a survivor means something, a reader judges: one
that alters a message, a default that nobody uses or only the speed does not.

mutmut reads its settings from a project's pyproject.toml, and writes beside it, so each room gets a copy of the
project under `runs/mutation`.
"""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from trainable.commandline import Parser, add_flag, run
from trainable.errors import ConfigError, RunError

ROOT = Path(__file__).parents[1]
COPIED = ("search", "spaces", "trainable", "analysis", "benchmarks", "tests", "docs", "pyproject.toml", "README.md")
SETTINGS = """
[tool.mutmut]
source_paths = ["search", "trainable"]
only_mutate = {mutated}
also_copy = ["spaces", "analysis", "benchmarks", "docs", "README.md"]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-m", "not long", "--timeout", "60"]
timeout_constant = 20.0
timeout_multiplier = 2.0
use_git_change_detection = false
use_setproctitle = false
"""
NAMES = {0: "survived", 5: "not reached", 33: "not reached", 24: "timed out", 36: "timed out", 152: "timed out"}
"""mutmut's exit codes that are not a failed test; a negative one is the signal that it sends at a time limit."""


@dataclass(frozen=True)
class Room:
    """Files whose functions get faults, and the tests that judge them: those of the room and the recorded values."""

    mutated: tuple[str, ...]
    tests: tuple[str, ...]


def _trainable_tests(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/trainable_tests/test_{name}.py" for name in names)


ROOMS = {
    "engine": Room(("search/engine/*",), ("tests/search_tests/engine_tests",)),
    "training": Room(
        ("trainable/training/*",),
        (
            *_trainable_tests("trainer", "training_step", "phases", "golden_losses", "checkpoint", "texture"),
            # The other tests of test_exactness.py, and those of test_memory_recovery.py, take many seconds each.
            "tests/trainable_tests/test_exactness.py::test_frozen_phase_leaves_the_codebook_bit_identical",
            "tests/trainable_tests/test_exactness.py::test_revival_is_decided_by_the_step_not_by_the_split",
        ),
    ),
    "scoring": Room(
        ("trainable/scoring/*",), _trainable_tests("scoring_definitions", "scoring_metrics", "scoring_models")
    ),
    "planner": Room(("trainable/memory/planner.py",), _trainable_tests("memory_planner")),
}


def copy_project(room: Room, folder: Path) -> None:
    """A copy of the project with mutmut's settings for a room."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)
    settings = SETTINGS.format(mutated=json.dumps(room.mutated), tests=json.dumps(room.tests))
    with (folder / "pyproject.toml").open("a") as file:
        file.write(settings)


def mutmut(folder: Path, *arguments: str) -> str:
    """What mutmut prints; it goes to mutmut.log too."""
    done = subprocess.run(  # `python -m mutmut` warns that it is imported twice
        [sys.executable, "-c", "from mutmut.__main__ import cli; cli()", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    with (folder / "mutmut.log").open("a") as log:
        log.write(done.stdout + done.stderr)
    return done.stdout


def results(folder: Path) -> dict[str, int | None]:
    """Exit code of each mutant; None where it has not been judged."""
    found: dict[str, int | None] = {}
    for path in sorted((folder / "mutants").rglob("*.meta")):
        found |= json.loads(path.read_text())["exit_code_by_key"]
    return found


def outcome(code: int | None) -> str:
    """What an exit code says: killed, unless it is a special one."""
    if code is None:
        return "not judged"
    return "timed out" if code < 0 else NAMES.get(code, "killed")


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.mutation", description=(__doc__ or "").splitlines()[0])
    add_flag(parser, "room", choices=tuple(ROOMS), required=True, help="package whose functions get faults")
    add_flag(parser, "sample", type=int, default=150, metavar="N", help="mutants to judge (default: 150)")
    add_flag(parser, "seed", type=int, default=1, metavar="N", help="seed of the sample (default: 1)")
    add_flag(parser, "only", metavar="TEXT", help="judge only mutants whose name holds this")
    add_flag(parser, "jobs", type=int, default=1, metavar="N", help="mutants judged at once (default: 1)")
    args = parser.parse_args(argv)
    if find_spec("mutmut") is None:
        raise ConfigError("mutmut is not installed; pip install mutmut==3.8.1")
    folder = ROOT / "runs" / "mutation" / args.room
    copy_project(ROOMS[args.room], folder)
    begin = time.monotonic()
    # A name that no mutant has: mutmut makes the mutants, finds out which test reaches which, and ends.
    mutmut(folder, "run", "--max-children", "1", "none")
    made = sorted(results(folder))
    if not made:
        raise RunError(f"no mutants were made; see {folder / 'mutmut.log'}")
    eligible = [name for name in made if (args.only or "") in name]
    sample = random.Random(args.seed).sample(eligible, min(args.sample, len(eligible)))
    reached = json.loads((folder / "mutants" / "mutmut-stats.json").read_text())["tests_by_mangled_function_name"]
    judged = [name for name in sample if reached.get(name.rpartition("__mutmut_")[0])]
    mutmut(folder, "run", "--max-children", str(args.jobs), *judged)
    codes = results(folder)
    outcomes = {name: outcome(codes[name]) if name in set(judged) else "not reached" for name in sample}
    counts = {word: list(outcomes.values()).count(word) for word in ("killed", "timed out", "survived", "not reached")}
    print(f"{args.room}, seed {args.seed}: {len(made)} made, {len(sample)} sampled", end="")
    print("".join(f", {count} {word}" for word, count in counts.items()), end="")
    print(f"; {(time.monotonic() - begin) / 60:.1f} min")
    if left := [name for name, word in outcomes.items() if word == "not judged"]:
        print(f"not judged: {', '.join(left)}")
    for name, word in sorted(outcomes.items()):
        if word in ("survived", "not reached"):
            print(f"\n---- {word}")
            print(mutmut(folder, "show", name))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
