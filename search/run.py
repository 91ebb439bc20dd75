"""Runs a search: ``python -m search.run --space ad_tuning``."""

import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence

from rich.console import Console

from search.flags import build_parser
from search.request import Request, read_request
from search.store.folder import check_creatable, create, held, is_leftover
from trainable.commandline import run, set_up_logging
from trainable.commands import as_called
from trainable.errors import OutputError
from trainable.printable import printable
from trainable.stop_signals import stopped

logger = logging.getLogger(__name__)

NOTHING_COMPLETED = 1
"""Exit status of a search in which no trial completed."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    set_up_logging(verbose=arguments.verbose, quiet=arguments.quiet)
    request = read_request(arguments, tuple(sys.argv[1:] if argv is None else argv))
    begun = time.monotonic()
    try:
        completed = search_in_folder(request, Console(highlight=False, markup=False))
    except KeyboardInterrupt as interrupt:
        stop = stopped(interrupt)
        _say_stopped(request, f"by {stop.cause}", time.monotonic() - begun)
        return stop.exit_status
    except OutputError as error:
        _say_stopped(request, f"because {error}", time.monotonic() - begun)
        return error.exit_status
    return 0 if completed else NOTHING_COMPLETED


def _say_stopped(request: Request, why: str, seconds: float) -> None:
    """Says what is left of a search that ended early, and how to go on."""
    resume = f"{as_called('python -m search.run')} --resume {shlex.quote(str(request.folder.path))}"
    left = f"after {seconds:.0f} s; all reported epochs are saved; resume with: {resume}"
    if not request.folder.manifest_path.exists():
        left = "before the first trial; nothing was saved"
    print(f"\nstopped {printable(f'{why} {left}')}", file=sys.stderr)


def search_in_folder(request: Request, console: Console) -> bool:
    """Runs a search in its folder, which it locks; returns whether any trial completed.

    Of a new search that ends before its first trial nothing is left, and a dry run writes nothing.
    """
    if request.dry_run:
        check_creatable(request.folder.path)
        from search.session import run_search

        return run_search(request, console)
    if request.resumed is None:
        create(request.folder.path)
    with held(request.folder.path):
        _begin(request)
        try:
            if not request.quiet:
                name = printable(str(request.folder.path))
                console.print(f"search {name}: loading torch and Optuna", soft_wrap=True)
            # Imported here so that --help and errors in flags appear at once.
            from search.session import run_search

            return run_search(request, console)
        except BaseException:
            _remove_if_empty(request)
            raise


def _begin(request: Request) -> None:
    """Writes the first file of a new run; the caller holds the folder's lock."""
    folder = request.folder
    if request.resumed is None:
        create(folder.path)  # another search may have started here before the lock was taken
        folder.write_text(folder.space_path, request.space.text)


def _remove_if_empty(request: Request) -> None:
    """Removes the folder of a new run that ended before its first trial (no data, for example)."""
    folder = request.folder
    if request.resumed is not None or (folder.path / "trials").exists() or not folder.path.is_dir():
        return
    written = (folder.manifest_path, folder.check_path)
    for path in (*folder.path.glob("study.db*"), *written, *folder.path.iterdir()):
        if path in written or path.name.startswith("study.db") or is_leftover(path):
            path.unlink(missing_ok=True)
    shutil.rmtree(folder.path / "tensorboard", ignore_errors=True)
    if not os.listdir(folder.path):
        folder.path.rmdir()


if __name__ == "__main__":
    sys.exit(run(main))
