"""Scores recordings with the exported detector of this folder: one file in, one line out.

`-` in place of files reads names from standard input, one per line, as they arrive; lists from Windows, with a byte
order mark or in UTF-16, are read too. A file that cannot be scored has a
line too, with the reason in `error`. The reason also goes to standard error, and the exit status is 1.
"""

import argparse
import codecs
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from .calibration import AlarmRate
from .detector import ClipScore, ExportedDetector
from .errors import DetectorError, RecordingError
from .printable import csv_cell, printable

COLUMNS = ("file", "machine_id", "score", "p_value", "span_start_s", "span_end_s", "error", "verdict", "status")
SOME_FAILED, UNUSABLE = 1, 2
"""Exit statuses: some file could not be scored; the detector could not be read."""


def main(folder: Path, argv: Sequence[str] | None = None) -> int:
    """Scores with the detector in `folder`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="score.py", description=__doc__)
    parser.add_argument("files", metavar="FILES", nargs="+", help=".wav or .npy; others need the package soundfile")
    parser.add_argument("--format", choices=("csv", "json"), default="csv", help="a CSV line or a JSON object per file")
    parser.add_argument("--machine-id", metavar="NN", help="machine id of all files (default: id_NN in each name)")
    parser.add_argument(
        "--alarm-rate",
        type=_alarm_rate,
        metavar="RATE",
        help="false alarms that may be, such as 0.01 of the recordings or 1/day (default: the detector's own)",
    )
    arguments = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # names of files are bytes, and need be no text
    names, as_json = _names(arguments.files, sys.stdin), arguments.format == "json"
    try:
        detector = ExportedDetector(folder)
        detector.alarm_rate = arguments.alarm_rate or detector.alarm_rate
        if ids := detector.unpromised():
            print(
                f"warning: id {', '.join(ids)}: too few normal recordings are known to promise this alarm rate; "
                "whatever scores higher than all of them is unknown",
                file=sys.stderr,
            )
        failed = score_files(detector, names, arguments.machine_id, as_json=as_json, output=sys.stdout)
    except DetectorError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    except BrokenPipeError:
        sys.stderr.close()  # the reader (a pager, head) has closed the pipe
        return 0
    return SOME_FAILED if failed else 0


def _alarm_rate(text: str) -> AlarmRate:
    try:
        return AlarmRate.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _names(files: Iterable[str], stdin: TextIO | None) -> Iterator[str]:
    for name in files:
        if name == "-":
            lines = (line.rstrip("\r\n") for line in _lines(stdin))
            yield from (line for line in lines if line.strip())
        else:
            yield name


def _lines(stdin: TextIO | None) -> Iterator[str]:
    if stdin is None:
        raise DetectorError("standard input is closed; name the files, or pass a list of them")
    first = stdin.buffer.readline()
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from io.StringIO((first + stdin.buffer.read()).decode("utf-16", errors="replace"))
        return
    yield os.fsdecode(first.removeprefix(codecs.BOM_UTF8))
    yield from map(os.fsdecode, stdin.buffer)


def score_files(
    detector: ExportedDetector, names: Iterable[str], machine_id: str | None, *, as_json: bool, output: TextIO
) -> int:
    """Scores files one at a time; returns how many could not be scored."""
    failed = 0
    writer = csv.writer(output, lineterminator="\n")
    if not as_json:
        writer.writerow(COLUMNS)
        output.flush()
    for name in names:
        try:
            row = _row(name, detector.score_file(Path(name), machine_id))
        except (RecordingError, OSError) as error:
            failed += 1
            reason = printable(" ".join(str(error).split()))
            print(f"error: {reason}", file=sys.stderr, flush=True)
            row = (name, None, None, None, None, None, reason, "unknown", getattr(error, "status", "error"))
        if as_json:
            output.write(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")
        else:
            writer.writerow(map(csv_cell, row))
        output.flush()
    return failed


def _row(name: str, found: ClipScore) -> tuple[str | float | None, ...]:
    begin, end = found.span_seconds
    p_value = None if found.p_value is None else float(f"{found.p_value:.4g}")
    shown = (round(found.score, 4), p_value, round(begin, 3), round(end, 3))
    return name, found.machine_id, *shown, None, found.verdict, found.status
