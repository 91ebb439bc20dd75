"""Growth of the driver's cost with the number of trials: CPU time, memory, study size, time of a suggestion.

    python -m benchmarks.driver_scale --trials 10000 --output benchmarks/results/driver_scale.csv
    python -m benchmarks.driver_scale --trials 1000 --runner ray

Trials report two epochs that take no time, so the benchmark measures only the search: sampler, ASHA, durable study and
folder, progress, plain lines and TensorBoard scalars, assembled as in `search.run`. ``--runner local`` runs the
conductor in this process with several trials alive at once; ``--runner ray`` adds Ray Tune with actors in other
processes. CPU seconds are those of the driver's process (all threads). Wall seconds include its waits: several forced
writes to disk per trial, so that no report is ever lost.
"""

import csv
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.idle_trials import IdleTrial, idle_search
from search.engine.conductor import Conductor
from search.engine.listener import BaseListener, Listeners
from search.engine.sampler import Fits, Proposal
from search.listeners.progress import Progress
from search.listeners.tensorboard import TensorBoardScalars
from search.listeners.terminal import PlainLines
from search.runners.local import LocalRunner
from search.runners.packing import cpu_slots
from search.store.run_store import RunStore
from trainable.commandline import Parser, add_flag, run
from trainable.errors import ConfigError
from trainable.host import available_cores
from trainable.record import TrialOutcome, TrialStart

EPOCHS = 2
MARKS = (100, 1_000, 10_000)


@dataclass(frozen=True)
class Mark:
    """The state of a search when `trials` trials had ended."""

    runner: str
    trials: int
    cpu_ms_a_trial: float
    """The driver's CPU time, mean since the start."""
    late_cpu_ms_a_trial: float
    """The driver's CPU time, mean since the previous mark."""
    wall_ms_a_trial: float
    late_wall_ms_a_trial: float
    suggestion_ms: float
    """Median time of the last 100 suggestions."""
    slowest_suggestion_ms: float
    """Longest time of the last 100 suggestions."""
    resident_mib: float
    study_mib: float


class Meter(BaseListener):
    """Records clocks, memory and the study's size when enough trials have ended."""

    def __init__(self, runner: str, conductor: Conductor, study: Path):
        self.marks: list[Mark] = []
        self._runner, self._conductor, self._study = runner, conductor, study
        self._ended = 0
        self._suggestions: list[float] = []
        self._last = (0, 0.0, 0.0)
        self._begin = time.process_time(), time.perf_counter()
        self._suggest = conductor.sampler.suggest
        conductor.sampler.suggest = self._timed  # type: ignore[method-assign]

    def _timed(self, index: int, fits: Fits) -> Proposal:
        begin = time.perf_counter()
        proposal = self._suggest(index, fits)
        self._suggestions.append(time.perf_counter() - begin)
        del self._suggestions[:-100]
        return proposal

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        self._ended += 1
        if self._ended in MARKS or self._ended == self._conductor.options.num_samples:
            self._mark()

    def _mark(self) -> None:
        cpu, wall = time.process_time() - self._begin[0], time.perf_counter() - self._begin[1]
        before, cpu_before, wall_before = self._last
        mark = Mark(
            runner=self._runner,
            trials=self._ended,
            cpu_ms_a_trial=1e3 * cpu / self._ended,
            late_cpu_ms_a_trial=1e3 * (cpu - cpu_before) / (self._ended - before),
            wall_ms_a_trial=1e3 * wall / self._ended,
            late_wall_ms_a_trial=1e3 * (wall - wall_before) / (self._ended - before),
            suggestion_ms=1e3 * median(self._suggestions),
            slowest_suggestion_ms=1e3 * max(self._suggestions),
            resident_mib=resident_bytes() / 2**20,
            study_mib=sum(path.stat().st_size for path in self._study.parent.glob(f"{self._study.name}*")) / 2**20,
        )
        self._last = self._ended, cpu, wall
        self.marks.append(mark)
        print(line_of(mark), flush=True)


def resident_bytes() -> int:
    """Resident memory of this process now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def line_of(mark: Mark) -> str:
    return (
        f"{mark.runner:5s} {mark.trials:6d} trials: CPU {mark.cpu_ms_a_trial:6.1f} ms a trial "
        f"(since the previous mark {mark.late_cpu_ms_a_trial:6.1f}), wall {mark.wall_ms_a_trial:6.1f} "
        f"({mark.late_wall_ms_a_trial:6.1f}), suggestion {mark.suggestion_ms:5.1f} ms (slowest of 100: "
        f"{mark.slowest_suggestion_ms:5.1f}), resident {mark.resident_mib:6.1f} MiB, study {mark.study_mib:6.2f} MiB"
    )


def measure(runner: str, trials: int, workers: int) -> list[Mark]:
    """Measures a whole search of `trials` trials, with `workers` of them alive at a time."""
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w", encoding="utf-8") as nowhere:
        conductor, store = idle_search(Path(folder) / "run", trials=trials, slots=workers, epochs=EPOCHS)
        options = conductor.options
        progress = Progress(options, conductor.asha.rung_epochs, workers)
        lines = PlainLines(Console(file=nowhere), progress)
        with TensorBoardScalars(store.folder.path / "tensorboard") as tensorboard:
            if runner == "local":
                meter = _listen(runner, conductor, store, progress, lines, tensorboard)
                LocalRunner(conductor, store=store, options=options, trial_factory=IdleTrial).run()
                return meter.marks
            from search.runners.ray_session import ray_session
            from search.runners.ray_tune import RayRunner

            with ray_session(options):
                meter = _listen(runner, conductor, store, progress, lines, tensorboard)
                RayRunner(
                    conductor,
                    store=store,
                    options=options,
                    trial_factory=IdleTrial,
                    slots=[cpu_slots(workers, workers)],
                ).run()
                return meter.marks


def _listen(runner: str, conductor: Conductor, store: RunStore, *listeners: BaseListener | Progress) -> Meter:
    """Adds the listeners of a search, and the meter, whose clocks start here."""
    meter = Meter(runner, conductor, store.folder.study_path)
    conductor.listener = Listeners([*listeners, meter])
    return meter


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.driver_scale", description=__doc__.split("\n")[0])
    add_flag(parser, "trials", type=int, default=1_000, metavar="N", help="total number of trials (default: 1000)")
    add_flag(parser, "workers", type=int, default=8, metavar="N", help="trials alive at once (default: 8)")
    add_flag(parser, "runner", default="local", help="local (the conductor alone) or ray")
    add_flag(parser, "output", metavar="FILE", help="write the table as CSV; keeps the other runner's rows in it")
    arguments = parser.parse_args(argv)
    if arguments.runner not in ("local", "ray"):
        raise ConfigError(f"--runner is {arguments.runner!r}; it must be local or ray")
    marks = measure(arguments.runner, arguments.trials, arguments.workers)
    if arguments.output:
        _write(marks, Path(arguments.output), sys.argv[1:] if argv is None else argv)
    return 0


def _write(marks: Sequence[Mark], path: Path, argv: Sequence[str]) -> None:
    """Writes the table; keeps the other runner's rows and commands of an existing table."""
    import optuna
    import ray

    runner = marks[0].runner
    comments, rows = [], []
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            lines = file.readlines()
        comments = [line for line in lines if line.startswith("# python") and f"--runner {runner}" not in line]
        rows = [row for row in csv.DictReader(line for line in lines if line[0] != "#") if row["runner"] != runner]
    shown = list(argv) if "--runner" in argv else ["--runner", runner, *argv]
    header = [
        *comments,
        f"# python -m benchmarks.driver_scale {' '.join(shown)}\n",
        f"# {available_cores()} CPU cores, no GPU used; Python {platform.python_version()}, "
        f"Optuna {optuna.__version__}, Ray {ray.__version__}\n",
    ]
    new: list[dict[str, Any]] = [
        {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in asdict(mark).items()}
        for mark in marks
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(header)
        writer = csv.DictWriter(file, [field.name for field in fields(Mark)], lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, *new])


if __name__ == "__main__":
    sys.exit(run(main))
