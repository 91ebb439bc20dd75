"""The best configurations of a run: ``python -m analysis.best RUN [--top 5] [--export DIR] [--retrain]``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainable.commandline import Parser, add_flag, resolve_device, run, set_up_logging
from trainable.errors import ConfigError
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
    add_flag(parser, "export", metavar="DIR", help="write them as YAML, for python -m trainable.train --config")
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
    add_flag(parser, "output", metavar="DIR", help="folder of the retrained detector (default: RUN/retrained)")
    add_flag(parser, "held_out", action="store_true", help="score held-out clips even before the search has ended")
    add_flag(parser, "device", default="cpu", help="cpu, cuda, cuda:N or auto (default: cpu)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    set_up_logging(quiet=True)
    for name in ("top", "seeds", "members"):
        given = getattr(arguments, name)
        if given is not None and given < 1:
            raise ConfigError(f"--{name} is {given}; it must be at least 1")
    device = resolve_device(arguments.device)
    # Here, not above: --help and a mistyped path answer without torch.
    from analysis.results import load_run
    from analysis.winners import export_winners, find_winners, winners_text

    results = load_run(arguments.run)
    winners, notes = find_winners(results, arguments.top, held_out=arguments.held_out, device=device)
    print("\n".join([*results.notes, winners_text(winners), *notes]))
    if arguments.export:
        for path in export_winners(results, winners, Path(arguments.export)):
            print(f"wrote {path}")
    if arguments.retrain:
        _retrain(results, arguments, device)
    return 0


def _retrain(results: "RunResults", arguments: argparse.Namespace, device: str) -> None:
    """Trains and saves a detector, and says what is known of it."""
    from analysis.model_view import load_run_data
    from analysis.retrain import retrain

    output = Path(arguments.output) if arguments.output else results.folder.path / RETRAINED
    plans = _members(results, arguments)
    data = load_run_data(results)
    retrained = retrain(results, plans, data, device=device, log=lambda line: print(line, flush=True))
    retrained.detector.save(output)
    for line in known_of(retrained):
        print(line)
    print(f"wrote {output}; score recordings with: python -m trainable.score --model {output} FILES")


def _members(results: "RunResults", arguments: argparse.Namespace) -> "list[MemberPlan]":
    """Which trials to train again. Raises ConfigError for a trial that the run does not hold."""
    from analysis.retrain import best_pairs, with_seeds
    from trainable.detection.ranking import MEMBERS, completed

    number, count, seeds = arguments.trial, arguments.members, arguments.seeds
    if number is not None:
        if count is not None:
            raise ConfigError("--trial retrains one configuration, --members several; give only one of them")
        if number not in results.ranked.index:
            raise ConfigError(f"--trial {number}: {arguments.run} holds no trial {number} with an AUC")
        return with_seeds(results, number, seeds or SEEDS)
    count = count or MEMBERS
    by_labels = not results.manifest.objective.holds_back
    nothing_completed = arguments.members is None and not completed(results.records.values())
    if by_labels and (count == 1 or nothing_completed):
        return with_seeds(results, int(results.ranked.index[0]), seeds or SEEDS)
    return best_pairs(results, count, seeds or (SEEDS if count == 1 else 1))


def known_of(retrained: "Finished") -> list[str]:
    """What a user should know of a detector: how well it detects, what its p-values rest on, what scoring costs."""
    from trainable.detection.detector import ENOUGH_CLIPS

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
    lines.append(
        f"the mean of {counted(len(made['members']), 'score')} of {counted(models, 'model')}, "
        f"{format_bytes(made['weights_bytes'])} of weights, "
        f"{1000 * made['seconds_per_clip']:.0f} ms a clip here"
    )
    return lines


if __name__ == "__main__":
    sys.exit(run(main))
