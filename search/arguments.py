"""The command line of a search, and the options it means."""

import argparse
import re
from pathlib import Path
from typing import Any

from search.options import SearchOptions
from spaces.space import Space
from trainable.checkpoint_place import absolute_place
from trainable.commandline import Parser, add_data_flags, add_flag, add_plan_flags, data_config
from trainable.errors import ConfigError
from trainable.memory.profile import DeviceProfile
from trainable.units import parse_bytes

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|d)?\s*$")
_SECONDS = {None: 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m search.run",
        description="Searches hyperparameters of VQ-VAE anomaly detectors under a GPU memory budget.",
    )
    add_flag(
        parser, "space", metavar="NAME_OR_PATH", help="search space: ad_tuning, ad_smoke, ad_losses or a YAML file"
    )
    add_flag(parser, "output", metavar="DIR", help="folder of the run (default: runs/SPACE-MACHINE-TIME)")
    add_flag(parser, "resume", metavar="RUN", help="go on with the search in this folder")
    add_flag(parser, "warm_start", metavar="RUN", help="begin with the best configurations of another run")
    add_flag(
        parser, "allow_changes", action="store_true", help="resume although space, data or budget differ; recorded"
    )
    _add_search_flags(parser)
    _add_machine_flags(parser)
    add_data_flags(parser)
    add_plan_flags(parser)
    told = parser.add_mutually_exclusive_group()
    add_flag(told, "quiet", action="store_true", help="print the result alone")
    add_flag(told, "verbose", action="store_true", help="log what happens inside, Ray's messages included")
    return parser


def _add_search_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search")
    add_flag(group, "num_samples", type=int, metavar="N", help="trials to start")
    add_flag(group, "max_epochs", type=int, metavar="N", help="epochs of a trial that is not stopped")
    add_flag(group, "grace_period", type=int, metavar="N", help="epochs before ASHA's first decision")
    add_flag(group, "reduction_factor", type=int, metavar="N", help="at each rung the best 1/N go on")
    add_flag(group, "startup_trials", type=int, metavar="N", help="random proposals before TPE (a third, 4 … 10)")
    add_flag(group, "gpu_memory_budget", metavar="SIZE", help="memory of each trial, such as 24GiB")
    add_flag(group, "seed", type=int, metavar="N", help="of proposals and trainings (0)")
    add_flag(group, "time_limit", metavar="TIME", help="such as 90s, 30m or 8h: then finish, keeping what is done")
    add_flag(group, "max_failures", type=int, metavar="N", help="restarts of a crashed trial from its checkpoint (2)")
    add_flag(group, "trial_timeout", metavar="TIME", help="silence after which a trial's worker is replaced (1h)")


def _add_machine_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it runs")
    add_flag(group, "concurrency", type=int, metavar="N", help="trials at a time (default: cores, or GPUs / budget)")
    add_flag(group, "local", action="store_true", help="in this very process, without Ray")
    add_flag(group, "address", metavar="ADDRESS", help="join a running Ray cluster, such as auto or 10.0.0.1:6379")
    add_flag(group, "device", help="cpu or cuda; auto takes GPUs where there are some")
    add_flag(group, "profile", metavar="FILE", help="device profile (JSON) of the GPUs (default: by their name)")
    add_flag(group, "storage_path", metavar="PLACE", help="checkpoints in this shared folder or at this s3:// address")
    add_flag(group, "checkpoint_limit", metavar="SIZE", help="ceiling on the checkpoints of all trials (10GiB)")
    add_flag(group, "study_storage", metavar="URL", help="shared study, such as postgresql://user@host/db")
    add_flag(group, "mlflow", metavar="URI", help="log trials to this MLflow server too (needs pip install mlflow)")
    add_flag(group, "study_name", metavar="NAME", help="study in it; drivers that name the same one work together")


def parse_duration(text: str, flag: str) -> float:
    """Seconds of ``90s``, ``30m``, ``8h``, ``2d`` or a plain number. Raises ConfigError."""
    match = _DURATION.match(text)
    if match is None:
        raise ConfigError(f"{flag} is {text!r}; write a positive number of seconds, or for example 90s, 30m, 8h, 2d")
    return float(match[1]) * _SECONDS[match[2]]


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of `SearchOptions`, flags that were not given left out."""
    names = (
        "num_samples",
        "max_epochs",
        "grace_period",
        "reduction_factor",
        "startup_trials",
        "seed",
        "max_failures",
        "concurrency",
        "address",
        "device",
        "study_storage",
        "study_name",
        "warm_start",
        "mlflow",
        "use_amp",
        "use_gradient_checkpointing",
        "gradient_accumulation_steps",
    )
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.storage_path is not None:
        # Kept as an absolute path: a resume from another folder must mean the same place.
        given["storage_path"] = absolute_place(arguments.storage_path)
    if arguments.gpu_memory_budget is not None:
        given["budget_bytes"] = parse_bytes(arguments.gpu_memory_budget, "--gpu-memory-budget")
    if arguments.checkpoint_limit is not None:
        given["checkpoint_limit_bytes"] = parse_bytes(arguments.checkpoint_limit, "--checkpoint-limit")
    if arguments.time_limit is not None:
        given["time_limit_seconds"] = parse_duration(arguments.time_limit, "--time-limit")
    if arguments.trial_timeout is not None:
        given["trial_timeout_seconds"] = parse_duration(arguments.trial_timeout, "--trial-timeout")
    if arguments.profile is not None:
        # What it says, not where it lies: a resume plans with the same quantities wherever the file is by then.
        given["profile"] = DeviceProfile.load(Path(arguments.profile)).to_dict()
    given.update({flag: True for flag in ("local", "memory_saver") if getattr(arguments, flag)})
    return given


def new_options(arguments: argparse.Namespace, space: Space) -> SearchOptions:
    """Options of a new search: the space's suggestions under the flags given."""
    defaults = space.search
    suggested = {
        "num_samples": defaults.num_samples,
        "max_epochs": defaults.max_epochs,
        "grace_period": defaults.grace_period,
        "reduction_factor": defaults.reduction_factor,
    }
    return SearchOptions(
        **{
            **suggested,
            "space": arguments.space,
            "data": data_config(arguments, dict(space.data)),
            **given_options(arguments),
        }
    )
