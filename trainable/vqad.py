"""The commands of the project under one name: ``vqad search``, ``vqad plan``, ``vqad score`` and the others."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from trainable.commandline import Parser, run
from trainable.commands import COMMANDS, PROGRAM, Command
from trainable.config import nearest
from trainable.errors import ConfigError

SHELLS = ("bash", "zsh", "tcsh")
OF_FILES = ("FILE", "FILES", "NAME_OR_PATH")
OF_FOLDERS = ("DIR", "FOLDER", "RUN", "PLACE")
"""Metavars of what a shell completes with names of files or folders."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names, with the words after it."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].startswith("-"):
        return run(_without_command, words or ["--help"])
    name, *rest = words
    return run(_command_main, [name, *rest])


def _command_main(argv: Sequence[str] | None) -> int:
    name, *rest = argv or ()
    if name not in COMMANDS:
        raise ConfigError(
            f"{PROGRAM} has no command {name!r}{nearest(name, COMMANDS)}; there are {', '.join(COMMANDS)}"
        )
    return int(_module(COMMANDS[name]).main(rest))


def _without_command(argv: Sequence[str] | None) -> int:
    arguments = _build_parser().parse_args(argv)
    if arguments.print_completion is None:
        raise ConfigError(f"{PROGRAM} needs a command: {', '.join(COMMANDS)}; see {PROGRAM} --help")
    print(completion(arguments.print_completion))
    return 0


def _build_parser() -> Parser:
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items())
    parser = Parser(prog=PROGRAM, description="Searches, trains, scores and reports VQ-VAE anomaly detectors.")
    parser.usage = f"{PROGRAM} COMMAND [flags]"
    parser.epilog = f"commands:\n{listed}\n\n{PROGRAM} COMMAND --help shows the flags of one of them."
    parser.add_argument(
        "--print-completion", choices=SHELLS, help="print what makes this shell complete commands, flags and names"
    )
    return parser


def completion(shell: str) -> str:
    """The script that makes a shell complete the command line. Raises ConfigError without the package shtab."""
    try:
        import shtab
    except ModuleNotFoundError:
        raise ConfigError("--print-completion needs shtab; install it: pip install shtab") from None

    root = argparse.ArgumentParser(prog=PROGRAM)
    commands = root.add_subparsers()
    for name, command in COMMANDS.items():
        parser = _module(command).build_parser()
        for action in parser._actions:
            if action.metavar in OF_FILES:
                action.complete = shtab.FILE
            elif action.metavar in OF_FOLDERS:
                action.complete = shtab.DIRECTORY
        commands.add_parser(name, parents=[parser], add_help=False, help=command.help)
    return str(shtab.complete(root, shell))


def _module(command: Command) -> Any:
    """The module of a command, imported only now: each needs packages that others do not."""
    try:
        return import_module(command.main or command.module)
    except ModuleNotFoundError as error:
        if error.name != command.module.partition(".")[0]:
            raise
        raise ConfigError(str(error)) from None  # the package says what to install


if __name__ == "__main__":
    sys.exit(main())
