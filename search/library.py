"""A search from Python: `run`, `resume` and `load`, which `search` itself offers (``import search``)."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from search.flags import build_parser
from search.keywords import words_of
from search.request import Request, read_request
from search.result import Result, load
from search.run import search_in_folder
from spaces.loader import space_from_mapping
from spaces.space import Space
from trainable.errors import ConfigError

__all__ = ["load", "resume", "run"]


def run(
    space: str | Path | Mapping[str, Any] | Space,
    *,
    data_root: str | Path | None = None,
    machine_type: str | None = None,
    recordings: str | Path | None = None,
    objective: str | None = None,
    budget: str | float | None = None,
    num_samples: int | None = None,
    max_epochs: int | None = None,
    seed: int | None = None,
    time_limit: str | float | None = None,
    concurrency: int | None = None,
    local: bool = False,
    device: str | None = None,
    output: str | Path | None = None,
    warm_start: str | Path | Sequence[str | Path] | None = None,
    quiet: bool = True,
    **options: Any,
) -> Result:
    """Runs a search to its end, as ``python -m search.run`` does with the flags of the same names.

    Parameters
    ----------
    space
        Name of a built-in space, path of a YAML file, a mapping laid out as such a file, or a `Space`.
    budget
        GPU memory of each trial: a size such as ``"8GiB"``, GiB up to 1024, bytes from 1 MiB on, a share of the card
        such as 0.25, or ``"auto"``, which is the default on a GPU. Short for `gpu_memory_budget`.
    time_limit
        Such as ``"1h30m"``, or seconds.
    output
        Folder of the run; by default ``runs/SPACE-MACHINE-TIME`` below the current folder.
    quiet
        Prints nothing; False prints what the command prints.
    **options
        Every other flag, with underscores: ``reduction_factor=2``, ``use_amp=False``, ``listener=["mine"]``.

    Raises
    ------
    ProjectError
        For what the command refuses, with its message: ConfigError, SpaceError, DataError, BudgetError, RunError.
    KeyboardInterrupt
        When it is interrupted. Every reported epoch is saved, and `resume` goes on; the exception's note says where.
    """
    keywords = {
        "data_root": data_root,
        "machine_type": machine_type,
        "recordings": recordings,
        "objective": objective,
        "gpu_memory_budget": _budget(budget, options),
        "num_samples": num_samples,
        "max_epochs": max_epochs,
        "seed": seed,
        "time_limit": time_limit,
        "concurrency": concurrency,
        "local": local,
        "device": device,
        "output": output,
        "warm_start": warm_start,
    }
    return _searched(_new_request(space, {**keywords, **options}), quiet=quiet)


def resume(run: str | Path | Result, *, quiet: bool = True, **options: Any) -> Result:
    """Goes on with a search that was stopped, or that is to run more trials, as ``python -m search.run --resume`` does.

    Parameters
    ----------
    run
        The run's folder, or an earlier result.
    **options
        Flags with underscores that change what the run began with, such as ``num_samples=40`` or ``time_limit="1h"``;
        those that change results need ``allow_changes=True``.

    Raises
    ------
    ProjectError, KeyboardInterrupt
        As `run`.
    """
    folder = run.folder if isinstance(run, Result) else run
    given = {**options, "gpu_memory_budget": _budget(options.pop("budget", None), options)}
    given.pop("budget", None)
    return _searched(_request(["--resume", os.fspath(folder)], given), quiet=quiet)


def _budget(budget: str | float | None, options: Mapping[str, Any]) -> str | float | None:
    """The memory budget by either of its names."""
    if budget is not None and options.get("gpu_memory_budget") is not None:
        raise ConfigError("budget is short for gpu_memory_budget; give only one of them")
    return budget if budget is not None else options.get("gpu_memory_budget")


def _new_request(space: str | Path | Mapping[str, Any] | Space, keywords: Mapping[str, Any]) -> Request:
    if isinstance(space, Mapping):
        space = space_from_mapping(space)
    if not isinstance(space, Space):
        return _request([f"--space={os.fspath(space)}"], keywords)
    request = _request([f"--space={space.name}"], keywords, space)
    # What the manifest records as the command must run elsewhere too.
    return replace(request, argv=(f"--space={request.folder.space_path}", *request.argv[1:]))


def _request(words: list[str], keywords: Mapping[str, Any], space: Space | None = None) -> Request:
    parser = build_parser()
    words = [*words, *words_of(parser, keywords)]
    return read_request(parser.parse_args(words), tuple(words), space)


def _searched(request: Request, *, quiet: bool) -> Result:
    path = request.folder.path
    try:
        search_in_folder(replace(request, quiet=quiet), Console(highlight=False, markup=False, quiet=quiet))
    except KeyboardInterrupt as interrupt:
        if request.folder.manifest_path.exists():
            interrupt.add_note(f"every reported epoch is saved; go on with search.resume({str(path)!r})")
        raise
    return load(path)
