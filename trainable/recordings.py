"""Says what recordings a folder holds, before anything is trained: ``python -m trainable.recordings FOLDER``.

Folders in a known layout are named with the flags that read them. Of any other tree a table is drafted for
``--recordings``: read it, correct it, and search with it. Both ways every recording is read and checked; the features
are kept for the search.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainable.commandline import (
    Parser,
    add_data_flags,
    add_flag,
    data_config,
    refuse_ignored,
    run,
    say,
    set_up_logging,
)
from trainable.commands import as_called
from trainable.config import DataConfig
from trainable.errors import DataError

if TYPE_CHECKING:
    from trainable.data.layout import Layout

MOST_NAMED = 20
"""Machine types of a folder."""


def build_parser() -> Parser:
    parser = Parser(prog="python -m trainable.recordings", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", help="folder of recordings, of a machine type, or of many of them")
    add_flag(parser, "output", metavar="FILE", help="where a drafted table is written (default: FOLDER's name, .csv)")
    add_flag(parser, "no_reading", action="store_true", help="list the files, but do not read and check them")
    add_data_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    refuse_ignored(
        parser, arguments, ("data_root", "recordings"), "and FOLDER cannot be combined; FOLDER says what to look at"
    )
    if arguments.no_reading:
        of_reading = [name for name in DataConfig.names() if name in vars(arguments) and name != "machine_type"]
        refuse_ignored(parser, arguments, of_reading, "changes nothing with --no-reading; remove one of the two")
    set_up_logging()
    root = Path(os.path.normpath(Path(arguments.folder).expanduser().absolute()))
    if not root.is_dir():
        raise DataError(f"{root} {'is not a folder' if root.exists() else 'does not exist'}; name a folder")
    # Not at the top: --help and mistyped flags need no torch.
    from trainable.data.layout import known_below

    wanted = arguments.machine_type
    known = [] if arguments.output else [one for one in known_below(root) if wanted in (None, one[0].name)]
    if known:
        return _name_known(known, arguments)
    table = _write_draft(root, Path(arguments.output or f"{root.name}.csv"))
    say(f"read {table}, correct it where names mislead, and search with it:")
    search = as_called("python -m search.run")
    say(f"  {search} --space ad_tuning --recordings {shlex.quote(str(table))}")
    if not arguments.no_reading:
        _check(data_config(arguments, {"recordings": str(table.absolute()), "machine_type": table.stem}))
    return 0


def _name_known(known: "Sequence[tuple[Path, Layout]]", arguments: argparse.Namespace) -> int:
    """Prints each machine type, the flags that read it, and what is in it; returns 1 if one of them is unusable."""
    from trainable.data.layout import flags_of

    failed = 0
    for folder, layout in known[:MOST_NAMED]:
        say(f"{folder.name}: {layout.title}; {flags_of(folder)}")
        if arguments.no_reading:
            continue
        arguments.machine_type = None  # the folder says it
        try:
            _check(data_config(arguments, {"data_root": str(folder.parent), "machine_type": folder.name}))
        except DataError as error:
            failed = 1
            say(f"error: {error}", sys.stderr)
    if len(known) > MOST_NAMED:
        say(f"and {len(known) - MOST_NAMED} more machine types")
    return failed


def _write_draft(root: Path, table: Path) -> Path:
    from trainable.data.draft import counts, draft
    from trainable.data.layout import log_skipped
    from trainable.data.table import in_place, write_table

    if table.exists():
        raise DataError(f"{table} exists and may have been corrected; name another file with --output, or remove it")
    skipped: list[str] = []
    rows = draft(root, skipped)
    log_skipped(skipped)
    if not rows:
        raise DataError(f"{root} holds no recording that can be read; docs/data.md says what is accepted")
    try:
        write_table(table, (in_place(row, root, table.parent) for row in rows))
    except OSError as error:
        raise DataError(f"{table} cannot be written ({error.strerror}); name another file with --output") from None
    say(f"{root}: no known layout; {len(rows)} recordings are listed in {table}")
    for line in counts(rows):
        say(line)
    return table


def _check(config: DataConfig) -> None:
    """Reads recordings as a search will, and prints how they are stored and what judges."""
    from trainable.data.load import load_dataset

    dataset = load_dataset(config)
    for line in dataset.check_lines():
        say(f"  {line}")
    labelled = f"{len(dataset.validation)} validation and {len(dataset.held_out)} held-out clips"
    judges = labelled if dataset.labelled else "no labelled anomalies: pseudo-anomalies judge"
    say(f"  {len(dataset.train)} training clips, {judges}; {len(dataset.skipped)} recordings skipped")


if __name__ == "__main__":
    sys.exit(run(main))
