"""What every command line of the project shares: groups of flags, errors as one line and an exit status."""

import argparse
import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO, get_args

from trainable import standard_output, stop_signals
from trainable.argument_parser import Parser, add_flag, add_options_file, refuse_ignored
from trainable.commands import as_called
from trainable.config import Channel, DataConfig, Knob, ObjectiveName, knobs
from trainable.errors import ConfigError, OutputError, ProjectError
from trainable.execution_plan import PlanRequest, micro_batch_of
from trainable.printable import printable

__all__ = [
    "Parser",
    "add_data_flags",
    "add_flag",
    "add_knob_flags",
    "add_options_file",
    "add_plan_flags",
    "check_device",
    "data_config",
    "given_knobs",
    "plan_request",
    "refuse_ignored",
    "resolve_device",
    "run",
    "say",
    "set_up_logging",
]

MACHINE_HELP = "machine type to use (default: fan); embedded are fan, pump, valve, gearbox and slider"


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that choose the recordings and the front end for raw ones."""
    group = parser.add_argument_group("data")
    add_flag(
        group, "data_root", metavar="DIR", help="folder with one folder per machine type; default: embedded machines"
    )
    add_flag(
        group,
        "recordings",
        metavar="FILE",
        help="table of recordings (.csv), for folders in no known layout; python -m trainable.recordings drafts one",
    )
    add_flag(group, "machine_type", metavar="NAME", help=MACHINE_HELP)
    add_flag(
        group,
        "embedded_test_clips",
        type=int,
        metavar="N",
        help="normal test clips per id of an embedded machine, and as many anomalous ones (40)",
    )
    add_flag(group, "sample_rate", type=int, metavar="HZ", help="raw recordings are resampled to this rate")
    add_flag(group, "n_fft", type=int, metavar="N", help="samples per spectrum")
    add_flag(group, "hop_length", type=int, metavar="N", help="samples between spectra")
    add_flag(
        group,
        "channel",
        type=_channel,
        metavar="N",
        help="channel to hear, counted from 0, or the mean of all (auto: of two the mean, of more channel 0)",
    )
    add_flag(group, "norm_stats_path", metavar="FILE", help="normalisation statistics (.pt) to load")
    add_flag(group, "validation_share", type=float, metavar="SHARE", help="share of test clips for validation (0.5)")
    add_flag(
        group,
        "objective",
        choices=get_args(ObjectiveName),
        help="what judges trainings: labels, normal-only (pseudo-anomalies of normal clips), or both (default: auto, "
        "what the recordings allow)",
    )


def _channel(text: str) -> Channel:
    return int(text) if text.isdecimal() else text  # type: ignore[return-value]  # DataConfig says what else is valid


def data_config(arguments: argparse.Namespace, defaults: dict[str, Any] | None = None) -> DataConfig:
    """The data configuration from the given flags, over `defaults` (a space's or a saved run's).

    Paths become absolute, so that saved ones mean the same from another folder.
    """
    given = {name: value for name in DataConfig.names() if (value := getattr(arguments, name, None)) is not None}
    for name in given.keys() & {"data_root", "recordings", "norm_stats_path"}:
        given[name] = str(Path(given[name]).expanduser().absolute())
    return DataConfig.merged(defaults or {}, given)


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """The parts of an execution plan that a user may fix; the planner chooses the rest."""
    group = parser.add_argument_group("execution plan (the planner chooses what is not fixed here)")
    add_flag(group, "gradient_accumulation_steps", type=int, metavar="N", help="split every batch into N micro-batches")
    add_flag(
        group, "use_amp", action=argparse.BooleanOptionalAction, default=None, help="use mixed precision, or do not"
    )
    add_flag(
        group,
        "use_gradient_checkpointing",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="recompute activations in backward, or keep all of them",
    )
    add_flag(
        group,
        "memory_saver",
        action="store_true",
        help="mixed precision and gradient checkpointing, with the whole batch at once if it fits",
    )
    add_flag(group, "smallest_plan", action="store_true", help="use the smallest plan instead of the fastest")


def plan_request(arguments: argparse.Namespace, batch_size: int) -> PlanRequest:
    """The plan parts that flags fix. Raises ConfigError if they make no sense for the batch size."""
    steps = arguments.gradient_accumulation_steps
    return PlanRequest(
        micro_batch_clips=None if steps is None else micro_batch_of(batch_size, steps),
        recompute=arguments.use_gradient_checkpointing,
        amp=arguments.use_amp,
        memory_saver=arguments.memory_saver,
        smallest=arguments.smallest_plan,
    )


def check_device(name: str) -> None:
    """Raises ConfigError unless ``--device`` is cpu, cuda, one CUDA device such as cuda:0, or auto."""
    if re.fullmatch("cpu|auto|cuda(:[0-9]{1,3})?", name) is None:
        raise ConfigError(f"--device is {name!r}; it must be cpu, cuda, one CUDA device such as cuda:0, or auto")


def resolve_device(name: str) -> str:
    """The device that ``--device`` means in this process; auto takes a GPU if there is one.

    Raises
    ------
    ConfigError
        If `check_device` refuses it, or this machine does not have it.
    """
    check_device(name)
    if name == "cpu":
        return name
    import torch  # not at the top: --help and mistyped flags need no torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.cuda.is_available():
        raise ConfigError(f"--device {name}: torch sees no CUDA device on this machine; use --device cpu")
    if int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"--device {name}: torch sees {torch.cuda.device_count()} CUDA devices on this machine, numbered from 0; "
            "name one of them"
        )
    return name


def add_knob_flags(parser: argparse.ArgumentParser, *, leave_out: Iterable[str] = ()) -> None:
    """Adds one flag per parameter of a trial, with the parameter's own documentation."""
    group = parser.add_argument_group("configuration")
    left_out = set(leave_out)
    for spec in knobs():
        if spec.name not in left_out:
            _add_knob(group, spec)


def _add_knob(group: Any, spec: Knob) -> None:
    text = f"{spec.doc} (default: {spec.default})".replace("%", "%%")
    if spec.type is bool:
        add_flag(group, spec.name, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif spec.choices is not None:
        add_flag(group, spec.name, choices=spec.choices, help=text)
    else:
        add_flag(group, spec.name, type=spec.type, metavar=spec.type.__name__.upper(), help=text)


def given_knobs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Flat parameters that were given on the command line."""
    return {spec.name: value for spec in knobs() if (value := getattr(arguments, spec.name, None)) is not None}


def run(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Runs a command; a user's error becomes one line on stderr and an exit status, never a traceback."""
    standard_output.prepare()
    try:
        with stop_signals.raised():
            status = main(argv)
            sys.stdout.flush()
            return status
    except OutputError as error:
        if not error.reader_gone:  # a pager or head has read enough
            print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except ProjectError as error:
        print(f"error: {as_called(str(error))}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as interrupt:
        stop = stop_signals.stopped(interrupt)
        print(f"stopped by {stop.cause}", file=sys.stderr)
        return stop.exit_status


def say(text: str, file: TextIO | None = None) -> None:
    """Prints lines in which names of files and machines may stand, as any terminal may show them."""
    print("\n".join(printable(line) for line in text.split("\n")), file=file, flush=True)


def _made_printable(record: logging.LogRecord) -> bool:
    """A filter that passes every record, with its message as any terminal may show it."""
    record.msg, record.args = printable(record.getMessage()), None
    return True


def set_up_logging(*, verbose: bool = False, quiet: bool = False) -> None:
    """Logs warnings by default, everything from this project with `verbose`, only errors with `quiet`."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    handler = logging.StreamHandler()
    handler.addFilter(_made_printable)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[handler])
    for package in ("trainable", "search", "spaces", "analysis"):
        logging.getLogger(package).setLevel(level)
