"""Executes the analysis notebooks on a run: ``python -m analysis.notebooks RUN [--output DIR]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.notebooks import FOLDER, NAMES
from trainable.commandline import Parser, add_flag, run, say, set_up_logging
from trainable.errors import ConfigError, RunError
from trainable.record import RunFolder


def build_parser() -> Parser:
    parser = Parser(prog="python -m analysis.notebooks", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished, running or interrupted search")
    target = parser.add_mutually_exclusive_group()
    add_flag(target, "output", metavar="DIR", help="folder of the executed notebooks (default: RUN/notebooks)")
    add_flag(target, "in_place", action="store_true", help="write the outputs into the project's own notebooks")
    add_flag(parser, "only", choices=NAMES, action="append", help="execute only this notebook (may be repeated)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    set_up_logging()
    path = Path(arguments.run)
    RunFolder(path).read_manifest()  # reports a mistyped path before a kernel starts
    target = FOLDER if arguments.in_place else Path(arguments.output or path / "notebooks")
    try:
        from analysis.notebooks.execute import execute
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"executing notebooks needs {error.name}; install it: pip install nbclient ipykernel"
        ) from None
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--output {target} cannot be written: {error.strerror}") from None
    for name in arguments.only or NAMES:
        say(str(execute(name, path, target)))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
