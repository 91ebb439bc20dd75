"""Trains a single configuration: ``python -m trainable.train --machine-type fan --epochs 20``. No Ray, no Optuna."""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainable.commandline import (
    Parser,
    add_data_flags,
    add_flag,
    add_knob_flags,
    add_options_file,
    add_plan_flags,
    data_config,
    given_knobs,
    plan_request,
    resolve_device,
    run,
    say,
    set_up_logging,
)
from trainable.config import DataConfig, TrialConfig
from trainable.device.budget import Budget, Card
from trainable.errors import BudgetError, CheckpointError, ConfigError, NonFiniteError, RunError
from trainable.presets import configuration_path
from trainable.record import EpochReport
from trainable.units import format_bytes

if TYPE_CHECKING:
    from trainable.memory.profile import DeviceProfile
    from trainable.trial import Trial

CONFIG_HELP = "configuration to train: a preset (detector, recipe), or a file such as a search's best.yaml"


def build_parser() -> Parser:
    parser = Parser(prog="python -m trainable.train", description=__doc__)
    add_flag(parser, "config", metavar="NAME_OR_PATH", help=CONFIG_HELP)
    add_flag(parser, "device", default="auto", help="cpu, cuda, cuda:1 …; auto takes a GPU where there is one")
    add_flag(
        parser,
        "gpu_memory_budget",
        metavar="SIZE",
        help="for example 8GiB, 0.25 of the card, or auto, all of it: the plan must fit (default: no budget)",
    )
    add_flag(
        parser, "profile", metavar="FILE", help="device profile (JSON) measured on this GPU (default: by its name)"
    )
    add_flag(parser, "output", metavar="DIR", help="folder for checkpoints; training resumes from the newest one")
    add_flag(parser, "held_out", action="store_true", help="also report the held-out clips at the end")
    add_flag(parser, "verbose", action="store_true", help="log what happens inside")
    add_options_file(parser)
    add_data_flags(parser)
    add_plan_flags(parser)
    add_knob_flags(parser)
    return parser


def read_config_file(name_or_path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Flat configuration and flat data configuration of a preset or a file (``best.yaml``). Raises ConfigError."""
    import yaml

    path = configuration_path(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except Exception as error:  # YAMLError, and whatever int(), float() and deep recursion raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise ConfigError(
            f"--config {path} cannot be read: {' '.join(reason.split())[:300]}; "
            "name a file such as the best.yaml in a run's folder"
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise ConfigError(f"--config {path} holds no configuration; it needs a mapping under the key 'config'")
    data = content.get("data") or {}
    if not isinstance(data, dict):
        raise ConfigError(f"--config {path}: 'data' must be a mapping")
    return content["config"], data


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    set_up_logging(verbose=arguments.verbose)
    saved_config, saved_data = read_config_file(arguments.config) if arguments.config else ({}, {})
    config = TrialConfig.from_flat({**saved_config, **given_knobs(arguments)})
    if arguments.use_amp:
        config = config.replace(allow_amp=True)
    _train(arguments, config, data_config(arguments, saved_data))
    return 0


def _train(arguments: argparse.Namespace, config: TrialConfig, data: DataConfig) -> None:
    # Imported here so that --help and mistyped flags need no torch.
    from trainable.data.clips import Split
    from trainable.data.load import load_dataset
    from trainable.device.cap import cap_process_memory, expandable_segments_work, gpu_name
    from trainable.memory.planner import Planner
    from trainable.memory.profile import DeviceProfile
    from trainable.training.checkpoint import list_checkpoints
    from trainable.trial import PlannedTrial, Trial

    device = resolve_device(arguments.device)
    folder = _checkpoint_folder(arguments.output) if arguments.output else None
    given = DeviceProfile.load(Path(arguments.profile)) if arguments.profile else None
    profile = (given or DeviceProfile.for_gpu(gpu_name(device))).with_segments(expandable_segments_work(device))
    budget_bytes = _budget_bytes(arguments.gpu_memory_budget, device, profile)
    cap = cap_process_memory(budget_bytes, device, profile.outside_bytes, profile.amp_precision)
    dataset = load_dataset(data)
    request = plan_request(arguments, config.patch.batch_size)
    planner = Planner.for_dataset(dataset, budget_bytes=budget_bytes, request=request, profile=profile)
    memory = planner.plan(config)
    if not memory.fits:
        raise BudgetError(memory.reason)
    planned = PlannedTrial(config, memory, planner, cap).within_cap()
    memory = planned.memory
    for line in dataset.check_lines():
        say(line)
    for line in () if dataset.pseudo is None else dataset.pseudo.lines(labelled=dataset.labelled):
        print(line)
    say(
        f"{dataset.machine_type}: {len(dataset.train)} training clips, {len(dataset.validation)} validation clips, "
        f"{len(dataset.ids)} machine ids; {len(dataset.skipped)} recordings skipped\n"
        f"plan: {memory.plan.describe()}; predicted peak {format_bytes(memory.predicted_bytes)} on {device}"
    )
    with _endings(0):
        trial = Trial(planned, dataset, device=device)
    if folder is not None and list_checkpoints(folder):
        say(f"continuing from epoch {_resumed(trial, folder)} in {folder}")
    while not trial.done:
        with _endings(trial.epoch):
            report = trial.step()
        print(_line(report, config.phase.epochs), flush=True)
        if folder is not None:
            trial.save(folder)
    if arguments.held_out and not dataset.labelled:
        print("held-out AUC: not measured, because no anomaly is labelled")
    elif arguments.held_out:
        with _endings(trial.epoch):
            held_out = trial.evaluate(Split.HELD_OUT)
        print(f"held-out AUC {held_out.text}, pAUC {held_out.pauc:.3f}")
        if held_out.by_domain is not None:
            print(f"held-out AUC by domain: {held_out.by_domain.text}")
        if held_out.clips.few:
            print(f"mind: {held_out.clips.warning}")
    if folder is None:
        print("nothing was saved; give --output DIR to keep what is trained")
    else:
        say(f"saved: {list_checkpoints(folder)[trial.epoch]}")


def _resumed(trial: "Trial", folder: Path) -> int:
    """Resumes the trial and returns its epoch. Raises CheckpointError, saying what to do about it."""
    try:
        return trial.load(folder)
    except CheckpointError as error:
        raise CheckpointError(
            f"the training in --output {folder} cannot resume: {error}; "
            "give the settings that it was started with (--epochs too), or another --output"
        ) from None


def _checkpoint_folder(output: str) -> Path:
    """The folder for checkpoints, created before anything is computed. Raises RunError if it is not writable."""
    folder = Path(output).expanduser() / "checkpoints"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"--output {output} cannot be used: {reason}; name a folder you may write to") from None
    if not os.access(folder, os.W_OK):
        raise RunError(f"--output {output} is read-only; name a folder you may write to")
    for leftover in folder.glob(".epoch-*.tmp"):  # from a training that was killed while saving
        leftover.unlink(missing_ok=True)
    return folder


@contextmanager
def _endings(epochs_done: int) -> Iterator[None]:
    """Turns the failures of a training into errors of the command line."""
    from trainable.device.out_of_memory import is_out_of_memory

    try:
        yield
    except NonFiniteError as error:
        raise ConfigError(f"training diverged after epoch {epochs_done}: {error}; lower --learning-rate") from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise BudgetError(
            f"the device ran out of memory after epoch {epochs_done} and no smaller plan exists; "
            "lower --batch-size or --n-patches, or leave out the flags that fix a part of the plan"
        ) from None


def _budget_bytes(text: str | None, device: str, profile: "DeviceProfile") -> int | None:
    """The budget of the one training on its device; prints how it was understood. On a CPU auto is no budget."""
    from trainable.device.cap import card_of

    asked = None if text is None else Budget.read(text)
    if asked is None or (asked.is_auto and device == "cpu"):
        return None
    if device != "cpu":
        cards = [card_of(device, profile.reserve_bytes)]
    else:
        cards = [] if profile.total_bytes is None else [Card(profile.total_bytes, profile.reserve_bytes)]
    budget = asked.on(cards)
    if budget.said:
        print(budget.said)
    return budget.size_bytes


def _line(report: EpochReport, epochs: int) -> str:
    memory = f"  peak {format_bytes(report.peak_bytes)}" if report.peak_bytes else ""
    memory += f" of {format_bytes(report.cap_bytes)}" if report.cap_bytes else ""
    memory += f", by the driver {format_bytes(report.driver_bytes)}" if report.driver_bytes else ""
    return (
        f"epoch {report.epoch:3d}/{epochs}  phase {report.phase}  loss {report.loss:.4f}  "
        f"rec {report.reconstruction_loss:.4f}  {_judged(report)}  "
        f"perplexity {report.perplexity:.0f}  dead {report.dead_code_share:.0%}  {report.epoch_seconds:.1f} s{memory}"
    )


def _judged(report: EpochReport) -> str:
    shown = (
        ("AUC", report.validation_auc),
        ("pAUC", report.validation_pauc),
        ("pseudo-AUC", report.pseudo_auc),
    )
    return "  ".join(f"{name} {value:.3f}" for name, value in shown if value is not None)


if __name__ == "__main__":
    sys.exit(run(main))
