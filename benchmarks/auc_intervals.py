"""How often 95 % intervals of a mean AUC hold the true one, with few clips and with many.

    python -m benchmarks.auc_intervals --repetitions 1000 --output benchmarks/results/auc_intervals.csv

Scores are drawn from two Gaussians of a known AUC, the same for every machine id; `scatter` is the standard deviation
of the anomalous ones in those of the normal ones. `interval` is the share of repetitions in which `auc_interval` holds
the true AUC, `width` its mean width; `bootstrap` and `bootstrap_width` are those of its percentile bootstrap alone, and
`score` and `score_width` of its score interval. `false_claims` is how often a paired bootstrap of clips, the one that
compares a detector with a yardstick, says that one of two detectors of the same true AUC detects more, where it may do
so in 5 % of comparisons; half of the variance of their scores is common to both.
"""

import sys
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_flag, run
from trainable.scoring.metrics import bootstrap_aucs, mean_auc, percentile_interval, score_interval

CLIPS = ((1, 1), (2, 2), (5, 5), (10, 10), (30, 30), (80, 80), (80, 3), (80, 10))
"""Normal and anomalous clips of each machine id."""
AUCS = (0.7, 0.9, 0.98)
SCATTERS = (1.0, 3.0)
RESAMPLES = 300
COMMON = 0.5
"""Share of the scores' variance that two detectors have in common."""


def measured(
    normal: int, anomalous: int, ids: int, true: float, scatter: float, repetitions: int
) -> dict[str, int | float | str]:
    """A row of the table."""
    labels = np.tile(np.repeat([0, 1], [normal, anomalous]), ids)
    machine_ids = tuple(np.repeat([f"{each:02d}" for each in range(ids)], normal + anomalous).tolist())
    anomalous_I, normal_I = np.full(ids, anomalous), np.full(ids, normal)
    shift = NormalDist().inv_cdf(true) * np.hypot(1, scatter)
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[float, float]]] = {"bootstrap": [], "score": []}
    claims = 0
    for _ in range(repetitions):
        own, common = rng.standard_normal((2, len(labels))), rng.standard_normal(len(labels))
        mixed = np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * own
        scores, others = np.where(labels == 1, shift + scatter * mixed, mixed)
        resamples = bootstrap_aucs(labels, scores, machine_ids, resamples=RESAMPLES)
        found["bootstrap"].append(percentile_interval(resamples))
        found["score"].append(score_interval(mean_auc(labels, scores, machine_ids), anomalous_I, normal_I))
        gains = resamples - bootstrap_aucs(labels, others, machine_ids, resamples=RESAMPLES)
        low, high = percentile_interval(gains)
        claims += low > 0 or high < 0
    row: dict[str, int | float | str] = {
        "normal": normal,
        "anomalous": anomalous,
        "ids": ids,
        "auc": true,
        "scatter": scatter,
    }
    # As `auc_interval`, without drawing the same resamples again.
    found["interval"] = [(min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(*found.values(), strict=True)]
    for name in ("interval", "bootstrap", "score"):
        low_R, high_R = np.array(found[name]).T
        row[name] = f"{np.mean((low_R <= true) & (true <= high_R)):.3f}"
        row["width" if name == "interval" else f"{name}_width"] = f"{np.mean(high_R - low_R):.3f}"
    return row | {"false_claims": f"{claims / repetitions:.3f}"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.auc_intervals", description=__doc__.split("\n")[0])
    add_flag(parser, "repetitions", type=int, default=1000, metavar="N", help="draws of each case (default: 1000)")
    add_flag(parser, "output", metavar="FILE", help="write the table as CSV")
    arguments = parser.parse_args(argv)
    rows = []
    for normal, anomalous in CLIPS:
        for ids in (1, 4):
            for true in AUCS:
                for scatter in SCATTERS:
                    rows.append(measured(normal, anomalous, ids, true, scatter, arguments.repetitions))
                    print(", ".join(f"{column} {value}" for column, value in rows[-1].items()), flush=True)
    if arguments.output:
        remark = f"seed 0; {RESAMPLES} resamples an interval"
        write_table(arguments.output, rows, command_of("auc_intervals", argv), remark)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
