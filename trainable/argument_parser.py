"""The parser of every command line: one line for a mistake, the flag that was meant, flags from a file, versions."""

import argparse
import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from trainable.commands import as_called
from trainable.errors import ConfigError
from trainable.redaction import without_words

PACKAGES = ("vqvae-ad-search", "torch", "ray", "optuna")
"""Whose versions ``--version`` shows."""
OPTIONS = "--options"
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "max-epochs": ("epochs", "n-epochs", "num-epochs"),
    "epochs": ("max-epochs", "n-epochs", "num-epochs"),
    "num-samples": ("n-trials", "num-trials", "max-trials", "trials", "n-samples", "samples"),
    "samples": ("num-samples", "n-samples", "n-trials", "trials"),
    "gpu-memory-budget": ("budget", "memory-budget", "gpu-memory", "memory", "max-memory", "vram"),
    "time-limit": ("timeout", "time-budget", "time-budget-s", "max-time", "max-hours"),
    "concurrency": ("max-concurrent-trials", "max-concurrent", "n-jobs", "jobs", "num-workers", "workers", "parallel"),
    "data-root": ("data", "data-dir", "dataset", "input"),
    "machine-type": ("machine",),
    "output": ("out", "output-dir", "out-dir", "save", "save-dir"),
    "study-storage": ("storage", "optuna-storage", "database"),
    "storage-path": ("checkpoint-dir", "checkpoints"),
    "allow-changes": ("force",),
    "batch-size": ("batch",),
    "learning-rate": ("lr",),
    "num-embeddings": ("codes", "codebook-size", "n-embeddings"),
    "latent-dim": ("embedding-dim",),
    "gradient-accumulation-steps": ("accumulation-steps", "accumulate"),
    "use-amp": ("amp", "fp16", "bf16", "mixed-precision"),
    "use-gradient-checkpointing": ("gradient-checkpointing", "checkpointing", "recompute"),
    "device": ("gpu", "cuda"),
    "model": ("detector",),
    "seed": ("random-seed", "random-state"),
    "top": ("top-k", "n-best"),
}
"""Flag: what other tools call it."""


class Parser(argparse.ArgumentParser):
    """Reports a mistyped command line in one line, like every other mistake; accepts ``--size -1GiB`` as a value.

    Flags may be written with underscores, but not shortened. `description` may be a module's docstring.
    """

    def __init__(self, *, prog: str, description: str | None = None) -> None:
        super().__init__(
            prog=as_called(prog),
            description=_paragraphs(plain(description or "")),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action=_ShowVersions, help="show the versions that matter and exit")
        self.elsewhere: Mapping[str, str] = {}
        """Flags that users look for here in vain, without dashes, and what to do instead."""
        self._words: Sequence[str] = ()
        self._places: Mapping[str, str] = {}

    @property
    def flags(self) -> dict[str, argparse.Action]:
        """Every flag as it is written, such as ``--space``, and what it sets."""
        return {flag: action for action in self._actions for flag in action.option_strings}

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._places = {}
        self._words = _normal(sys.argv[1:] if args is None else args)
        self._words = [*self._words_of_file(), *self._words]
        self._refuse_unknown_flags()
        parsed, rest = super().parse_known_args(list(self._words), namespace)
        for flag, action in self.flags.items():
            # An empty value (often an unset variable) must not be treated as a flag that was left out.
            if getattr(parsed, action.dest, None) == "":
                self.error(f"{flag} is empty; give it a value or leave it out")
        return parsed, rest

    def error(self, message: str) -> NoReturn:
        """Raises ConfigError instead of printing the usage, and does not repeat credentials from a mistyped flag."""
        place = next((self._places[flag] for flag in re.findall(r"--[\w-]+", message) if flag in self._places), "")
        origin = f" ({place})" if place else ""
        raise ConfigError(f"{without_words(message, self._words)}{origin}; see {self.prog} --help")

    def _words_of_file(self) -> list[str]:
        """The flags of the file that ``--options`` names, but for those that the command line gives itself."""
        if OPTIONS not in self.flags:
            return []
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument(OPTIONS, nargs="?")
        path = finder.parse_known_args(self._words)[0].options
        if not path:
            return []
        # Not at the top: only this needs YAML.
        from trainable.options_file import read_options_file

        given = {self.flags[flag].dest for word in self._words if (flag := word.partition("=")[0]) in self.flags}
        kept = [each for each in read_options_file(Path(path), self) if self.flags[each.flag].dest not in given]
        self._places = {each.flag: each.place for each in kept}
        return [word for each in kept for word in each.words]

    def _refuse_unknown_flags(self) -> None:
        known = self.flags
        for word in _before_separator(self._words):
            flag = word.partition("=")[0]
            if flag.startswith("--") and " " not in flag and flag not in known:
                self.error(f"unknown flag {flag}{self.instead_of(flag)}")

    def instead_of(self, flag: str) -> str:
        """What to use instead of a flag that there is none of, as the end of a sentence, or the empty string."""
        known = [each.removeprefix("--") for each in self.flags if each.startswith("--")]
        name = flag.lstrip("-").replace("_", "-")
        synonyms = [ours for ours in known if name in OTHER_NAMES.get(ours, ())]
        close = difflib.get_close_matches(name[:80], [*known, *self.elsewhere], n=1)
        if not synonyms and close and close[0] in self.elsewhere:
            return f": {self.elsewhere[close[0]]}"
        begun = [ours for ours in known if ours.startswith(name)]
        meant = [*synonyms, *(begun if len(begun) == 1 else ()), *close]
        return f" (did you mean --{meant[0]}?)" if meant else ""


def add_options_file(parser: Parser) -> None:
    """Adds ``--options FILE``: flags from a YAML file, over which those of the command line go."""
    add_flag(
        parser, "options", metavar="FILE", help="YAML file of flags, such as num-samples: 40; flags given here win"
    )


def add_flag(parser: Any, name: str, **options: Any) -> None:
    """Adds ``--name``, written with hyphens; a `Parser` takes it with underscores too."""
    if options.get("help"):
        options["help"] = as_called(options["help"])
    parser.add_argument("--" + name.replace("_", "-"), dest=name.replace("-", "_"), **options)


def refuse_ignored(parser: Parser, arguments: argparse.Namespace, names: Iterable[str], reason: str) -> None:
    """Raises ConfigError, ``--name`` followed by `reason`, for a flag that was given and would change nothing."""
    for name in names:
        if getattr(arguments, name) != parser.get_default(name):
            raise ConfigError(f"--{name.replace('_', '-')} {reason}")


def plain(text: str) -> str:
    """A docstring for a terminal: without markup, its commands as the running one was called."""
    return as_called(text.replace("`", "")).strip()


def versions_text() -> str:
    """This project's version, and those of what decides results, in one line."""
    python = ".".join(map(str, sys.version_info[:3]))
    return ", ".join([*(f"{package} {_version(package)}" for package in PACKAGES), f"Python {python}"])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


class _ShowVersions(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=options["help"])

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(versions_text())
        parser.exit()


def _paragraphs(text: str) -> str:
    """Paragraphs wrapped to the terminal, which argparse would make one."""
    width = shutil.get_terminal_size().columns - 2
    return "\n\n".join(textwrap.fill(" ".join(each.split()), width) for each in text.split("\n\n"))


def _normal(words: Iterable[str]) -> list[str]:
    """Flags with hyphens; a value that begins like a negative number joined to its flag."""
    words = list(words)
    flags = len(_before_separator(words))
    joined: list[str] = []
    for index, word in enumerate(words):
        before = joined[-1] if joined else ""
        if index >= flags:
            joined.append(word)
        elif re.match(r"-\d", word) and before.startswith("--") and "=" not in before:
            joined[-1] = f"{before}={word}"
        elif word.startswith("--"):
            flag, equals, value = word.partition("=")
            joined.append(f"{flag.replace('_', '-')}{equals}{value}")
        else:
            joined.append(word)
    return joined


def _before_separator(words: Sequence[str]) -> Sequence[str]:
    """The words before ``--``, behind which none is a flag."""
    return words[: words.index("--")] if "--" in words else words
