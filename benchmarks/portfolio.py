"""A short list of configurations that do well together on recorded data sets: what a search proposes first.

    python -m benchmarks.portfolio --count 3 --output portfolio.yaml

Chosen greedily, as portfolios of AutoML systems are (Feurer et al. 2022, "Auto-Sklearn 2.0", section 3.1): each next
configuration is the one that raises most the mean, over data sets, of the best truth of the list so far. Truths of a
data set are divided by their standard deviation, so that one where configurations differ little counts as much as one
where they differ a lot. A list of the other data sets is judged on the one left out: its best truth, and how far that
is from the best of as many random configurations.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.curves import FUSED, TABLES, DataSet, read_curves
from benchmarks.recorded import PORTFOLIO, RECORDED_SPACE
from benchmarks.tables import command_of
from spaces.loader import load_space
from trainable.commandline import Parser, add_flag, run

COUNT = 3
DRAWS = 2_000


def truths(data: DataSet, score: str = FUSED) -> dict[int, float]:
    """Configuration → truth, mean over its seeds, in standard deviations of the data set."""
    means = {
        each.configuration: float(np.mean([one.curves[score].truth for one in data.by_repeat(each.configuration)]))
        for each in data.drawn
    }
    values = np.array(list(means.values()))
    return {number: (value - values.mean()) / (values.std() + 1e-12) for number, value in means.items()}


def greedy(sets: Sequence[DataSet], count: int = COUNT, score: str = FUSED) -> list[int]:
    """Configurations that do well together, the one that does best alone first; only those that all sets recorded."""
    by_set = [truths(data, score) for data in sets]
    common = sorted(set.intersection(*(set(found) for found in by_set)))
    table = np.array([[found[number] for number in common] for found in by_set])
    best = np.full(len(sets), -np.inf)
    chosen: list[int] = []
    for _ in range(min(count, len(common))):
        gains = np.maximum(table, best[:, None]).mean(axis=0)
        gains[[common.index(number) for number in chosen]] = -np.inf
        at = int(gains.argmax())
        chosen.append(common[at])
        best = np.maximum(best, table[:, at])
    return chosen


def left_out(sets: Sequence[DataSet], count: int) -> list[dict[str, Any]]:
    """For each data set: the best truth among the list of the others and among as many random configurations, and the
    truths of the shipped list."""
    rng = np.random.default_rng(0)
    rows = []
    for data in sets:
        truth = {each.configuration: each.curves[FUSED].truth for each in data.drawn}
        chosen = [n for n in greedy([other for other in sets if other is not data], count) if n in truth]
        drawn = [max(rng.permutation(list(truth.values()))[:count]) for _ in range(DRAWS)]
        shipped = [each.curves[FUSED].truth for each in data.once if each.configuration >= PORTFOLIO]
        rows.append(
            {
                "data set": data.name,
                "list": " ".join(str(number) for number in chosen),
                "its first": f"{truth[chosen[0]]:.3f}",
                "its best": f"{max(truth[number] for number in chosen):.3f}",
                "best of random": f"{np.mean(drawn):.3f}",
                "a random one": f"{np.mean(list(truth.values())):.3f}",
                "best of all": f"{max(truth.values()):.3f}",
                "shipped": " ".join(f"{value:.3f}" for value in shipped) or "not recorded",
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.portfolio", description=__doc__.split("\n")[0])
    add_flag(parser, "space", default=str(RECORDED_SPACE))
    add_flag(parser, "curves", metavar="DIR", default=str(TABLES), help="tables of recorded trainings")
    add_flag(parser, "count", type=int, default=COUNT)
    add_flag(parser, "output", metavar="FILE", help="write the list of all data sets as YAML")
    arguments = parser.parse_args(argv)
    space = load_space(arguments.space)
    sets = read_curves(space, Path(arguments.curves))
    for row in left_out(sets, arguments.count):
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    chosen = greedy(sets, arguments.count)
    print(f"of all data sets: {chosen}")
    if arguments.output:
        lines = [
            "# What a search proposes first: configurations that do well together on the data sets of the bench.",
            f"# {command_of('portfolio', argv)}",
            f"# Chosen on {', '.join(f'{data.name} ({len(data.drawn)} configurations)' for data in sets)}.",
        ]
        content = {"fixed": dict(space.fixed), "configurations": [sets[0].params[number] for number in chosen]}
        text = yaml.safe_dump(content, sort_keys=False)
        Path(arguments.output).write_text("\n".join([*lines, text]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
