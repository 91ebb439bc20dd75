"""What ``--prefer-fast`` saves and costs: searches with and without it on recorded trainings.

    python -m benchmarks.prefer_fast --worlds 20

Nothing is trained: trainings and their seconds are those of `benchmarks.worlds`, made of the recorded curves in
`benchmarks/results/curves`. Both searches have `TRIALS` trials, the rungs of `benchmarks.search_methods` and no
portfolio, one trial at a time. What counts is the truth of the best trial (AUC on clips that no search sees) and the
seconds of all epochs; AUC per hour is the truth above chance, 0.5, by the hours of the search. Differences and ratios
are of pairs, with 95 % percentile bootstraps over data sets and the worlds within them.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.curves import FUSED, TABLES, DataSet, read_curves
from benchmarks.epoch_time import CLIPS, FRAMES
from benchmarks.recorded import RECORDED_SPACE
from benchmarks.search_methods import MOST_EPOCHS, REPLAYED_FACTOR, REPLAYED_GRACE, RESAMPLES
from benchmarks.search_systems import Ours, Setting
from benchmarks.worlds import World
from search.engine.pace import Pace
from spaces.loader import load_space
from spaces.space import Space
from trainable.commandline import Parser, add_flag, run
from trainable.timing.speed import CPU_ESTIMATE

TRIALS = 14
"""Trials of a search."""


@dataclass(frozen=True)
class Spent:
    """What a search found, and what it cost."""

    truth: float
    seconds: float

    @property
    def per_hour(self) -> float:
        return (self.truth - 0.5) / (self.seconds / 3600)


def search(world: World, space: Space, seed: int, *, prefer_fast: bool) -> Spent:
    """One search, from its first trial to its last."""
    setting = Setting(space, seed, MOST_EPOCHS, TRIALS)
    pace = Pace(CLIPS, CPU_ESTIMATE) if prefer_fast else None
    system, seconds = Ours(setting, grace=REPLAYED_GRACE, factor=REPLAYED_FACTOR, prefer_fast=pace), 0.0
    truths: dict[int, float] = {}
    while (started := system.start()) is not None:
        number, params = started
        training = world.train(params, seed=1_000 * seed + number)
        truths[number] = training.curves[FUSED].truth
        goes_on, epoch = True, 0
        while goes_on:
            seconds, epoch = seconds + training.seconds_an_epoch, epoch + 1
            goes_on = system.report(number, epoch, float(training.curves[FUSED].values[epoch - 1]))
    assert system.best is not None
    return Spent(truths[system.best], seconds)


def interval(values_SW: np.ndarray, mean: Callable[[np.ndarray], float]) -> str:
    """A mean over data sets S and their worlds W, with its bootstrap."""
    rng, (sets, worlds) = np.random.default_rng(0), values_SW.shape
    resampled = [
        mean(values_SW[rng.integers(sets, size=(sets, 1)), rng.integers(worlds, size=(sets, worlds))])
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return f"{mean(values_SW):+.4f} [{low:+.4f}, {high:+.4f}]"


def geometric(ratios: np.ndarray) -> float:
    """Mean change by a factor, as a share: −0.2 is a fifth less."""
    return float(np.exp(np.log(ratios).mean()) - 1)


def compared(sets: Sequence[DataSet], space: Space, worlds: int) -> dict[str, np.ndarray]:
    """Truth, seconds and AUC per hour of searches without and with the preference, float64 (2, sets, worlds)."""
    found = [
        [[search(World(data, space, seed), space, seed, prefer_fast=prefer) for seed in range(worlds)] for data in sets]
        for prefer in (False, True)
    ]
    return {
        name: np.array([[[getattr(spent, name) for spent in row] for row in rows] for rows in found])
        for name in ("truth", "seconds", "per_hour")
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.prefer_fast", description=__doc__.split("\n")[0])
    add_flag(
        parser, "space", default=str(RECORDED_SPACE), metavar="NAME_OR_PATH", help="that of the recorded trainings"
    )
    add_flag(parser, "curves", metavar="DIR", default=str(TABLES), help="tables of recorded trainings")
    add_flag(parser, "worlds", type=int, default=20, metavar="N", help="searches of each kind a data set (default: 20)")
    arguments = parser.parse_args(argv)
    space = load_space(arguments.space).for_clips(FRAMES)
    sets = read_curves(space, Path(arguments.curves))
    found = compared(sets, space, arguments.worlds)
    for at, data in enumerate(sets):
        (plain, fast), (before, after) = found["truth"][:, at].mean(axis=1), found["seconds"][:, at].mean(axis=1)
        print(f"{data.name}: AUC {plain:.3f} → {fast:.3f}, {before:.0f} → {after:.0f} s")
    plain, fast = found["truth"]
    print(f"AUC: {interval(fast - plain, lambda values: float(values.mean()))}")
    for name, words in (("seconds", "seconds of the search"), ("per_hour", "AUC per hour")):
        plain, fast = found[name]
        print(f"{words}, as a share: {interval(fast / plain, geometric)}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
