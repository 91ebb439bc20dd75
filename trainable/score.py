"""Scores recordings with a saved detector: ``python -m trainable.score --model DIR FILES…``. One file in, one line out.

``-`` in place of files reads names from standard input, one per line, as they arrive; lists from Windows, with CR LF, a
byte order mark or in UTF-16, are read too. A file that cannot be scored has a line too, with the reason in ``error``
and no score. The reason also goes to standard error, the other files are still scored, and the exit status is 1.

``verdict`` is what the score means at the alarm rate, the detector's own or ``--alarm-rate``. ``status`` says how the
file was recorded; one that cannot be compared with the calibration recordings has no p-value and no verdict.
"""

import codecs
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from trainable.commandline import Parser, add_flag, resolve_device, run, set_up_logging
from trainable.commands import as_called
from trainable.detection.alarm import RATE_HELP, AlarmRate, Tally, Verdict, shortfalls
from trainable.errors import DataError, ShortError, SilentError
from trainable.printable import csv_cell, printable

if TYPE_CHECKING:
    from trainable.detection.detector import ClipScore, Detector

COLUMNS = ("file", "machine_id", "score", "p_value", "span_start_s", "span_end_s", "error", "verdict", "status")
SOME_FAILED = 1
"""Exit status when at least one file could not be scored."""


def build_parser() -> Parser:
    parser = Parser(prog="python -m trainable.score", description=__doc__)
    add_flag(
        parser, "model", metavar="DIR", required=True, help="folder of a detector (python -m analysis.best --retrain)"
    )
    parser.add_argument(
        "files",
        metavar="FILES",
        nargs="+",
        help="any recordings that libsndfile reads (.wav, .flac, .ogg, .mp3, .aiff), or .npy; "
        "- reads names from standard input",
    )
    add_flag(parser, "format", choices=("csv", "json"), default="csv", help="a CSV line or a JSON object per file")
    add_flag(parser, "machine_id", metavar="NN", help="machine id of all files (default: id_NN in each name)")
    add_flag(parser, "alarm_rate", metavar="RATE", help=f"{RATE_HELP}; default: the detector's own")
    add_flag(parser, "device", default="cpu", help="cpu, cuda, cuda:N or auto (default: cpu)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    set_up_logging(quiet=True)
    rate = None if arguments.alarm_rate is None else AlarmRate.parse(arguments.alarm_rate)
    # Not at the top: --help and mistyped flags need no torch.
    from trainable.detection.detector import Detector

    detector = Detector.load(Path(arguments.model), device=resolve_device(arguments.device))
    if rate is not None:
        detector = detector.with_alarm_rate(rate)
    if detector.alarm_rate is None:
        print("note: this detector has no alarm rate, so no verdict; --alarm-rate 0.05 gives it one", file=sys.stderr)
    for line in shortfalls(detector.promises):
        print(f"warning: {line}", file=sys.stderr)
    tally = score_files(
        detector,
        _names(arguments.files, sys.stdin),
        as_json=arguments.format == "json",
        machine_id=arguments.machine_id,
        output=sys.stdout,
        errors=sys.stderr,
    )
    fewest = min((promise.recordings for promise in detector.promises.values()), default=0.0)
    if too_many := tally.too_many_text(detector.alarm_rate, fewest):
        print(f"note: {as_called(too_many)}", file=sys.stderr)
    return SOME_FAILED if tally.failed else 0


def _names(files: Iterable[str], stdin: TextIO | None) -> Iterator[str]:
    for name in files:
        if name == "-":
            yield from (line for line in map(_without_line_break, _lines(stdin)) if line.strip())
        else:
            yield name


def _without_line_break(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _lines(stdin: TextIO | None) -> Iterator[str]:
    """Lines of a list of files, each as soon as it is there.

    Decoded as the system decodes file names, not as it decodes text: what a folder holds may be neither.
    """
    if stdin is None:
        raise DataError("standard input is closed; name the files, or pass a list of them")
    stream = getattr(stdin, "buffer", None)
    if stream is None:  # not a file
        yield from stdin
        return
    first = stream.readline()
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from io.StringIO((first + stream.read()).decode("utf-16", errors="replace"))
        return
    yield os.fsdecode(first.removeprefix(codecs.BOM_UTF8))
    yield from map(os.fsdecode, stream)


def score_files(
    detector: "Detector",
    names: Iterable[str],
    *,
    as_json: bool,
    machine_id: str | None,
    output: TextIO,
    errors: TextIO,
) -> Tally:
    """Scores files one at a time and counts them."""
    tally = Tally()
    writer = csv.writer(output, lineterminator="\n")
    if not as_json:
        writer.writerow(COLUMNS)
        output.flush()  # a caller that waits for the heading before sending a name would deadlock
    for name in names:
        try:
            score = detector.score_file(Path(name), machine_id)
            row = _row(name, score)
            tally.judged += score.p_value is not None
            tally.alarms += score.verdict is Verdict.ANOMALY
        except (DataError, OSError) as error:
            tally.failed += 1
            reason = printable(" ".join(str(error).split()))
            print(f"error: {reason}", file=errors, flush=True)
            row = (name, None, None, None, None, None, reason, Verdict.UNKNOWN, _status_of(error))
        if as_json:
            output.write(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")
        else:
            writer.writerow(map(csv_cell, row))
        output.flush()
    return tally


def _row(name: str, score: "ClipScore") -> tuple[str | float | None, ...]:
    begin, end = score.span_seconds
    p_value = None if score.p_value is None else float(f"{score.p_value:.4g}")
    shown = (round(score.score, 4), p_value, round(begin, 3), round(end, 3))
    return name, score.machine_id, *shown, None, score.verdict, score.status


def _status_of(error: Exception) -> str:
    from trainable.detection.recorded import Status

    if isinstance(error, SilentError):
        return Status.SILENT
    return Status.SHORT if isinstance(error, ShortError) else Status.ERROR


if __name__ == "__main__":
    sys.exit(run(main))
