"""The best configurations of a run: ``python -m analysis.best RUN [--top 5] [--export DIR] [--retrain]``."""

import sys
from collections.abc import Sequence
from pathlib import Path

from trainable.commandline import Parser, add_flag, resolve_device, run, set_up_logging
from trainable.errors import ConfigError


def build_parser() -> Parser:
    parser = Parser(prog="python -m analysis.best", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="folder of a finished, running or interrupted search")
    add_flag(parser, "top", type=int, default=5, metavar="N", help="how many configurations (default: 5)")
    add_flag(parser, "export", metavar="DIR", help="write them as YAML, for python -m trainable.train --config")
    add_flag(parser, "retrain", action="store_true", help="train the best again on all normal clips; save a detector")
    add_flag(parser, "trial", type=int, metavar="NUMBER", help="retrain this trial instead of the best")
    add_flag(parser, "seeds", type=int, default=3, metavar="N", help="trainings a detector averages over (default: 3)")
    add_flag(parser, "output", metavar="DIR", help="folder of the detector (default: RUN/detector)")
    add_flag(parser, "held_out", action="store_true", help="score held-out clips even before the search has ended")
    add_flag(parser, "device", default="cpu", help="cpu, cuda, cuda:N or auto (default: cpu)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    set_up_logging(quiet=True)
    for name in ("top", "seeds"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} is {getattr(arguments, name)}; it must be at least 1")
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
        from analysis.model_view import load_run_data
        from analysis.retrain import retrain

        number = winners[0].number if arguments.trial is None else arguments.trial
        if number not in results.ranked.index:
            raise ConfigError(f"--trial {number}: {arguments.run} holds no trial {number} with an AUC")
        output = Path(arguments.output) if arguments.output else results.folder.path / "detector"
        retrained = retrain(
            results,
            number,
            load_run_data(results),
            seeds=arguments.seeds,
            device=device,
            log=lambda line: print(line, flush=True),
        )
        retrained.detector.save(output)
        low, high = retrained.held_out.interval
        print(
            f"wrote {output}: held-out AUC {retrained.held_out.auc:.3f} (95 % interval {low:.3f} … {high:.3f}); "
            f"score recordings with: python -m trainable.score --model {output} FILES"
        )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
