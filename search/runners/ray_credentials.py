"""Credentials of the environment that Ray Tune would show to every user of a machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
"""What Ray Tune looks for in `os.environ` and passes to its workers by command line, which ``ps`` and a log show."""


@contextmanager
def hidden_credentials() -> Iterator[None]:
    """Takes AWS's credentials out of `os.environ` for the block.

    They stay in the environment of the process: pyarrow and child processes find them there. Workers have those of the
    Ray on their machine.
    """
    given = {name: os.environ.pop(name) for name in AWS if name in os.environ}
    try:
        for name, value in given.items():
            os.putenv(name, value)
        yield
    finally:
        os.environ.update(given)
