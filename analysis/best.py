"""The best configurations of a run: ``python -m analysis.best RUN [--top 5] [--export DIR] [--retrain]``."""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainable.commandline import Parser, add_flag, refuse_ignored, resolve_device, run, say, set_up_logging
from trainable.commands import as_called
from trainable.detection.alarm import DEFAULT_ALARM_RATE, RATE_HELP, AlarmRate, alarm_lines
from trainable.errors import ConfigError, RunError
from trainable.steps import error_console, told_steps
from trainable.units import counted, format_bytes

if TYPE_CHECKING:
    from analysis.results import RunResults
    from trainable.detection.finish import Finished, MemberPlan

RETRAINED = "retrained"
"""Beside the detector that the search left, which was trained on fewer clips."""
SEEDS = 3
"""Trainings of a detector of one configuration."""


def build_parser() -> Parser:
    parser = Parser(prog="python -m analysis.best", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished, running or interrupted search")
    add_flag(parser, "top", type=int, default=5, metavar="N", help="how many configurations (default: 5)")
    add_flag(
        parser,
        "export",
        metavar="DIR",
        help="write the detector as ONNX with a scorer of NumPy, and the configurations as YAML for python -m "
        "trainable.train --config; RUN may be a detector's folder",
    )
    add_flag(parser, "retrain", action="store_true", help="train the best again on all normal clips; save a detector")
    add_flag(parser, "trial", type=int, metavar="NUMBER", help="retrain this trial alone")
    add_flag(
        parser,
        "members",
        type=int,
        metavar="N",
        help="pairs of trial and density model that the detector averages (default: 8)",
    )
    add_flag(
        parser,
        "seeds",
        type=int,
        metavar="N",
        help="trainings of each configuration (default: 3 of one configuration, 1 of several)",
    )
    add_flag(
        parser,
        "allow_changes",
        action="store_true",
        help="retrain on the recordings that are there now, though they are not those of the search",
    )
    add_flag(parser, "output", metavar="DIR", help="folder of the retrained detector (default: RUN/retrained)")
    add_flag(parser, "alarm_rate", metavar="RATE", help=f"of the detector: {RATE_HELP}; default: {DEFAULT_ALARM_RATE}")
    add_flag(parser, "held_out", action="store_true", help="score held-out clips even before the search has ended")
    add_flag(parser, "device", default="cpu", help="cpu, cuda, cuda:N or auto (default: cpu)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    set_up_logging(quiet=True)
    for name in ("top", "seeds", "members"):
        given = getattr(arguments, name)
        if given is not None and given < 1:
            raise ConfigError(f"--{name} is {given}; it must be at least 1")
    if arguments.alarm_rate is not None:
        AlarmRate.parse(arguments.alarm_rate)  # before hours of training
        if not arguments.retrain:
            raise ConfigError("--alarm-rate is for the detector that --retrain makes; add --retrain or leave it out")
    if not arguments.retrain:
        refuse_ignored(
            parser, arguments, ("trial", "members", "seeds", "output", "allow_changes"), "is for --retrain; add it"
        )
    device = resolve_device(arguments.device)
    if arguments.export:
        from analysis.export.target import check_target, is_detector

        check_target(Path(arguments.export))
        if arguments.retrain and _output(arguments).resolve() == Path(arguments.export).resolve():
            raise ConfigError(
                f"--export {arguments.export} is where --retrain writes its detector; name another folder"
            )
        if is_detector(Path(arguments.run)) and not arguments.retrain:
            refuse_ignored(parser, arguments, ("top", "held_out"), "is for a run, and this is a detector; leave it out")
            _export(Path(arguments.run), Path(arguments.export))
            return 0
    # Here, not above: --help and a mistyped path answer without torch.
    from analysis.front import front_text
    from analysis.results import load_run
    from analysis.winners import export_winners, find_winners, winners_text, wrapped

    results = load_run(arguments.run)
    with told_steps(error_console()) as steps:
        winners, notes = find_winners(results, arguments.top, held_out=arguments.held_out, device=device, steps=steps)
    notes += [text for text in (front_text(results.trials, results.measure),) if text]
    width = _terminal_width()
    told = [note if width is None else wrapped(note, width) for note in (*results.notes, *notes)]
    say("\n".join([*told[: len(results.notes)], winners_text(winners, width), *told[len(results.notes) :]]))
    if arguments.export:
        for path in export_winners(results, winners, Path(arguments.export)):
            say(f"wrote {path}")
    detector = _retrain(results, arguments, device) if arguments.retrain else results.folder.detector_path
    if arguments.export:
        _export(detector, Path(arguments.export))
    return 0


def _terminal_width() -> int | None:
    """Characters of a line of the terminal; None for a file or a pipe, whose lines may be of any length."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _export(detector: Path, folder: Path) -> None:
    """Writes a detector as files that need none of this project, or says that there is none yet."""
    from analysis.export.target import LAUNCHER, is_detector

    if not is_detector(detector):
        say(f"no model in {folder}: {detector} holds no detector; a search makes one as it ends, or add --retrain")
        return
    from analysis.export.folder import export_detector

    size_bytes = sum(path.stat().st_size for path in export_detector(detector, folder))
    say(
        f"wrote {folder}, {format_bytes(size_bytes)}; score recordings where there is only numpy and onnxruntime: "
        f"python {shlex.quote(str(folder / LAUNCHER))} FILES"
    )


def _output(arguments: argparse.Namespace) -> Path:
    """Folder of the detector that ``--retrain`` makes."""
    return Path(arguments.output) if arguments.output else Path(arguments.run) / RETRAINED


def _retrain(results: "RunResults", arguments: argparse.Namespace, device: str) -> Path:
    """Trains and saves a detector, and says what is known of it; returns its folder."""
    from analysis.model_view import changed_text, load_run_data
    from analysis.retrain import retrain
    from trainable.detection.detector import make_folder

    output = _output(arguments)
    make_folder(output)
    plans = _members(results, arguments)
    data = load_run_data(results, allow_changes=arguments.allow_changes)
    if changed := changed_text(results, data):
        say(changed)
    retrained = retrain(
        results,
        plans,
        data,
        device=device,
        log=say,
        alarm_rate=AlarmRate.parse(arguments.alarm_rate or DEFAULT_ALARM_RATE),
    )
    retrained.detector.save(output)
    for line in known_of(retrained):
        say(line)
    say(f"wrote {output}; score recordings with: {as_called('python -m trainable.score')} --model {output} FILES")
    return output


def _members(results: "RunResults", arguments: argparse.Namespace) -> "list[MemberPlan]":
    """Which trials to train again. Raises ConfigError for a trial that the run does not hold."""
    from analysis.retrain import with_seeds

    number, count, seeds = arguments.trial, arguments.members, arguments.seeds
    if number is None:
        return members_to_retrain(results, count, seeds)
    if count is not None:
        raise ConfigError("--trial retrains one configuration, --members several; give only one of them")
    if number not in results.ranked.index:
        raise ConfigError(f"--trial {number}: {arguments.run} holds no trial {number} with an AUC")
    return with_seeds(results, number, seeds or SEEDS)


def members_to_retrain(results: "RunResults", count: int | None = None, seeds: int | None = None) -> "list[MemberPlan]":
    """The best pairs of a trial and a density model, or the best trial with several seeds where none makes pairs.

    Raises RunError if no trial has an AUC.
    """
    from analysis.retrain import best_pairs, with_seeds
    from trainable.detection.ranking import MEMBERS, competing

    by_labels = not results.manifest.objective.holds_back
    no_pairs = count is None and not competing(results.records.values())
    if by_labels and (count == 1 or no_pairs):
        if results.best_number is None:
            raise RunError(f"no trial of {results.folder.path} has finished an epoch, so there is none to train again")
        return with_seeds(results, results.best_number, seeds or SEEDS)
    return best_pairs(results, count or MEMBERS, seeds or (SEEDS if count == 1 else 1))


def known_of(retrained: "Finished") -> list[str]:
    """What a user should know of a detector: how well it detects, what its p-values rest on, what scoring costs."""
    from trainable.detection.calibration import ENOUGH_CLIPS

    made, models = retrained.detector.made, len(retrained.detector.members)
    lines = []
    if retrained.held_out is not None:
        lines.append(f"held-out AUC {retrained.held_out.text}")
        if retrained.held_out.clips.few:
            lines.append(retrained.held_out.clips.warning)
    else:
        lines.append("no anomaly is labelled, so nobody knows yet how many faults it hears")
    if retrained.pseudo_aucs:
        shown = ", ".join(f"{family} {auc:.3f}" for family, auc in retrained.pseudo_aucs.items())
        lines.append(f"AUC of pseudo-anomalies, made of the clips that it is calibrated on: {shown}")
    pooled = made["pooled_ids"]
    lines.append(
        f"a p-value of 0.05 means one false alarm in 20 among recordings like the {made['calibration_clips']} normal "
        "clips it is calibrated on; those of another day, place or microphone may give more"
    )
    if pooled:
        lines.append(
            f"id {', '.join(pooled)} has fewer than {ENOUGH_CLIPS} of them, too few for a p-value of 0.05: its scores "
            "are compared with those of all ids, in each id's own standard deviations"
        )
    lines += alarm_lines(retrained.detector.promises, retrained.detector.thresholds)
    lines.append(
        f"the mean of {counted(len(made['members']), 'score')} of {counted(models, 'model')}, "
        f"{format_bytes(made['weights_bytes'])} of weights, "
        f"{1000 * made['seconds_per_clip']:.0f} ms a clip here"
    )
    return lines


if __name__ == "__main__":
    sys.exit(run(main))
