"""A command whose output cannot be written: one line, and the shell's exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = """
import sys
from trainable.commandline import run

def main(argv):
    for _ in range(10_000):
        print("a line that nobody may read", flush=True)
    return 0

sys.exit(run(main))
"""


def test_a_reader_that_went_away_ends_a_command_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as output:
        ended = subprocess.run([sys.executable, "-c", COMMAND], stdout=output, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_one_line_that_was_not_flushed_is_missed_too(flags: list[str]) -> None:
    one_line = "import sys; from trainable.commandline import run; sys.exit(run(lambda argv: print('a line') or 0))"
    with Path("/dev/full").open("wb") as output:
        command = [sys.executable, *flags, "-c", one_line]
        ended = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr.count(b"\n")) == (1, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("wb") as output:
        ended = subprocess.run([sys.executable, "-c", COMMAND], stdout=output, stderr=subprocess.PIPE, check=False)
    assert ended.returncode == 1
    assert ended.stderr == b"error: standard output cannot be written: No space left on device\n"
