"""DCASE 2020 Task 2 with one configuration: trains each machine type below a data root, scores all its test clips,
prints the table of AUC and pAUC beside the official baseline, and writes DCASE's own result files.

    python -m analysis.dcase_table --data-root DIR [--config best.yaml] [--epochs N] [--seeds N] [--output DIR]
        [--yardsticks]
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainable.commandline import Parser, add_flag, resolve_device, run, say, set_up_logging
from trainable.config import DataConfig, TrialConfig
from trainable.errors import ConfigError
from trainable.units import aligned


def build_parser() -> Parser:
    parser = Parser(
        prog="python -m analysis.dcase_table",
        description="Trains each machine type below a data root, scores all test clips, and prints AUC and pAUC "
        "beside the official DCASE 2020 Task 2 baseline.",
    )
    add_flag(parser, "data_root", metavar="DIR", required=True, help="folder with one folder per machine type")
    add_flag(parser, "machine_type", metavar="NAME", action="append", help="only this machine type (may be repeated)")
    add_flag(parser, "config", metavar="FILE", help="configuration to train, such as a search's best.yaml")
    add_flag(parser, "epochs", type=int, metavar="N", help="epochs of each training (default: the configuration's)")
    add_flag(parser, "seeds", type=int, default=1, metavar="N", help="trainings per machine type, averaged (default 1)")
    add_flag(parser, "output", metavar="DIR", default="dcase-results", help="output folder (default: dcase-results)")
    add_flag(parser, "device", default="cpu", help="cpu, cuda, cuda:N or auto (default: cpu)")
    add_flag(
        parser,
        "gradient_accumulation_steps",
        type=int,
        default=1,
        metavar="N",
        help="split every batch into N micro-batches: less memory, the same result (default: 1)",
    )
    add_flag(
        parser,
        "yardsticks",
        action="store_true",
        help="add the AUC and pAUC of five simple detectors on the same clips",
    )
    add_flag(parser, "quiet", action="store_true", help="do not log epochs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    set_up_logging()
    for name in ("seeds", "gradient_accumulation_steps"):
        if getattr(arguments, name) < 1:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} is {getattr(arguments, name)}; it must be at least 1")
    device = resolve_device(arguments.device)
    saved_config, saved_data = _read(arguments.config)
    if arguments.epochs is not None:
        saved_config["epochs"] = arguments.epochs
    config = TrialConfig.from_flat(saved_config)
    root, output = Path(arguments.data_root).expanduser(), Path(arguments.output)

    # Here, not above: --help and a mistyped flag answer without torch.
    from analysis.dcase import (
        comparison_table,
        find_machine_types,
        mean_by_id,
        score_yardsticks,
        train_and_score,
        write_results,
        write_scores,
    )
    from trainable.execution_plan import ExecutionPlan, micro_batch_of

    names = arguments.machine_type or find_machine_types(root)
    plan = ExecutionPlan(
        micro_batch_clips=micro_batch_of(config.patch.batch_size, arguments.gradient_accumulation_steps)
    )
    results: dict[str, dict[str, tuple[float, float]]] = {}
    yardsticks: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    by_seed: list[dict[str, dict[str, tuple[float, float]]]] = [{} for _ in range(arguments.seeds)]
    log: Callable[[str], None] = (lambda line: None) if arguments.quiet else lambda line: say(line, sys.stderr)
    for name in names:
        data = DataConfig.merged(saved_data, {"data_root": str(root), "machine_type": name})
        runs = train_and_score(
            config,
            data,
            seeds=arguments.seeds,
            device=device,
            plan=plan,
            log=log,
        )
        results[name] = mean_by_id(runs)
        for index, scores in enumerate(runs):
            # DCASE's evaluator reads the files of one training; several trainings have a folder each.
            folder = output if len(runs) == 1 else output / f"seed-{index}"
            write_scores(folder, scores)
            by_seed[index][name] = scores.by_id()
            if len(runs) > 1:
                write_results(folder / "result.csv", by_seed[index])
        # Written after each machine type, so that an interrupted job keeps its results.
        write_results(output / "result.csv", results)
        if arguments.yardsticks:
            for yardstick, runs in score_yardsticks(config, data, seeds=arguments.seeds, log=log).items():
                its_results = yardsticks.setdefault(yardstick, {})
                its_results[name] = mean_by_id(runs)
                write_results(output / "yardsticks" / yardstick / "result.csv", its_results)
    table = comparison_table(results, yardsticks)
    say("\n".join(aligned([table.columns, *table.rows], left=range(len(table.columns)))))
    print(_remark(config, arguments.seeds, arguments.config))
    say(f"wrote {output / 'result.csv'} and the scores beside it")
    return 0


def _read(path: str | None) -> tuple[dict[str, object], dict[str, object]]:
    if path is None:
        return {}, {}
    from trainable.train import read_config_file

    config, data = read_config_file(Path(path))
    return dict(config), dict(data)


def _remark(config: TrialConfig, seeds: int, config_path: str | None) -> str:
    text = (
        f"{config.phase.epochs} epochs, {seeds} training{'s' if seeds > 1 else ''} per machine type, "
        f"density {config.score.density}; all test clips scored after the last epoch."
    )
    if config_path:
        text += (
            f"\n{config_path} may have been chosen with labels of some of these clips; for an unbiased number, "
            "see the held-out AUC of python -m analysis.best."
        )
    return text


if __name__ == "__main__":
    sys.exit(run(main))
