"""What ``--until-flat`` costs and saves: where a search ends itself, and what going on would have found.

    python -m benchmarks.until_flat --stores runs/recorded --worlds 8 --output benchmarks/results/until_flat.csv

The replay of `benchmarks.search_methods`: this project's search on made-up data sets of recorded trainings, with its
portfolio, its detector and `MOST` epochs, or fewer where it ends itself. `lost` is the truth of the detector that the
longest search leaves minus that of the one that ended, with its 95 % percentile bootstrap over data sets and the worlds
within them.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks.curves import TABLES
from benchmarks.portfolio import COUNT, greedy
from benchmarks.recorded import RECORDED_SPACE
from benchmarks.search_methods import MOST_EPOCHS, ensembles, ours, searched, space_and_sets
from benchmarks.search_systems import Setting
from benchmarks.tables import command_of, tell_table
from benchmarks.worlds import World
from trainable.commandline import Parser, add_flag, run
from trainable.host import available_cores

MOST = 960
"""Epochs of the longest search: eighty full trainings."""
GAINS = (0.008, 0.004, 0.002, 0.001)
RESAMPLES = 2_000


def one_world(folder: str, space_name: str, stores: str, data_set: str, number: int) -> dict[float, tuple[int, float]]:
    """For each asked gain, and 0, which never ends a search: epochs trained and the detector's truth."""
    space, sets = space_and_sets(folder, space_name, stores)
    data = next(each for each in sets if each.name == data_set)
    others = [data.params[each] for each in greedy([each for each in sets if each is not data])]
    world, ensemble = World(data, space, number), ensembles(stores, data_set)
    found = {}
    for gain in (0.0, *GAINS):
        method = ours(portfolio=COUNT, until_flat=gain)
        truth, _ = searched(method, world, Setting(space, number, MOST_EPOCHS, MOST), others, ensemble)
        found[gain] = len(truth), float(truth[-1])
    return found


def rows_of(found: dict[str, list[dict[float, tuple[int, float]]]]) -> list[dict[str, Any]]:
    """One row per asked gain."""
    rng = np.random.default_rng(0)
    rows = []
    for gain in (0.0, *GAINS):
        epochs = np.array([[world[gain][0] for world in worlds] for worlds in found.values()])
        lost = np.array([[world[0.0][1] - world[gain][1] for world in worlds] for worlds in found.values()])
        n_sets, n_worlds = lost.shape
        drawn = []
        for _ in range(RESAMPLES):
            resampled = lost[rng.integers(n_sets, size=n_sets)]
            drawn.append(resampled[:, rng.integers(n_worlds, size=n_worlds)].mean())
        low, high = np.percentile(drawn, [2.5, 97.5])
        middle = np.percentile(epochs, [10, 50, 90])
        rows.append(
            {
                "until flat": f"{gain:g}" if gain else "never",
                "epochs, median": f"{middle[1]:.0f}",
                "epochs, 10 … 90 %": f"{middle[0]:.0f} … {middle[2]:.0f}",
                "ended itself": f"{np.mean(epochs < MOST):.0%}",
                "lost": f"{lost.mean():+.4f} [{low:+.4f}, {high:+.4f}]",
                "worst data set": f"{lost.mean(axis=1).max():+.4f}",
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.until_flat", description=__doc__.split("\n")[0])
    add_flag(parser, "space", default=str(RECORDED_SPACE))
    add_flag(parser, "curves", metavar="DIR", default=str(TABLES), help="tables of recorded trainings")
    add_flag(parser, "stores", metavar="DIR", default="runs/recorded", help="stores of their single scores")
    add_flag(parser, "worlds", type=int, default=8, help="worlds of each data set (default: 8)")
    add_flag(parser, "jobs", type=int, default=available_cores())
    add_flag(parser, "output", metavar="FILE", help="write the table here as well")
    arguments = parser.parse_args(argv)
    _, sets = space_and_sets(arguments.curves, arguments.space, arguments.stores)
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        work = {
            data.name: [
                pool.submit(one_world, arguments.curves, arguments.space, arguments.stores, data.name, number)
                for number in range(arguments.worlds)
            ]
            for data in sets
        }
        found = {name: [done.result() for done in worlds] for name, worlds in work.items()}
    rows = rows_of(found)
    tell_table(rows, arguments.output, command_of("until_flat", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
