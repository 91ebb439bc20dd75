"""Shows what a memory budget allows: ``python -m search.plan --space ad_tuning --gpu-memory-budget 8GiB``.

Prints the share of the space that fits and, for sampled or given configurations, the memory of each part, the chosen
plan, or why none fits. Trains nothing and needs no GPU.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from spaces.loader import load_space
from spaces.space import Space
from trainable.commandline import (
    add_data_flags,
    add_flag,
    add_knob_flags,
    add_plan_flags,
    data_config,
    given_knobs,
    plan_request,
    run,
)
from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.execution_plan import MemoryPlan
from trainable.train import read_config_file
from trainable.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from trainable.data.load import Dataset
    from trainable.memory.calibrate import Calibration
    from trainable.memory.planner import Planner

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "parameters": ("parameters", "gradients"),
    "optimizer": ("optimizer",),
    "encoder": ("encoder",),
    "quantizer": ("quantizer", "codebook", "codebook update"),
    "decoder": ("decoder",),
    "heads": ("heads", "losses"),
    "backward": ("backward",),
    "workspace": ("workspace", "split sums"),
    "data": ("data", "patches"),
    "device": ("context", "libraries", "fragmentation", "margin"),
}
"""Columns of the table, and the parts of a prediction that each one sums."""
UNATTENDED_WIDTH = 220
"""Characters per line without a terminal."""


@dataclass(frozen=True)
class Planned:
    """One configuration and the planner's choice for it."""

    values: Mapping[str, Any]
    """The values that distinguish it from the others."""
    choice: MemoryPlan


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m search.plan", description=__doc__)
    add_flag(
        parser, "space", metavar="NAME_OR_PATH", help="search space: ad_tuning, ad_smoke, ad_losses or a YAML file"
    )
    add_flag(parser, "config", metavar="FILE", help="plan this configuration (such as best.yaml) instead of a space")
    add_flag(parser, "recalibrate", metavar="RUN", help="compare the measured peaks of a run with their predictions")
    add_flag(parser, "profile_output", metavar="FILE", help="where --recalibrate saves the corrected profile")
    add_flag(parser, "gpu_memory_budget", metavar="SIZE", help="GPU memory of each trial, such as 24GiB")
    add_flag(parser, "samples", type=int, default=256, metavar="N", help="configurations to sample (256)")
    add_flag(parser, "rows", type=int, default=12, metavar="N", help="sampled configurations to show in the table (12)")
    add_flag(parser, "seed", type=int, default=0, metavar="N", help="seed of the sample (0)")
    add_flag(parser, "profile", metavar="FILE", help="device profile (JSON) that benchmarks/gpu_memory.py measured")
    add_data_flags(parser)
    add_plan_flags(parser)
    add_knob_flags(parser, leave_out=("seed",))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    if arguments.recalibrate is not None:
        return _recalibrate(arguments)
    if arguments.profile_output is not None:
        raise ConfigError("--profile-output needs --recalibrate RUN, whose result it saves; give both")
    if (arguments.space is None) == (arguments.config is None):
        raise ConfigError("give either --space NAME or --config FILE")
    for flag in ("samples", "rows"):
        if getattr(arguments, flag) < 1:
            raise ConfigError(f"--{flag} is {getattr(arguments, flag)}; it must be at least 1")
    given = given_knobs(arguments)
    given.pop("seed", None)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else UNATTENDED_WIDTH)
    if arguments.config is not None:
        saved, saved_data = read_config_file(Path(arguments.config))
        config = TrialConfig.from_flat({**saved, **given})
        planner = _planner(arguments, _dataset(arguments, saved_data), config.patch.batch_size)
        named = given or {"file": Path(arguments.config).name}
        print_table(console, [Planned(named, planner.plan(config))])
        return 0
    space = load_space(arguments.space)
    dataset = _dataset(arguments, space.data)
    # As in a search: no more patches than the stride yields from these clips.
    space = space.for_clips(int(dataset.train.lengths.max()))
    sample = draw(space, arguments.samples, arguments.seed)
    configs = [_config(space, params, given) for params in sample]
    planner = _planner(arguments, dataset, configs[0].patch.batch_size)
    planned = [Planned(params, planner.plan(config)) for params, config in zip(sample, configs, strict=True)]
    print_share(console, space, planned, planner)
    print_table(console, planned[: arguments.rows])
    return 0


def _recalibrate(arguments: argparse.Namespace) -> int:
    if arguments.space is not None or arguments.config is not None:
        raise ConfigError("--recalibrate takes its configurations from the run; remove --space and --config")
    from trainable.memory.calibrate import calibrated_by_run
    from trainable.memory.profile import DeviceProfile
    from trainable.record import RunFolder

    profile = DeviceProfile.load(Path(arguments.profile)) if arguments.profile else None
    calibration = calibrated_by_run(RunFolder(Path(arguments.recalibrate)), profile)
    console = Console(highlight=False, soft_wrap=True)
    print_calibration(console, arguments.recalibrate, calibration)
    if arguments.profile_output is not None:
        output = Path(arguments.profile_output)
        calibration.after.save(output)
        console.print(f"saved as {output}; plan with it: --profile {output}")
    return 0


def draw(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Uniform draws of a space's parameters, as in the first proposals of a search."""
    import numpy as np

    from search.engine.space_draws import uniform_params

    rng = np.random.RandomState(seed)
    return [uniform_params(space, rng) for _ in range(count)]


def _config(space: Space, params: Mapping[str, Any], given: Mapping[str, Any]) -> TrialConfig:
    """A draw's configuration; flags override drawn and fixed values."""
    flagged = replace(space, fixed={**space.fixed, **given})
    kept = {name: value for name, value in params.items() if name not in given}
    return flagged.config(kept, epochs=int(given.get("epochs", space.search.max_epochs)))


def _dataset(arguments: argparse.Namespace, data: Mapping[str, Any]) -> "Dataset":
    from trainable.data.load import load_dataset

    return load_dataset(data_config(arguments, dict(data)))


def _planner(arguments: argparse.Namespace, dataset: "Dataset", batch_size: int) -> "Planner":
    # Imported here so that --help and errors in flags appear at once.
    import torch

    from trainable.device.cap import gpu_name
    from trainable.memory.planner import Planner
    from trainable.memory.profile import DeviceProfile

    budget = arguments.gpu_memory_budget
    budget_bytes = parse_bytes(budget, "--gpu-memory-budget") if budget is not None else None
    request = plan_request(arguments, batch_size)
    if arguments.profile:
        profile = DeviceProfile.load(Path(arguments.profile))
    else:
        profile = DeviceProfile.for_gpu(gpu_name("cuda") if torch.cuda.is_available() else None)
    return Planner.for_dataset(dataset, budget_bytes=budget_bytes, request=request, profile=profile)


def print_calibration(console: Console, run: str, calibration: "Calibration") -> None:
    """Prints the errors of a run's predicted peaks, before and after the profile was corrected."""
    console.print(f"{calibration.peaks} measured peaks of {run}; error of the predicted allocation:")
    for word, profile, errors in (
        ("before", calibration.before, calibration.errors_before),
        ("after", calibration.after, calibration.errors_after),
    ):
        console.print(
            f"  {word:6}  median {errors.median:.1%}, worst {errors.worst:.1%}; margin {profile.margin_share:.1%}, "
            f"{errors.above_margin} peaks above it; workspace share {profile.convolution_workspace_share:.2f}"
        )


def print_share(console: Console, space: Space, planned: Sequence[Planned], planner: "Planner") -> None:
    """Prints the share of the space that fits, by plan, and the smallest and largest predicted peaks."""
    fitting = [item.choice for item in planned if item.choice.fits]
    budget = "no budget" if planner.budget_bytes is None else f"a budget of {format_bytes(planner.budget_bytes)}"
    measured = "measured" if planner.profile.measured else "not measured on a GPU"
    console.print(
        f"space {space.name}, {budget}: {len(fitting)} of {len(planned)} sampled configurations fit "
        f"({len(fitting) / len(planned):.0%})\n"
        f"device profile: {planner.profile.name} ({measured})"
    )
    sizes = [item.choice.predicted_bytes for item in planned]
    console.print(
        f"predicted peaks of the chosen or smallest plans: {format_bytes(min(sizes))} to {format_bytes(max(sizes))}"
    )
    for description, count in Counter(choice.plan.describe() for choice in fitting).most_common():
        console.print(f"  {count / len(planned):4.0%}  {description}")


def print_table(console: Console, planned: Sequence[Planned]) -> None:
    """Prints the memory of each configuration by part; if no plan fits, that of the smallest plan."""
    table = Table(title="predicted peak memory on a GPU", title_justify="left")
    table.add_column("configuration", ratio=2, min_width=24)
    for name in COLUMNS:
        table.add_column(name, justify="right")
    table.add_column("total", justify="right", style="bold")
    table.add_column("plan, or why not", ratio=3, min_width=30)
    for item in planned:
        choice = item.choice
        parts = choice.breakdown
        sums = [sum(parts.get(part, 0) for part in names) for names in COLUMNS.values()]
        outcome = f"{choice.plan.describe()}; {choice.peak_pass}" if choice.fits else choice.reason
        table.add_row(
            ", ".join(f"{name} {_short(value)}" for name, value in item.values.items()),
            *(format_bytes(size) for size in sums),
            format_bytes(choice.predicted_bytes),
            outcome,
            style=None if choice.fits else "red",
        )
    console.print(table)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run(main))
