"""Command-line flags, the options they set, and the request of one run; all validated here, once."""

import argparse
import hashlib
import re
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from search.registry import LISTENERS, SAMPLERS
from spaces.loader import load_space
from spaces.space import Space
from trainable.checkpoint_place import absolute_place, check_address
from trainable.commandline import (
    Parser,
    add_data_flags,
    add_flag,
    add_options_file,
    add_plan_flags,
    check_device,
    data_config,
)
from trainable.config import DataConfig, knobs, nearest
from trainable.device.budget import Budget
from trainable.errors import BudgetError, ConfigError, RunError, SpaceError
from trainable.execution_plan import PlanRequest, today
from trainable.host import available_cores
from trainable.memory.profile import DeviceProfile
from trainable.record import RunFolder, RunManifest
from trainable.redaction import holds_credentials
from trainable.registry import EXTENSIONS, Registry
from trainable.typed import build
from trainable.units import GIB, counted, parse_bytes, parse_duration

_WANDB = re.compile(r"(?:[^/\\#?%:\s]+/)?[^/\\#?%:\s]{1,128}")
MOST_TRIALS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """All settings of a search except its space."""

    space: str
    """Name or path, as given."""
    data: DataConfig = field(default_factory=DataConfig)
    num_samples: int = 20
    """Trials to start; a proposal that fits no plan is recorded but not counted."""
    max_epochs: int = 9
    grace_period: int = 3
    reduction_factor: int = 3
    budget_bytes: int | None = None
    budget_words: str | None = None
    """What the command line called the budget, where it did."""
    concurrency: int | None = None
    """Concurrent trials; None = one per core, or as many as fit the GPUs."""
    seed: int = 0
    time_limit_seconds: float | None = None
    """Seconds after which no trial starts and running ones stop after their current epoch."""
    local: bool = False
    address: str | None = None
    storage_path: str | None = None
    study_storage: str | None = None
    study_name: str | None = None
    """Study in `study_storage`; None = the run's own. Drivers with the same study share their results."""
    warm_start: tuple[str, ...] = ()
    """Earlier runs whose best configurations are proposed first."""
    portfolio: bool = True
    """Whether configurations that did well on other recordings are proposed first."""
    checkpoint_limit_bytes: int | None = 10 * GIB
    """Limit on the total bytes of the search's checkpoints, including those of running trials; None = no limit.

    The default holds 74 MB in each of the 144 files of 64 running trials and the best eight: it protects the disk and
    does not restrict the search.
    """
    mlflow: str | None = None
    """Tracking address of an MLflow server that also receives the trials."""
    wandb: str | None = None
    """PROJECT or ENTITY/PROJECT at Weights & Biases that also receives the trials."""
    max_failures: int = 2
    """Restarts of one trial from its checkpoint before it counts as crashed."""
    trial_timeout_seconds: float | None = 3600.0
    """Seconds without a report after which a trial fails (on Ray its worker is replaced); None = no limit."""
    sampler: str = "tpe"
    """A name in `search.registry.SAMPLERS`."""
    listeners: tuple[str, ...] = ()
    """Names in `search.registry.LISTENERS`: listeners beside those that every search has."""
    startup_trials: int | None = None
    """Random proposals before the sampler trusts what it learned; None = a third of the trials, 4 … 10."""
    until_flat: float | None = None
    """No trial starts once more of them are expected to bring less than this (`trainable.detection.gain`); None = the
    search runs `num_samples`, as it does with 0."""
    prefer_fast: bool = False
    """Whether the sampler looks for the best value for its time: expected improvement per second."""
    device: str = "auto"
    profile: dict[str, Any] | None = None
    """Values of the device profile given by the user (`DeviceProfile.to_dict`); None = chosen by the GPU's name."""
    memory_saver: bool = False
    smallest_plan: bool = False
    use_amp: bool | None = None
    use_gradient_checkpointing: bool | None = None
    gradient_accumulation_steps: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_samples", 1, MOST_TRIALS),
            ("max_epochs", 1, 100_000),
            ("grace_period", 1, 100_000),
            ("reduction_factor", 2, 1_000),
            ("concurrency", 1, 100_000),
            ("seed", 0, 2**31 - 1),
            ("max_failures", 0, 1_000),
            ("startup_trials", 1, MOST_TRIALS),
            ("gradient_accumulation_steps", 1, 4096),
        ):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not low <= value <= high):
                raise ConfigError(f"{_flag(name)} is {value!r}; it must be an integer in {low} … {high}")
        for flag, seconds in (
            ("--time-limit", self.time_limit_seconds),
            ("--trial-timeout", self.trial_timeout_seconds),
        ):
            if seconds is not None and not 0 < seconds < float("inf"):
                raise ConfigError(f"{flag} is {seconds:g} s; it must be greater than zero")
        if self.until_flat is not None and not 0 <= self.until_flat < 1:
            raise ConfigError(f"--until-flat is {self.until_flat:g}; it must be at least 0 and below 1, such as 0.002")
        if self.budget_bytes is not None and self.budget_bytes <= 0:
            raise BudgetError(f"--gpu-memory-budget is {self.budget_bytes} bytes; it must be greater than zero")
        if self.profile is not None:
            DeviceProfile.from_dict(self.profile)
        if self.storage_path is not None:
            check_address(self.storage_path)
        if self.mlflow is not None and holds_credentials(self.mlflow):
            raise ConfigError(
                "--mlflow contains a user, a password or a query, and the run's folder would store it; "
                "use the environment variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
        if self.wandb is not None and not _WANDB.fullmatch(self.wandb):
            raise ConfigError("--wandb must be PROJECT or ENTITY/PROJECT; WANDB_BASE_URL names a server of your own")
        for flag, known, names in (("--sampler", SAMPLERS, (self.sampler,)), ("--listener", LISTENERS, self.listeners)):
            for name in names:
                _check_known(flag, known, name)
        if self.prefer_fast and self.sampler == "random":
            raise ConfigError("--prefer-fast changes nothing with --sampler random, which learns nothing; remove one")
        check_device(self.device)
        if ":" in self.device and not self.local:
            raise ConfigError(f"--device {self.device} names one GPU, which takes --local; without it, use cuda")
        if self.local and self.address:
            raise ConfigError("--local runs in this process and --address joins a cluster; give only one of them")
        self.plan_request(None)

    @property
    def startup(self) -> int:
        """Random proposals before the sampler trusts what it learned."""
        return self.startup_trials or max(4, min(10, self.num_samples // 3))

    @property
    def workers(self) -> int:
        """Concurrent trials: as requested, else one with `local`, else one per core."""
        if self.concurrency is not None:
            return self.concurrency
        return 1 if self.local else available_cores()

    def trial_seed(self, index: int) -> int:
        """The seed of a trial, 0 … 2³¹ − 1, derived from the search's seed and the proposal's number."""
        digest = hashlib.sha256(f"trial {self.seed} {index}".encode()).digest()
        return int.from_bytes(digest[:4], "big") & 0x7FFF_FFFF

    def plan_request(self, micro_batch_clips: int | None) -> PlanRequest:
        """The parts of a plan that these options fix. Raises ConfigError if they contradict each other."""
        return PlanRequest(
            micro_batch_clips=micro_batch_clips,
            recompute=self.use_gradient_checkpointing,
            amp=self.use_amp,
            memory_saver=self.memory_saver,
            smallest=self.smallest_plan,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for the manifest; a storage URL is left out, since it may hold a password."""
        values = asdict(self)
        values |= {"data": self.data.to_dict(), "listeners": list(self.listeners), "warm_start": list(self.warm_start)}
        del values["study_storage"]
        return values


def _check_known(flag: str, known: Registry, name: str) -> None:
    """Raises ConfigError, with the nearest valid name, if nothing of that name is registered."""
    names = known.names()
    if name not in names:
        raise ConfigError(
            f"{flag} is {name!r}; there are {', '.join(names) or 'none yet'}, and others "
            f"where {EXTENSIONS} names the module that registers them{nearest(name, names)}"
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class OnGpu:
    """What a search on GPUs takes in place of the space that was named."""

    space: Space
    suggested: dict[str, Any]
    """Those `SearchOptions` that it suggests and no flag gives."""


@dataclass(frozen=True)
class Request:
    """The parsed command line: a space, options and the run's folder."""

    space: Space
    options: SearchOptions
    folder: RunFolder
    resumed: RunManifest | None
    """The manifest of the run to resume; None for a new run."""
    argv: tuple[str, ...]
    old_space: Space | None = None
    """The space in the folder of the run to resume."""
    allow_changes: bool = False
    quiet: bool = False
    verbose: bool = False
    dry_run: bool = False
    """Whether to end before the first trial, and to leave nothing."""
    budget: Budget | None = None
    """The budget as the command line asks for it; None = a resumed run's own, or auto. `options` holds a size alone."""
    on_gpu: OnGpu | None = None
    """None for a run that is resumed, and for a space that is the same on every device."""

    def on(self, device: str) -> "Request":
        """This request with the space for the device that its trials use."""
        if self.on_gpu is None or device == "cpu":
            return self
        return replace(self, space=self.on_gpu.space, options=replace(self.options, **self.on_gpu.suggested))


def read_request(arguments: argparse.Namespace, argv: tuple[str, ...], space: Space | None = None) -> Request:
    """Validates the command line as far as possible without the data. Raises a ProjectError.

    Parameters
    ----------
    space
        In place of the one that ``--space`` names.
    """
    flags: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("allow_changes", "quiet", "verbose", "dry_run")
    }
    if arguments.resume:
        for name in ("output", "warm_start", "no_portfolio", "dry_run"):
            if getattr(arguments, name):
                raise ConfigError(f"--{name.replace('_', '-')} and --resume cannot be combined; remove one")
        return _resume_request(arguments, argv, flags)
    if not arguments.space:
        raise ConfigError("--space is missing; for example --space ad_tuning (or --resume RUN to resume a search)")
    if arguments.allow_changes:
        raise ConfigError("--allow-changes is for a search that is resumed; give --resume RUN, or leave it out")
    on_gpu = None
    if space is None:
        space = load_space(arguments.space)
        on_gpu = _on_gpu(arguments, space)
    options = new_options(arguments, space)
    if options.sampler == "random" and options.startup_trials is not None:
        raise ConfigError("--startup-trials changes nothing with --sampler random, which learns nothing; remove one")
    path = Path(arguments.output) if arguments.output else default_path(space.name, options.data.machine_type)
    return Request(space, options, RunFolder(path), None, argv, budget=_asked_budget(arguments), on_gpu=on_gpu, **flags)


def _on_gpu(arguments: argparse.Namespace, space: Space) -> OnGpu | None:
    if space.on_gpu is None:
        return None
    larger = load_space(space.on_gpu)
    given = given_options(arguments)
    return OnGpu(larger, {name: value for name, value in asdict(larger.search).items() if name not in given})


def _asked_budget(arguments: argparse.Namespace) -> Budget | None:
    return None if arguments.gpu_memory_budget is None else Budget.read(arguments.gpu_memory_budget)


def default_path(space: str, machine_type: str) -> Path:
    """``runs/SPACE-MACHINE-TIME`` under the current folder."""
    return Path("runs") / f"{space}-{machine_type}-{datetime.now():%Y%m%d-%H%M%S}"


def _resume_request(arguments: argparse.Namespace, argv: tuple[str, ...], flags: dict[str, Any]) -> Request:
    folder = RunFolder(arguments.resume)
    if not folder.path.is_dir():
        raise RunError(f"--resume {folder.path} is not a folder; name the folder of a run, such as one under runs/")
    manifest = folder.read_manifest()
    manifest = replace(manifest, options=today(manifest.options))
    old_space = None
    try:
        old_space = load_space(str(folder.space_path)).named(manifest.space_name)
    except SpaceError:
        if not arguments.space:
            raise
    space = load_space(arguments.space) if arguments.space else old_space
    assert space is not None, "one of the two was loaded"
    if space.on_gpu is not None and space.on_gpu == manifest.space_name:
        space = load_space(space.on_gpu)  # the name stood for that when the run began
    try:
        # A time limit is of one start of the search: a resume has its own, or none.
        saved = {**manifest.options, "time_limit_seconds": None, "data": DataConfig.from_dict(manifest.data)}
        options = build(SearchOptions, saved)
    except (TypeError, ValueError, OverflowError, ConfigError) as error:
        raise RunError(f"{folder.manifest_path} cannot be resumed: {error}") from None
    options = replace(options, data=data_config(arguments, manifest.data), **given_options(arguments))
    if arguments.num_samples is not None:
        _check_enough(arguments.num_samples, folder)
    if manifest.study_storage is not None and options.study_storage is None:
        raise RunError(
            f"the study of {folder.path} is at {manifest.study_storage}; give its address with --study-storage "
            "(a run's folder never stores credentials)"
        )
    return Request(space, options, folder, manifest, argv, old_space, budget=_asked_budget(arguments), **flags)


def _check_enough(num_samples: int, folder: RunFolder) -> None:
    """Raises ConfigError for fewer trials than a run has begun; proposals over budget are none of them."""
    begun = sum(record.start.plan is not None for record in folder.read_trials())
    if num_samples < begun:
        raise ConfigError(
            f"--num-samples {num_samples} is less than the {counted(begun, 'trial')} that {folder.path} has begun, and "
            f"counts them too; --num-samples {begun} starts no other"
        )


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
    budget = _asked_budget(arguments)
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
