"""Lists runs, ``python -m analysis.runs runs/``, or compares two, ``python -m analysis.runs RUN_A RUN_B``.

A list groups runs by their recordings, since AUCs on other clips cannot be compared. A comparison says which settings
differ, shows the best configurations and the cost side by side, and how much more the second detects than the first.
"""

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from trainable.commandline import Parser, add_flag, resolve_device, run, say, set_up_logging
from trainable.errors import ConfigError, RunError
from trainable.printable import csv_cell

ORDERS = ("best", "held-out", "begun", "epochs", "hours", "name")
"""Keys of `analysis.run_list.SORTS`, known without importing it."""
SOME_UNREADABLE = 1
"""Exit status when at least one run could not be read."""


def build_parser() -> Parser:
    parser = Parser(prog="python -m analysis.runs", description=__doc__)
    parser.add_argument(
        "runs", metavar="RUNS", nargs="+", help="runs, or folders of runs; exactly two runs are compared"
    )
    add_flag(
        parser, "sort", choices=ORDERS, default="best", help="order of runs on the same recordings (default: best)"
    )
    form = parser.add_mutually_exclusive_group()
    add_flag(form, "csv", action="store_true", help="print the list as CSV")
    add_flag(form, "json", action="store_true", help="print the list or the comparison as JSON")
    add_flag(parser, "no_model", action="store_true", help="compare without scoring held-out clips")
    add_flag(parser, "device", default="cpu", help="where a comparison scores held-out clips (default: cpu)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    set_up_logging(quiet=True)
    device = resolve_device(arguments.device)
    paths = [Path(each) for each in arguments.runs]
    # Here, not above: --help and a mistyped device answer without pandas.
    from analysis.run_list import find_runs

    runs: dict[Path, None] = {}
    others: list[Path] = []
    for path in paths:
        try:
            inside, no_runs = find_runs(path)
        except RunError:
            if len(paths) <= 2:
                raise
            inside, no_runs = [], [path]
        runs |= dict.fromkeys(inside)
        others += no_runs
    if len(paths) == 2 and list(runs) == paths:
        return _compare(paths[0], paths[1], arguments, device)
    return _list(list(runs), others, arguments)


def _list(paths: Sequence[Path], no_runs: Sequence[Path], arguments: argparse.Namespace) -> int:
    from analysis.run_list import COLUMNS, plain, read_rows, rows_text, sorted_rows

    rows, unreadable = read_rows(paths)
    rows = sorted_rows(rows, arguments.sort)
    if arguments.json:
        print(json.dumps([plain(row) for row in rows], indent=1))
    elif arguments.csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in plain(row).items()} for row in rows)
    elif rows:
        say(rows_text(rows))
    left_out = [
        *(f"{path} ({reason})" for path, reason in unreadable.items()),
        *(f"{path} (no run)" for path in no_runs),
    ]
    if left_out:
        say(f"left out: {'; '.join(left_out)}", sys.stderr)
    return SOME_UNREADABLE if unreadable else 0


def _compare(first: Path, second: Path, arguments: argparse.Namespace, device: str) -> int:
    if arguments.csv:
        raise ConfigError("--csv prints a list; a comparison of two runs is text, or JSON with --json")
    from analysis.compare_runs import compare
    from analysis.results import load_run

    found = compare(load_run(first), load_run(second), with_model=not arguments.no_model, device=device)
    say(json.dumps(found.to_dict(), indent=1) if arguments.json else found.text())
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
