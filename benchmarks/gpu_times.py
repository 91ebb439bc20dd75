"""Fits a card's rates to the steps that `benchmarks.gpu_session` timed, and says how well they predict others.

    python -m benchmarks.gpu_times benchmarks/results/h100

Needs no card. The rates are fitted to the table of times and judged by the session's other tables, which they do not
know; a ratio is predicted divided by measured. `benchmarks.gpu_fit` writes the rates into the card's profile, and
`trainable.timing` predicts with them.
"""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.stats import spearmanr

from benchmarks.gpu_cases import IDS, Case, cases, timed_cases
from benchmarks.tables import read_table
from trainable.commandline import Parser, run
from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.memory.profile import RATES
from trainable.timing.counter import Work
from trainable.timing.speed import Speed
from trainable.timing.work import step_work

MOST_FLOPS = 4.94e14
"""Where no timed step is limited by its arithmetic, the fit ends at this bound: what an H100 does at most in TF32
(NVIDIA's data sheet, dense), in which PyTorch convolves float32 unless told otherwise."""
START = Speed(flops_per_second=1e14, bytes_per_second=1e12, launch_seconds=5e-5)


@dataclass(frozen=True)
class Timed:
    """Some work, and the seconds that it took."""

    name: str
    work: Work
    seconds: float


def fitted_speed(timed: Sequence[Timed]) -> Speed:
    """The rates whose predictions are nearest: mean absolute logarithm of the ratio."""

    def far(logs: np.ndarray) -> float:
        speed = Speed(*np.exp(logs).tolist())
        return float(np.mean([abs(math.log(ratio)) for ratio in ratios(timed, speed)]))

    begin = np.log([getattr(START, name) for name in RATES])
    bounds = [(None, math.log(MOST_FLOPS)), (None, None), (None, None)]
    found = minimize(far, begin, method="Nelder-Mead", bounds=bounds, options={"maxiter": 2_000})
    flops, moved_bytes, launch = (float(f"{value:.3g}") for value in np.exp(found.x).tolist())
    return Speed(flops, moved_bytes, launch)


def ratios(timed: Sequence[Timed], speed: Speed) -> list[float]:
    """Predicted ÷ measured."""
    return [speed.seconds(each.work).alone / each.seconds for each in timed]


def agreement(timed: Sequence[Timed], speed: Speed) -> str:
    """How well predictions agree, in one line."""
    found = ratios(timed, speed)
    rank = spearmanr([speed.seconds(each.work).alone for each in timed], [each.seconds for each in timed]).statistic
    return (
        f"{len(timed)} cases, rank correlation {rank:.2f}, predicted ÷ measured {np.median(found):.2f} in the median, "
        f"{min(found):.2f} … {max(found):.2f}"
    )


def timed_steps(rows: Iterable[Mapping[str, Any]], by_name: Mapping[str, Case]) -> list[Timed]:
    """Rows with ``step_seconds``, apart from float16 and from features on the host, which no kernel moves."""
    found = []
    for row in rows:
        case = by_name[row["case"]]
        if row.get("step_seconds") and case.plan.precision != "amp_float16" and case.plan.data_placement == "device":
            work = step_work(case.config, len(IDS), case.plan)
            found.append(Timed(case.name, work, float(row["step_seconds"])))
    return found


THROUGHPUT: dict[str, dict[str, Any]] = {
    "standard": {},
    "ad_tuning's middle": {"width": 0.5, "latent_dim": 24, "num_embeddings": 128, "n_patches": 4},
    "many codes": {"num_embeddings": 2048},
}
"""The cases of `benchmarks.throughput` when the session in `benchmarks/results/h100` timed them."""
BY_NAME = {case.name: case for case in (*cases(), *timed_cases())}


def fitted_steps(folder: Path) -> list[Timed]:
    """The steps of a session that rates are fitted to. Raises OSError if it has no table of times."""
    rows = read_table(folder / "times.csv")
    return timed_steps([row | {"step_seconds": float(row["median_ms"]) / 1e3} for row in rows], BY_NAME)


def other_steps(folder: Path) -> list[Timed]:
    """The steps of a session that rates are judged by. Raises OSError if it lacks a table."""
    others = timed_steps(read_table(folder / "driver.csv"), BY_NAME)
    for row in read_table(folder / "throughput.csv"):
        config = TrialConfig.from_flat(THROUGHPUT[row["case"]])
        seconds = config.patch.batch_size / float(row["ours clips/s"])
        others.append(Timed(row["case"], step_work(config, len(IDS)), seconds))
    return others


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.gpu_times", description=__doc__.split("\n")[0])
    parser.add_argument("folder", metavar="DIR", help="results of benchmarks.gpu_session")
    arguments = parser.parse_args(argv)
    try:
        fitted, others = fitted_steps(Path(arguments.folder)), other_steps(Path(arguments.folder))
    except OSError as error:
        raise ConfigError(f"{arguments.folder} holds no times of benchmarks.gpu_session: {error.strerror}") from None
    found = fitted_speed(fitted)
    print(", ".join(f"{name} {getattr(found, name):.3g}" for name in RATES))
    for what, timed in (("fitted to times.csv", fitted), ("driver.csv and throughput.csv", others)):
        print(f"{what}: {agreement(timed, found)}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
