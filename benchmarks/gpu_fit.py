"""Fits a device profile to what `benchmarks.gpu_session` or `benchmarks.gpu_memory` measured on a card.

    python -m benchmarks.gpu_fit benchmarks/results/h100 --output trainable/memory/profiles/h100.json

Needs no card. Times come from least squares, workspaces from the allocator's peaks, the margin from the worst of these,
context and libraries from the fresh processes whose memory the driver counted. Rows in float16 are left out: that type
is chosen only on cards without bfloat16, whose kernels are others.
"""

import csv
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_cases import DATA, Case, cases, timed_cases
from trainable.commandline import Parser, add_flag, run
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.calibrate import Measured, errors_of, recalibrated
from trainable.memory.planner import Planner
from trainable.memory.profile import RATES, DeviceProfile
from trainable.units import MIB

Row = Mapping[str, Any]
LIBRARIES_MIB = 126
"""What cuBLAS and cuDNN add to the context on an H100 (`benchmarks.gpu_session --only context`); only the sum of both
matters to a prediction."""


def calibrated(
    rows: Sequence[Row], cases: Mapping[str, Case], profile: DeviceProfile, *, name: str, total_bytes: int
) -> DeviceProfile:
    """Fits the profile of a card.

    Parameters
    ----------
    rows
        Measured rows without failed ones, with any of ``allocated_bytes``, ``step_seconds``, and ``driver_bytes``
        beside ``reserved_bytes``. Those without a known case and those in float16 are ignored.
    cases
        By name, the case of each row.
    profile
        Provides the values that were not measured.
    total_bytes
        Memory of the card.
    """
    known = [row for row in rows if row["case"] in cases and cases[row["case"]].plan.precision != "amp_float16"]
    outside = [row["driver_bytes"] - row["reserved_bytes"] for row in known if "driver_bytes" in row]
    measured: dict[str, Any] = {"name": name, "total_bytes": total_bytes, **time_quantities(known, cases, profile)}
    if outside:
        library_bytes = min(LIBRARIES_MIB * MIB, max(outside))
        # The driver gives memory in units of 2 MiB.
        measured |= {"library_bytes": library_bytes, "context_bytes": _rounded(max(outside) - library_bytes, 2 * MIB)}
    return recalibrated(replace(profile, **measured), peaks_of(known, cases), DATA)


def peaks_of(rows: Iterable[Row], cases: Mapping[str, Case]) -> list[Measured]:
    """The peaks among the rows."""
    return [
        Measured(cases[row["case"]].config, cases[row["case"]].plan, row["allocated_bytes"])
        for row in rows
        if "allocated_bytes" in row
    ]


def _rounded(size_bytes: int, unit_bytes: int) -> int:
    return math.ceil(size_bytes / unit_bytes) * unit_bytes


TIMES = (
    "recompute_encoder_share",
    "recompute_decoder_share",
    "host_share",
    "amp_time_share",
    "micro_batch_patches",
    "chunk_patches",
)
"""Fitted quantities of `Planner.relative_time`, in the order of the columns below."""


def time_quantities(rows: Sequence[Row], cases: Mapping[str, Case], profile: DeviceProfile) -> dict[str, float]:
    """Fits the cost of each part of a plan by least squares to rows relative to their configuration's plain plan.

    Let r be the ratio of a row's time to the plain plan's, with P patches per step, n micro-batches and c chunks (the
    plain plan has 1 and c₀). Then `relative_time` gives r (P + m + k c₀) = P (1 + Σ shares) + m n + k c, which is
    linear in the shares, m and k. Mixed precision multiplies the shares, so rows that combine it with one are ignored.
    """
    planner = Planner(DATA, budget_bytes=None, profile=profile)
    timed = [row for row in rows if "step_seconds" in row]
    plain = {
        str(case.config.flat()): row
        for row in timed
        if (case := cases[row["case"]]).plan == ExecutionPlan(micro_batch_clips=case.config.patch.batch_size)
    }
    equations, ratios = [], []
    for row in timed:
        case = cases[row["case"]]
        plan, base = case.plan, plain.get(str(case.config.flat()))
        shares = (plan.recompute_encoder, plan.recompute_decoder, plan.data_placement == "host")
        if base is None or base is row or (plan.uses_amp and any(shares)):
            continue
        ratio = row["step_seconds"] / base["step_seconds"]
        patches = case.config.patch.batch_size * case.config.patch.n_patches
        micro, chunks = planner.counts(case.config, plan)
        plain_micro, plain_chunks = planner.counts(case.config, cases[base["case"]].plan)
        counts = ((micro - ratio * plain_micro) / patches, (chunks - ratio * plain_chunks) / patches)
        equations.append([*map(float, shares), float(plan.uses_amp), *counts])
        ratios.append(ratio - 1.0)
    if not equations:
        return {}
    matrix = np.array(equations)
    varied = np.flatnonzero(np.abs(matrix).max(axis=0) > 0)  # quantities that no row varies keep their values
    solution = np.linalg.lstsq(matrix[:, varied], np.array(ratios), rcond=None)[0]
    values = dict(zip((TIMES[column] for column in varied), solution.tolist(), strict=True))
    if "amp_time_share" in values:
        values["amp_time_share"] += 1.0
    return {quantity: round(max(0.0, value), 4) for quantity, value in values.items()}


def read_session(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of a session's tables with numbers as numbers, failed ones left out, and the versions it ran on.

    Raises ConfigError if the folder holds no session.
    """
    try:
        versions = json.loads((folder / "session.json").read_text(encoding="utf-8"))["versions"]
    except (OSError, ValueError, KeyError):
        raise ConfigError(f"{folder} holds no results of benchmarks.gpu_session") from None
    rows: list[dict[str, Any]] = []
    for name in ("table", "driver", "times"):
        path = folder / f"{name}.csv"
        if not path.exists():
            continue
        with path.open(newline="", encoding="utf-8") as file:
            rows += [_numbers(row) for row in csv.DictReader(file) if not row.get("failed")]
    return rows, versions


def _numbers(row: Mapping[str, str]) -> dict[str, Any]:
    """What `calibrated` reads of a row."""
    if row.get("median_ms"):
        return {"case": row["case"], "step_seconds": float(row["median_ms"]) / 1e3}
    wanted = ("allocated_bytes", "reserved_bytes", "driver_bytes")
    return {"case": row["case"], **{column: int(row[column]) for column in wanted if row.get(column)}}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.gpu_fit", description=__doc__.split("\n")[0])
    parser.add_argument("folder", metavar="DIR", help="results of benchmarks.gpu_session")
    add_flag(parser, "output", metavar="FILE", required=True, help="the profile (JSON)")
    arguments = parser.parse_args(argv)
    rows, versions = read_session(Path(arguments.folder))
    by_name = {case.name: case for case in (*cases(), *timed_cases())}
    before = DeviceProfile()
    after = calibrated(rows, by_name, before, name=versions["gpu"], total_bytes=versions["total_bytes"])
    if (Path(arguments.folder) / "times.csv").exists():
        # Needs SciPy, which benchmarks.gpu_memory does without.
        from benchmarks.gpu_times import fitted_speed, fitted_steps

        speed = fitted_speed(fitted_steps(Path(arguments.folder)))
        rates: dict[str, Any] = {name: getattr(speed, name) for name in RATES}
        after = replace(after, **rates)
    after.save(Path(arguments.output))
    measured = peaks_of((row for row in rows if by_name[row["case"]].plan.precision != "amp_float16"), by_name)
    for profile in (before, after):
        errors = errors_of(measured, DATA, profile)
        print(
            f"{profile.name}: {len(measured)} peaks, median error {errors.median:.2%}, worst {errors.worst:.1%}, "
            f"{errors.above_margin} above the margin of {profile.margin_share:.1%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
