"""Fits a device profile to the results of `benchmarks.gpu_memory`: times by least squares, margin from the worst."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.gpu_cases import DATA, Case
from trainable.execution_plan import ExecutionPlan
from trainable.memory.calibrate import Measured, recalibrated
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.units import MIB

LARGE_BYTES = 256 * MIB
"""In smaller peaks, the units in which the allocator reserves memory dominate; these are counted separately."""
Row = Mapping[str, Any]


def calibrated(
    rows: Sequence[Row], cases: Mapping[str, Case], profile: DeviceProfile, *, name: str, total_bytes: int
) -> DeviceProfile:
    """Fits the profile of a card.

    Parameters
    ----------
    rows
        Measured rows of the table without failed ones.
    cases
        By name, the case of each row. Rows without a known case are ignored.
    profile
        Provides the values that were not measured.
    total_bytes
        Memory of the card.
    """
    known = [row for row in rows if row["case"] in cases]
    measured: dict[str, Any] = {
        "name": name,
        "total_bytes": total_bytes,
        "context_bytes": max(
            0, max(row["driver_bytes"] - row["reserved_bytes"] for row in known) - profile.library_bytes
        ),
        "fragmentation_share": _fragmentation(known, profile),
    }
    started = replace(profile, **(measured | time_quantities(known, cases, profile)))
    peaks = [Measured(cases[row["case"]].config, cases[row["case"]].plan, row["allocated_bytes"]) for row in known]
    return recalibrated(started, peaks, DATA)


def _fragmentation(rows: Sequence[Row], profile: DeviceProfile) -> float:
    """Largest excess of reserved bytes over allocated bytes and the allocator's units, as a share of the allocated."""
    large = [row for row in rows if row["allocated_bytes"] > LARGE_BYTES] or list(rows)
    units = profile.small_segment_bytes + profile.large_segment_bytes
    return max(0.0, *((row["reserved_bytes"] - units) / row["allocated_bytes"] - 1.0 for row in large))


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
    plain = {
        str(case.config.flat()): row
        for row in rows
        if (case := cases[row["case"]]).plan == ExecutionPlan(micro_batch_clips=case.config.patch.batch_size)
    }
    equations, ratios = [], []
    for row in rows:
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
