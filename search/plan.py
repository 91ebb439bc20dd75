"""Shows what a memory budget allows: ``python -m search.plan --space ad_tuning --gpu-memory-budget 8GiB``.

Prints the share of the space that fits and, for sampled or given configurations, the memory of each part, the chosen
plan, or why none fits. Trains nothing and needs no GPU.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table

from spaces.loader import load_space
from spaces.space import Space
from trainable.commandline import (
    Parser,
    add_data_flags,
    add_flag,
    add_knob_flags,
    add_options_file,
    add_plan_flags,
    data_config,
    given_knobs,
    plan_request,
    refuse_ignored,
    run,
)
from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.execution_plan import MemoryPlan, PlanRequest
from trainable.memory.profile import DeviceProfile
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
"""Characters per line without a terminal, unless the variable COLUMNS says how many."""
SAMPLES, ROWS, SEED = 256, 12, 0
OF_A_SPACE = ("samples", "rows", "seed")
"""Flags that sample a space."""


@dataclass(frozen=True)
class Planned:
    """One configuration and the planner's choice for it."""

    values: Mapping[str, Any]
    """The values that distinguish it from the others."""
    choice: MemoryPlan


def build_parser() -> Parser:
    parser = Parser(prog="python -m search.plan", description=__doc__)
    add_flag(
        parser, "space", metavar="NAME_OR_PATH", help="search space: ad_tuning, ad_smoke, ad_losses or a YAML file"
    )
    add_flag(parser, "config", metavar="FILE", help="plan this configuration (such as best.yaml) instead of a space")
    add_flag(parser, "recalibrate", metavar="RUN", help="compare the measured peaks of a run with their predictions")
    add_flag(parser, "profile_output", metavar="FILE", help="where --recalibrate saves the corrected profile")
    add_flag(parser, "gpu_memory_budget", metavar="SIZE", help="GPU memory of each trial, such as 24GiB")
    add_flag(parser, "samples", type=int, metavar="N", help=f"configurations to sample ({SAMPLES})")
    add_flag(parser, "rows", type=int, metavar="N", help=f"sampled configurations to show in the table ({ROWS})")
    add_flag(parser, "seed", type=int, metavar="N", help=f"seed of the sample ({SEED})")
    add_flag(parser, "profile", metavar="FILE", help="device profile (JSON) that benchmarks/gpu_memory.py measured")
    add_options_file(parser)
    add_data_flags(parser)
    add_plan_flags(parser)
    add_knob_flags(parser, leave_out=("seed",))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.recalibrate is not None:
        of_recalibration = {"recalibrate", "profile", "profile_output", "options", "space", "config"}
        others = [name for name in vars(arguments) if name not in of_recalibration]
        refuse_ignored(
            parser, arguments, others, "changes nothing with --recalibrate, which reads the run's; remove one"
        )
        return _recalibrate(arguments)
    if arguments.profile_output is not None:
        raise ConfigError("--profile-output needs --recalibrate RUN, whose result it saves; give both")
    if (arguments.space is None) == (arguments.config is None):
        raise ConfigError("give either --space NAME or --config FILE")
    if arguments.config is not None:
        refuse_ignored(parser, arguments, OF_A_SPACE, "is for the sample of a --space; remove it")
        return _plan_config(arguments)
    return _plan_space(arguments)


def _plan_config(arguments: argparse.Namespace) -> int:
    given = given_knobs(arguments)
    saved, saved_data = read_config_file(Path(arguments.config))
    config = TrialConfig.from_flat({**saved, **given})
    limits = Limits.read(arguments)
    request = plan_request(arguments, config.patch.batch_size)
    planner = limits.planner(_dataset(arguments, saved_data), request)
    print_plans(_console(), [Planned(given or {"file": Path(arguments.config).name}, planner.plan(config))])
    return 0


def _plan_space(arguments: argparse.Namespace) -> int:
    samples, rows, seed = (
        default if given is None else given
        for given, default in ((arguments.samples, SAMPLES), (arguments.rows, ROWS), (arguments.seed, SEED))
    )
    for flag, value in (("--samples", samples), ("--rows", rows)):
        if value < 1:
            raise ConfigError(f"{flag} is {value}; it must be at least 1")
    given = given_knobs(arguments)
    space = load_space(arguments.space)
    limits = Limits.read(arguments)
    dataset = _dataset(arguments, space.data)
    # As in a search: no more patches than the stride yields from these clips.
    space = space.for_clips(int(dataset.train.lengths.max()))
    sample = draw(space, samples, seed)
    configs = [_config(space, params, given) for params in sample]
    planner = limits.planner(dataset, plan_request(arguments, configs[0].patch.batch_size))
    planned = [
        Planned({name: value for name, value in params.items() if name not in given}, planner.plan(config))
        for params, config in zip(sample, configs, strict=True)
    ]
    console = _console()
    print_share(console, f"space {space.name}", planned, planner)
    if given:
        console.print("all of them with " + ", ".join(f"{name} {_short(value)}" for name, value in given.items()))
    print_plans(console, planned[:rows])
    return 0


def _console() -> Console:
    """As wide as the terminal; where there is none, wide enough for the whole table."""
    attended = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if attended else UNATTENDED_WIDTH)


def _recalibrate(arguments: argparse.Namespace) -> int:
    if arguments.space is not None or arguments.config is not None:
        raise ConfigError("--recalibrate takes its configurations from the run; remove --space and --config")
    from trainable.memory.calibrate import calibrated_by_run
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


@dataclass(frozen=True)
class Limits:
    """What plans must fit, checked before any recording is read."""

    budget_bytes: int | None
    profile: DeviceProfile | None
    """As given; None = that of this machine's GPU."""

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> "Limits":
        """Raises ConfigError for a flag that cannot be read."""
        budget = arguments.gpu_memory_budget
        return cls(
            budget_bytes=None if budget is None else parse_bytes(budget, "--gpu-memory-budget"),
            profile=DeviceProfile.load(Path(arguments.profile)) if arguments.profile else None,
        )

    def planner(self, dataset: "Dataset", request: PlanRequest) -> "Planner":
        # Imported here so that --help and errors in flags appear at once.
        import torch

        from trainable.device.cap import gpu_name
        from trainable.memory.planner import Planner

        profile = self.profile or DeviceProfile.for_gpu(gpu_name("cuda") if torch.cuda.is_available() else None)
        return Planner.for_dataset(dataset, budget_bytes=self.budget_bytes, request=request, profile=profile)


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


def print_share(console: Console, what: str, planned: Sequence[Planned], planner: "Planner") -> None:
    """Prints the share that fits, by plan, and the smallest and largest predicted peaks."""
    fitting = [item.choice for item in planned if item.choice.fits]
    budget = "no budget" if planner.budget_bytes is None else f"a budget of {format_bytes(planner.budget_bytes)}"
    measured = "measured" if planner.profile.measured else "not measured on a GPU"
    console.print(
        f"{what}, {budget}: {len(fitting)} of {len(planned)} sampled configurations fit "
        f"({len(fitting) / len(planned):.0%})\n"
        f"device profile: {planner.profile.name} ({measured})"
    )
    sizes = [item.choice.predicted_bytes for item in planned]
    console.print(
        f"predicted peaks of the chosen or smallest plans: {format_bytes(min(sizes))} to {format_bytes(max(sizes))}"
    )
    for description, count in Counter(choice.plan.describe() for choice in fitting).most_common():
        console.print(f"  {count / len(planned):4.0%}  {description}")


def print_plans(console: Console, planned: Sequence[Planned]) -> None:
    """Prints the memory of each configuration by part; if no plan fits, that of the smallest plan.

    A table, or on a terminal that is too narrow for it a paragraph per configuration: nothing is cut off.
    """
    table = _table(planned)
    # Measured with room to spare: on a narrow console it would claim to fit by cutting cells off.
    if Measurement.get(console, console.options.update_width(1_000), table).minimum <= console.width:
        console.print(table)
        return
    console.print("predicted peak memory on a GPU", style="italic")
    for item in planned:
        style = None if item.choice.fits else "red"
        console.print(f"{format_bytes(item.choice.predicted_bytes)}: {_outcome(item.choice)}", style=style or "bold")
        for line in (_values(item), _largest_parts(item.choice)):
            console.print(Padding(line, (0, 0, 0, 4)), style=style)


def _table(planned: Sequence[Planned]) -> Table:
    table = Table(title="predicted peak memory on a GPU", title_justify="left")
    table.add_column("configuration", ratio=2, min_width=24)
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("total", justify="right", style="bold", no_wrap=True)
    table.add_column("plan, or why not", ratio=3, min_width=30)
    for item in planned:
        table.add_row(
            _values(item),
            *(format_bytes(size) for size in _parts(item.choice).values()),
            format_bytes(item.choice.predicted_bytes),
            _outcome(item.choice),
            style=None if item.choice.fits else "red",
        )
    return table


def _parts(choice: MemoryPlan) -> dict[str, int]:
    """Bytes of each column of the table."""
    return {column: sum(choice.breakdown.get(part, 0) for part in parts) for column, parts in COLUMNS.items()}


def _largest_parts(choice: MemoryPlan) -> str:
    """The same in words, the largest first, without those that need nothing."""
    ordered = sorted(_parts(choice).items(), key=lambda part: -part[1])
    return ", ".join(f"{column} {format_bytes(size)}" for column, size in ordered if size)


def _outcome(choice: MemoryPlan) -> str:
    return f"{choice.plan.describe()}; {choice.peak_pass}" if choice.fits else choice.reason


def _values(item: Planned) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in item.values.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run(main))
