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

from search.budget import DRAWS, Machine, Outlook, Outlooks, sample, time_on
from search.budget_table import print_outlooks, show_soonest
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
from trainable.device.budget import Budget, Card
from trainable.errors import ConfigError
from trainable.execution_plan import MemoryPlan, PlanRequest
from trainable.host import available_cores
from trainable.memory.profile import DeviceProfile
from trainable.train import read_config_file
from trainable.units import format_bytes, parse_bytes, seconds_text

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
SAMPLES, ROWS, SEED = 128, 12, 0
OF_A_SPACE = ("samples", "show", "seed")
"""Flags that sample a space."""


@dataclass(frozen=True)
class Planned:
    """One configuration and the planner's choice for it."""

    values: Mapping[str, Any]
    """The values that distinguish it from the others."""
    choice: MemoryPlan
    epoch_seconds: float | None = None
    """Predicted for a trial that has the device to itself; None where its speed was not measured."""


class Timed:
    """Plans configurations, with the time of an epoch where the profile says how fast the device is.

    Parameters
    ----------
    device
        What trains: ``cpu`` or a CUDA device.
    """

    def __init__(self, planner: "Planner", device: str = "cuda"):
        # Imported here so that --help needs no torch.
        from search.engine.pace import Pace
        from trainable.timing.speed import Speed

        self._planner, self._pace = planner, Pace(planner.data, Speed.of(planner.profile, device))

    def planned(self, values: Mapping[str, Any], config: TrialConfig, choice: MemoryPlan | None = None) -> Planned:
        """A configuration with its plan, unless the planner's `choice` is given."""
        choice = self._planner.plan(config) if choice is None else choice
        return Planned(values, choice, self._pace.predict(config, choice.plan) if choice.fits else None)


def build_parser() -> Parser:
    parser = Parser(prog="python -m search.plan", description=__doc__)
    add_flag(
        parser, "space", metavar="NAME_OR_PATH", help="space: ad_tuning, ad_gpu, ad_smoke, ad_losses or a YAML file"
    )
    add_flag(
        parser,
        "config",
        metavar="FILE",
        help="plan this configuration (detector, recipe, or a file) instead of a space",
    )
    add_flag(parser, "recalibrate", metavar="RUN", help="compare the measured peaks of a run with their predictions")
    add_flag(parser, "profile_output", metavar="FILE", help="where --recalibrate saves the corrected profile")
    add_flag(
        parser,
        "gpu_memory_budget",
        nargs="+",
        metavar="SIZE",
        help="GPU memory of each trial, such as 24GiB, 0.25 of a card, or auto; several are compared",
    )
    add_flag(parser, "gpu_memory", metavar="SIZE", help="memory of the card planned for (default: the profile's)")
    add_flag(parser, "samples", type=int, metavar="N", help=f"configurations to sample ({SAMPLES})")
    add_flag(parser, "show", type=int, metavar="N", help=f"sampled configurations to show in the table ({ROWS})")
    add_flag(parser, "seed", type=int, metavar="N", help=f"seed of the sample ({SEED})")
    add_flag(parser, "profile", metavar="FILE", help="device profile (JSON) that benchmarks/gpu_fit.py made")
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
    if len(limits.budgets) > 1:
        raise ConfigError("several budgets compare the plans of a --space; with --config give one")
    unlimited = limits.planner(_dataset(arguments, saved_data), request)
    console = _console()
    sizes = limits.sizes(limits.machine(unlimited.profile), console)
    planner = unlimited.within(next(iter(sizes), None))
    print_plans(console, [Timed(planner).planned(given or {"file": Path(arguments.config).name}, config)])
    return 0


def _plan_space(arguments: argparse.Namespace) -> int:
    samples, rows, seed = (
        default if given is None else given
        for given, default in ((arguments.samples, SAMPLES), (arguments.show, ROWS), (arguments.seed, SEED))
    )
    for flag, value in (("--samples", samples), ("--show", rows)):
        if value < 1:
            raise ConfigError(f"{flag} is {value}; it must be at least 1")
    # Imported here so that --help needs no Optuna.
    from search.engine.space_draws import draw, refuse_several_batch_sizes

    given = given_knobs(arguments)
    space = _with_given(_space_on_gpu(arguments.space), given)
    if arguments.gradient_accumulation_steps is not None:
        refuse_several_batch_sizes(space)
    limits = Limits.read(arguments)
    dataset = _dataset(arguments, space.data)
    # As in a search: no more patches than the stride yields from these clips.
    space = space.for_clips(int(dataset.train.lengths.max()))
    epochs = int(given.get("epochs", space.search.max_epochs))
    first = space.config(draw(space, 1, seed)[0], epochs=epochs)
    planner = limits.planner(dataset, plan_request(arguments, first.patch.batch_size))
    sampled = sample(
        draw(space, max(DRAWS, 4 * samples), seed),
        lambda params: space.config(params, epochs=epochs),
        n_ids=planner.data.n_ids,
        count=samples,
    )
    configs = [config for _, config in sampled]
    console = _console()
    if given:
        console.print("all of them with " + ", ".join(f"{name} {_short(value)}" for name, value in given.items()))
    machine = limits.machine(planner.profile)
    if len(limits.budgets) > 1:
        print(f"space {space.name}: {len(configs)} sampled configurations; {_profile_text(planner)}")
        _compare(console, configs, planner, machine, limits.sizes(machine, console))
        return 0
    if limits.is_auto:
        assert machine is not None, "read with the flags"
        budget_bytes: int | None = show_soonest(console, configs, planner, machine).budget_bytes
    else:
        budget_bytes = next(iter(limits.sizes(machine, console)), None)
    outlooks = Outlooks(configs, planner, machine)
    plans = outlooks.plans(budget_bytes)
    print_share(console, f"space {space.name}", plans, planner.within(budget_bytes))
    if budget_bytes is not None and not limits.is_auto:
        console.print(str(outlooks.outlook(budget_bytes, plans)), soft_wrap=True)
    timed, every = Timed(planner), max(1, len(plans) // rows)
    shown = [(params, config, plan) for (params, config), plan in zip(sampled, plans, strict=True)][::every][:rows]
    print_plans(console, [timed.planned(*each) for each in shown])
    return 0


def _compare(
    console: Console,
    configs: Sequence[TrialConfig],
    planner: "Planner",
    machine: Machine | None,
    budgets: Sequence[int],
) -> None:
    """Prints what to expect of several budgets; how fast they are only where the card is known."""
    time_of = None if machine is None else time_on(planner, "cuda")
    ordered, outside_bytes = sorted(budgets, reverse=True), planner.profile.outside_bytes
    outlooks = Outlooks(configs, planner, machine, time_of).under(each for each in ordered if each > outside_bytes)
    # The planner refuses budgets below what any process takes: nothing fits them.
    nothing = [Outlook(each, whole=0.0, smaller=0.0) for each in ordered if each <= outside_bytes]
    print_outlooks(console, [*outlooks, *nothing])


def _space_on_gpu(name_or_path: str) -> Space:
    """The space that a search on a GPU would take, since a plan is one for a GPU."""
    space = load_space(name_or_path)
    if space.on_gpu is None:
        return space
    print(f"space {space.name}: a plan is for a GPU, where {space.on_gpu} is searched (a file is planned as it is)")
    return load_space(space.on_gpu)


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


def _with_given(space: Space, given: Mapping[str, Any]) -> Space:
    """The space with flags in place of what it draws or fixes; conditions follow them."""
    searched = tuple(parameter for parameter in space.parameters if parameter.name not in given)
    return replace(space, parameters=searched, fixed={**space.fixed, **given})


def _dataset(arguments: argparse.Namespace, data: Mapping[str, Any]) -> "Dataset":
    from trainable.data.load import load_dataset

    return load_dataset(data_config(arguments, dict(data)))


@dataclass(frozen=True)
class Limits:
    """What plans must fit, checked before any recording is read."""

    budgets: tuple[Budget, ...]
    profile: DeviceProfile | None
    """As given; None = that of this machine's GPU."""
    card_bytes: int | None
    """Memory of the card planned for, as given; None = the profile's, or that of this machine's GPU."""

    @classmethod
    def read(cls, arguments: argparse.Namespace) -> "Limits":
        """Raises ConfigError for a flag that cannot be read, and for a budget that takes a card where none is known."""
        size = arguments.gpu_memory
        limits = cls(
            budgets=tuple(Budget.read(text) for text in arguments.gpu_memory_budget or ()),
            profile=DeviceProfile.load(Path(arguments.profile)) if arguments.profile else None,
            card_bytes=None if size is None else parse_bytes(size, "--gpu-memory"),
        )
        if size is not None and not limits.budgets:
            raise ConfigError("--gpu-memory changes nothing without --gpu-memory-budget; give both, or neither")
        if len(limits.budgets) > 1 and any(budget.is_auto for budget in limits.budgets):
            raise ConfigError("--gpu-memory-budget auto compares budgets by itself; give it alone")
        relative = [budget.text for budget in limits.budgets if budget.size_bytes is None]
        if relative and limits.machine(DeviceProfile()) is None:
            raise ConfigError(
                f"--gpu-memory-budget {relative[0]} depends on the card, and none is known here; give --gpu-memory "
                "24GiB, or a --profile that has total_bytes"
            )
        return limits

    @property
    def is_auto(self) -> bool:
        """Whether a budget is to be chosen."""
        return any(budget.is_auto for budget in self.budgets)

    def machine(self, profile: DeviceProfile) -> Machine | None:
        """What trials would run on, with the profile's reserve; None where no card is known.

        The card of --gpu-memory, or else that of --profile, this machine's, or that of the profile found by name;
        none of the latter three where a budget is for a larger one elsewhere.
        """
        if self.card_bytes is not None:
            return Machine(Card(self.card_bytes, profile.reserve_bytes))
        machine = self._implied_machine(profile)
        if machine is None:
            return None
        card = machine.card
        larger = any((budget.on([card]).size_bytes or 0) > card.usable_bytes for budget in self.budgets)
        return None if larger else machine

    def _implied_machine(self, profile: DeviceProfile) -> Machine | None:
        """The machine where --gpu-memory does not say it, whatever the budgets."""
        if self.profile is not None and self.profile.total_bytes is not None:
            return Machine(Card(self.profile.total_bytes, profile.reserve_bytes))
        import torch

        from trainable.device.cap import card_of

        if torch.cuda.is_available():
            card = card_of("cuda", profile.reserve_bytes)
            return Machine(card, available_cores() / torch.cuda.device_count())
        return None if profile.total_bytes is None else Machine(Card(profile.total_bytes, profile.reserve_bytes))

    def sizes(self, machine: Machine | None, console: Console) -> list[int]:
        """Bytes of every budget; says how its words were understood."""
        fixed = [budget.on([] if machine is None else [machine.card]) for budget in self.budgets]
        for each in fixed:
            if each.said:
                console.print(each.said, soft_wrap=True)
        return [each.size_bytes for each in fixed if each.size_bytes is not None]

    def planner(self, dataset: "Dataset", request: PlanRequest) -> "Planner":
        """A planner without a budget."""
        # Imported here so that --help and errors in flags appear at once.
        import torch

        from trainable.device.cap import gpu_name
        from trainable.memory.planner import Planner

        profile = self.profile or DeviceProfile.for_gpu(gpu_name("cuda") if torch.cuda.is_available() else None)
        return Planner.for_dataset(dataset, budget_bytes=None, request=request, profile=profile)


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


def print_share(console: Console, what: str, plans: Sequence[MemoryPlan], planner: "Planner") -> None:
    """Prints the share that fits, by plan, and the smallest and largest predicted peaks."""
    fitting = [choice for choice in plans if choice.fits]
    budget = "no budget" if planner.budget_bytes is None else f"a budget of {format_bytes(planner.budget_bytes)}"
    console.print(
        f"{what}, {budget}: {len(fitting)} of {len(plans)} sampled configurations fit "
        f"({len(fitting) / len(plans):.0%})\n"
        f"{_profile_text(planner)}"
    )
    sizes = [choice.predicted_bytes for choice in plans]
    console.print(
        f"predicted peaks of the chosen or smallest plans: {format_bytes(min(sizes))} to {format_bytes(max(sizes))}"
    )
    for description, count in Counter(choice.plan.describe() for choice in fitting).most_common():
        console.print(f"  {count / len(plans):4.0%}  {description}")


def _profile_text(planner: "Planner") -> str:
    measured = "measured" if planner.profile.measured else "not measured on a GPU"
    return f"device profile: {planner.profile.name} ({measured})"


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
        console.print(f"{format_bytes(item.choice.predicted_bytes)}: {_outcome(item)}", style=style or "bold")
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
            _outcome(item),
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


def _outcome(item: Planned) -> str:
    if not item.choice.fits:
        return item.choice.reason
    time = "" if item.epoch_seconds is None else f"; {seconds_text(item.epoch_seconds)} an epoch"
    return f"{item.choice.plan.describe()}; {item.choice.peak_pass}{time}"


def _values(item: Planned) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in item.values.items())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(run(main))
