"""What one command line asks for: a space, options, and a run to begin or to go on with."""

import argparse
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from search.flags import asked_budget, given_options, new_options
from search.options import SearchOptions
from spaces.loader import load_space
from spaces.space import Space
from trainable.commandline import (
    data_config,
)
from trainable.config import DataConfig
from trainable.device.budget import Budget
from trainable.errors import ConfigError, RunError, SpaceError
from trainable.execution_plan import today
from trainable.record import RunFolder, RunManifest
from trainable.typed import build
from trainable.units import counted


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
    return Request(space, options, RunFolder(path), None, argv, budget=asked_budget(arguments), on_gpu=on_gpu, **flags)


def _on_gpu(arguments: argparse.Namespace, space: Space) -> OnGpu | None:
    if space.on_gpu is None:
        return None
    larger = load_space(space.on_gpu)
    given = given_options(arguments)
    return OnGpu(larger, {name: value for name, value in asdict(larger.search).items() if name not in given})


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
    return Request(space, options, folder, manifest, argv, old_space, budget=asked_budget(arguments), **flags)


def _check_enough(num_samples: int, folder: RunFolder) -> None:
    """Raises ConfigError for fewer trials than a run has begun; proposals over budget are none of them."""
    begun = sum(record.start.plan is not None for record in folder.read_trials())
    if num_samples < begun:
        raise ConfigError(
            f"--num-samples {num_samples} is less than the {counted(begun, 'trial')} that {folder.path} has begun, and "
            f"counts them too; --num-samples {begun} starts no other"
        )
