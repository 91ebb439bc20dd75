"""The flags of `search.run`, and the options that they set."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search.options import SearchOptions
from spaces.space import Space
from trainable.checkpoint_place import absolute_place
from trainable.commandline import (
    Parser,
    add_data_flags,
    add_flag,
    add_options_file,
    add_plan_flags,
    data_config,
)
from trainable.config import knobs
from trainable.device.budget import Budget
from trainable.memory.profile import DeviceProfile
from trainable.units import parse_bytes, parse_duration


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m search.run",
        description="Searches hyperparameters of VQ-VAE anomaly detectors under a GPU memory budget.",
    )
    add_flag(
        parser, "space", metavar="NAME_OR_PATH", help="space: ad_tuning, ad_gpu, ad_smoke, ad_losses or a YAML file"
    )
    add_flag(parser, "output", metavar="DIR", help="folder of the run (default: runs/SPACE-MACHINE-TIME)")
    add_flag(parser, "resume", metavar="RUN", help="resume the search in this folder")
    add_flag(
        parser,
        "warm_start",
        nargs="+",
        metavar="RUN",
        help="start with the best configurations of other runs, or of all runs in a folder",
    )
    add_flag(
        parser,
        "no_portfolio",
        action="store_true",
        help="do not start with configurations that did well on other recordings",
    )
    add_flag(
        parser,
        "allow_changes",
        action="store_true",
        help="resume although space, data or budget changed (recorded)",
    )
    add_flag(
        parser,
        "dry_run",
        action="store_true",
        help="read and check the recordings, say what would run, and end without a trial or a folder",
    )
    add_options_file(parser)
    _add_search_flags(parser)
    _add_machine_flags(parser)
    add_data_flags(parser)
    add_plan_flags(parser)
    verbosity = parser.add_mutually_exclusive_group()
    add_flag(verbosity, "quiet", action="store_true", help="print only the result, and a line an hour")
    add_flag(verbosity, "verbose", action="store_true", help="log details, including Ray's messages")
    parser.elsewhere = {
        spec.name.replace("_", "-"): f"a search takes {spec.name} from its space, under 'fixed' or 'parameters'"
        for spec in knobs()
        if spec.name not in ("epochs", "seed")
    }
    return parser


def _add_search_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search")
    add_flag(group, "num_samples", type=int, metavar="N", help="trials to start")
    add_flag(group, "max_epochs", type=int, metavar="N", help="epochs of a trial that is not stopped")
    add_flag(group, "grace_period", type=int, metavar="N", help="epochs before ASHA's first decision")
    add_flag(group, "reduction_factor", type=int, metavar="N", help="at each rung the best 1/N of the trials continue")
    add_flag(group, "sampler", metavar="NAME", help="sampler: tpe, random, or one of your own (tpe)")
    add_flag(
        group,
        "startup_trials",
        type=int,
        metavar="N",
        help="random proposals before the sampler uses what it learned (a third of the trials, 4 … 10)",
    )
    add_flag(
        group,
        "until_flat",
        type=float,
        metavar="GAIN",
        help="start no more trials once the next 10 are expected to raise the mean value of the best 8 by less than "
        "GAIN, such as 0.002",
    )
    add_flag(
        group,
        "prefer_fast",
        action="store_true",
        default=None,
        help="look for a high value for little time: the sampler weighs what it expects by seconds an epoch",
    )
    add_flag(
        group,
        "gpu_memory_budget",
        metavar="SIZE",
        help="GPU memory of each trial, such as 24GiB, 0.25 of a card, or auto, the one that finishes soonest (auto)",
    )
    add_flag(group, "seed", type=int, metavar="N", help="seed of proposals and training (0)")
    add_flag(group, "time_limit", metavar="TIME", help="stop after this time, such as 90s, 30m or 1h30m; results stay")
    add_flag(group, "max_failures", type=int, metavar="N", help="restarts of a crashed trial from its checkpoint (2)")
    add_flag(group, "trial_timeout", metavar="TIME", help="time without a report before a worker is replaced (1h)")


def _add_machine_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it runs")
    add_flag(
        group,
        "concurrency",
        type=int,
        metavar="N",
        help="concurrent trials (default: cores, or all that fit the GPUs)",
    )
    add_flag(group, "local", action="store_true", help="run in this process, without Ray")
    add_flag(group, "address", metavar="ADDRESS", help="join a running Ray cluster, such as auto or 10.0.0.1:6379")
    add_flag(
        group,
        "device",
        help="cpu or cuda (with --local also cuda:N); auto uses GPUs if there are any",
    )
    add_flag(group, "profile", metavar="FILE", help="device profile (JSON) of the GPUs (default: chosen by their name)")
    add_flag(group, "storage_path", metavar="PLACE", help="shared folder or s3:// address for the checkpoints")
    add_flag(group, "checkpoint_limit", metavar="SIZE", help="limit on the total size of all checkpoints (10GiB)")
    add_flag(group, "study_storage", metavar="URL", help="shared study, such as postgresql://user@host/db")
    add_flag(
        group, "mlflow", metavar="URI", help="also log trials to this MLflow server (needs pip install mlflow-skinny)"
    )
    add_flag(group, "wandb", metavar="PROJECT", help="also log trials to Weights & Biases (needs pip install wandb)")
    add_flag(group, "study_name", metavar="NAME", help="name of the shared study; its drivers share results")
    add_flag(
        group,
        "listener",
        action="extend",
        nargs="+",
        metavar="NAME",
        help="also notify this listener of your own (docs/extending.md); repeatable",
    )


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The `SearchOptions` that flags set; flags that were not given are left out."""
    names = (
        "num_samples",
        "max_epochs",
        "grace_period",
        "reduction_factor",
        "sampler",
        "startup_trials",
        "until_flat",
        "prefer_fast",
        "seed",
        "max_failures",
        "concurrency",
        "address",
        "device",
        "study_storage",
        "study_name",
        "mlflow",
        "wandb",
        "use_amp",
        "use_gradient_checkpointing",
        "gradient_accumulation_steps",
    )
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.storage_path is not None:
        # Absolute, so that a resume from another folder uses the same place.
        given["storage_path"] = absolute_place(arguments.storage_path)
    budget = asked_budget(arguments)
    if budget is not None:
        given |= {"budget_words": budget.text, "budget_bytes": budget.size_bytes}
    if arguments.checkpoint_limit is not None:
        given["checkpoint_limit_bytes"] = parse_bytes(arguments.checkpoint_limit, "--checkpoint-limit")
    if arguments.time_limit is not None:
        given["time_limit_seconds"] = parse_duration(arguments.time_limit, "--time-limit")
    if arguments.trial_timeout is not None:
        given["trial_timeout_seconds"] = parse_duration(arguments.trial_timeout, "--trial-timeout")
    if arguments.profile is not None:
        # Its content, not its path: a resume plans with the same values even if the file has moved or changed.
        given["profile"] = DeviceProfile.load(Path(arguments.profile)).to_dict()
    if arguments.warm_start is not None:
        given["warm_start"] = tuple(arguments.warm_start)
    if arguments.no_portfolio:
        given["portfolio"] = False
    if arguments.listener is not None:
        given["listeners"] = tuple(dict.fromkeys(arguments.listener))
    given.update({flag: True for flag in ("local", "memory_saver", "smallest_plan") if getattr(arguments, flag)})
    return given


def new_options(arguments: argparse.Namespace, space: Space) -> SearchOptions:
    """Options of a new search: the space's defaults, overridden by the given flags."""
    return SearchOptions(
        **{
            **asdict(space.search),
            "space": arguments.space,
            "data": data_config(arguments, dict(space.data)),
            **given_options(arguments),
        }
    )


def asked_budget(arguments: argparse.Namespace) -> Budget | None:
    """The budget that a flag gives, if one does. Raises ConfigError if it is none."""
    return None if arguments.gpu_memory_budget is None else Budget.read(arguments.gpu_memory_budget)
