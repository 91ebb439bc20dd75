"""The search: ``python -m search.run --space ad_tuning``."""

import argparse
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from search.arguments import build_parser, given_options, new_options
from search.folder import create, default_path, held, is_leftover
from search.options import SearchOptions
from spaces.loader import load_space
from spaces.space import Space
from trainable.commandline import INTERRUPTED, data_config, run, set_up_logging
from trainable.errors import ConfigError, RunError, SpaceError
from trainable.record import RunFolder, RunManifest
from trainable.typed import build

logger = logging.getLogger(__name__)

NOTHING_COMPLETED = 1
"""Exit status of a search that ended without a best configuration."""


@dataclass(frozen=True)
class Request:
    """What the command line means: a space, options, and the folder they go to."""

    space: Space
    options: SearchOptions
    folder: RunFolder
    resumed: RunManifest | None
    """The manifest of the run that goes on; None for a new one."""
    argv: tuple[str, ...]
    old_space: Space | None = None
    """Of a run that goes on: the space in its folder."""
    allow_changes: bool = False
    quiet: bool = False
    verbose: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    set_up_logging(verbose=arguments.verbose, quiet=arguments.quiet)
    request = read_request(arguments, tuple(sys.argv[1:] if argv is None else argv))
    begun = time.monotonic()
    with held(request.folder.path):
        _begin(request)
        try:
            console = Console(highlight=False)
            if not request.quiet:
                console.print(f"search {request.folder.path}: loading torch and Optuna", soft_wrap=True)
            # Imported here, so that --help and a mistyped flag answer at once.
            from search.session import run_search

            completed = run_search(request, console)
        except KeyboardInterrupt:
            if _remove_if_empty(request):
                print("\nstopped by Ctrl-C before the first trial; nothing is kept", file=sys.stderr)
            else:
                print(
                    f"\nstopped by Ctrl-C after {time.monotonic() - begun:.0f} s; nothing that was reported is lost; "
                    f"go on with: python -m search.run --resume {request.folder.path}",
                    file=sys.stderr,
                )
            return INTERRUPTED
        except BaseException:
            _remove_if_empty(request)
            raise
    return 0 if completed else NOTHING_COMPLETED


def read_request(arguments: argparse.Namespace, argv: tuple[str, ...]) -> Request:
    """Validates the command line as far as that is possible without data. Raises a ProjectError."""
    flags = {"allow_changes": arguments.allow_changes, "quiet": arguments.quiet, "verbose": arguments.verbose}
    if arguments.resume:
        for name in ("output", "warm_start"):
            if getattr(arguments, name):
                raise ConfigError(f"--{name.replace('_', '-')} and --resume exclude each other; leave one out")
        return _resume_request(arguments, argv, flags)
    if not arguments.space:
        raise ConfigError("--space is missing; for example --space ad_tuning (or --resume RUN to go on with a search)")
    space = load_space(arguments.space)
    options = new_options(arguments, space)
    path = Path(arguments.output) if arguments.output else default_path(space.name, options.data.machine_type)
    return Request(space, options, create(path), None, argv, **flags)


def _resume_request(arguments: argparse.Namespace, argv: tuple[str, ...], flags: dict[str, bool]) -> Request:
    folder = RunFolder(arguments.resume)
    if not folder.path.is_dir():
        raise RunError(f"--resume {folder.path} is not a folder; name the folder of a run, such as one under runs/")
    manifest = folder.read_manifest()
    old_space = None
    try:
        old_space = load_space(str(folder.space_path)).named(manifest.space_name)
    except SpaceError:
        if not arguments.space:
            raise
    space = load_space(arguments.space) if arguments.space else old_space
    assert space is not None, "either was read"
    try:
        saved = {**manifest.options, "data": data_config(arguments, manifest.data)}
        options = build(SearchOptions, {**saved, **given_options(arguments)})
    except (TypeError, ValueError, OverflowError, ConfigError) as error:
        raise RunError(f"{folder.manifest_path} cannot be resumed: {error}") from None
    if manifest.study_storage is not None and options.study_storage is None:
        raise RunError(
            f"the study of {folder.path} is at {manifest.study_storage}; give its address with --study-storage "
            "(credentials are never kept in a run's folder)"
        )
    return Request(space, options, folder, manifest, argv, old_space, **flags)


def _begin(request: Request) -> None:
    """The first file of a new run, written by who holds its folder."""
    folder = request.folder
    if request.resumed is None:
        create(folder.path)  # between looking and holding it another search may have begun here
        folder.write_text(folder.space_path, request.space.text)


def _remove_if_empty(request: Request) -> bool:
    """A new run that ended before its first trial (no data, say) leaves no folder that would be in the way."""
    folder = request.folder
    if request.resumed is not None or (folder.path / "trials").exists():
        return False
    for path in (*folder.path.glob("study.db*"), folder.manifest_path, *folder.path.iterdir()):
        if path == folder.manifest_path or path.name.startswith("study.db") or is_leftover(path):
            path.unlink(missing_ok=True)
    shutil.rmtree(folder.path / "tensorboard", ignore_errors=True)
    if not os.listdir(folder.path):
        folder.path.rmdir()
    return True


if __name__ == "__main__":
    sys.exit(run(main))
