"""A quarter of an hour on a card: all that only a card can tell, the most important first, each result on disk at once.

    python -m benchmarks.gpu_session --output benchmarks/results/h100
    python -m benchmarks.gpu_session --output benchmarks/results/h100 --only promise,growth --seconds 120
    python -m benchmarks.gpu_session --output few --only table --cases 'recipe w1*,capped w4*'

Needs only torch. Each section has a time limit, unless it is the only one, and all together have `--seconds`. Nothing
else may run on the card. Most cases run in this one process, each with an empty allocator: a fresh process takes about
six seconds to start.
"""

import csv
import gzip
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu_cases import chosen
from benchmarks.gpu_in_process import empty_allocator
from benchmarks.gpu_memory import versions
from benchmarks.gpu_sections import SECTIONS, Row, Section, table
from trainable.commandline import Parser, add_flag, run
from trainable.device.cap import pin_settings
from trainable.errors import ConfigError
from trainable.memory.profile import DeviceProfile

SECONDS = 520.0
SMALL = ("context", "train", "agreement", "growth", "waits")
"""Sections with few rows, which share one file."""


class Results:
    """The files of a session: one CSV per large section, ``session.json`` for the rest, rewritten row by row."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._small_path = folder / "session.json"
        self._small = json.loads(self._small_path.read_text("utf-8")) if self._small_path.exists() else {}

    def note(self, name: str, value: object) -> None:
        """Adds to the small file."""
        self._small[name] = value
        self._small_path.write_text(json.dumps(self._small, indent=1) + "\n", encoding="utf-8")

    def write(self, section: str, rows: Sequence[Row]) -> None:
        """Writes all rows of a section so far."""
        if section == "traces":
            with gzip.open(self._folder / "traces.json.gz", "wt", encoding="utf-8") as file:
                json.dump(list(rows), file)
        elif section in SMALL:
            self.note(section, list(rows))
        else:
            columns = list(dict.fromkeys(name for row in rows for name in row))
            with (self._folder / f"{section}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)


def measure(name: str, section: Section, profile: DeviceProfile, results: Results, end: float) -> list[Row]:
    """Runs one section until `end` (of ``time.monotonic``), writing every row as it comes."""
    rows: list[Row] = []
    made: Iterator[Row] = section.rows(profile, lambda: end - time.monotonic())
    for row in made:
        rows.append(row)
        results.write(name, rows)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.gpu_session", description=__doc__.split("\n")[0])
    add_flag(parser, "output", metavar="DIR", required=True, help="folder of the results")
    add_flag(parser, "only", metavar="NAMES", help=f"sections, of {','.join(SECTIONS)} (default: all)")
    add_flag(parser, "cases", metavar="NAMES", help="cases of the section table, such as 'recipe*,part w1*' (all)")
    add_flag(parser, "seconds", type=float, default=SECONDS, metavar="S", help=f"in all (default: {SECONDS:.0f})")
    add_flag(parser, "profile", metavar="FILE", help="device profile to predict with (default: the built-in one)")
    arguments = parser.parse_args(argv)
    begun = time.monotonic()
    names = arguments.only.split(",") if arguments.only else list(SECTIONS)
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise ConfigError(f"--only names {', '.join(unknown)}; the sections are {', '.join(SECTIONS)}")
    sections = dict(SECTIONS)
    if arguments.cases is not None:
        if "table" not in names:
            raise ConfigError(f"--cases chooses cases of the section table, which --only {arguments.only} leaves out")
        sections["table"] = replace(SECTIONS["table"], rows=partial(table, wanted=chosen(arguments.cases)))
    pin_settings(os.environ)  # before anything asks CUDA: the allocator reads its settings once
    if not torch.cuda.is_available():
        raise ConfigError("benchmarks.gpu_session needs a CUDA GPU, and torch sees none here; nothing was measured")
    profile = DeviceProfile.load(Path(arguments.profile)) if arguments.profile else DeviceProfile()
    results = Results(Path(arguments.output))
    card = torch.cuda.get_device_properties(0)
    results.note("versions", versions(card.name, card.total_memory))
    for name in names:
        section, start = sections[name], time.monotonic()
        share = arguments.seconds if len(names) == 1 else section.seconds
        end = min(start + share, begun + arguments.seconds)
        if end <= start:
            print(f"{name}: no time left", flush=True)
            continue
        try:
            rows = measure(name, section, profile, results, end)
            print(f"{name}: {len(rows)} rows, {time.monotonic() - start:.0f} s", flush=True)
        except Exception:  # the sections after it can still be measured
            traceback.print_exc()
            print(f"{name}: ended by the error above after {time.monotonic() - start:.0f} s", flush=True)
        empty_allocator()
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
