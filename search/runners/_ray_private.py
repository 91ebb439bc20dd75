"""What we use of Ray's inside where it offers no public way. Looked up when used (`trainable.private_name`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from trainable.private_name import PrivateName, replaced

_WRITTEN_FOR = "2.60"

PROCESS_TITLE = PrivateName(
    "ray",
    "ray._raylet",
    "setproctitle",
    "names a worker's process after its trial for ps, nvidia-smi and the dashboard",
    _WRITTEN_FOR,
)
"""The package setproctitle cannot do it: in a worker, whose title Ray has set before, its call changes nothing
(setproctitle 1.3.8, Ray 2.60)."""
ENTRYPOINT = PrivateName(
    "ray",
    "ray._private.utils",
    "get_entrypoint_name",
    "is what the dashboard shows of a driver: unless it is replaced the whole command line, passwords included",
    _WRITTEN_FOR,
)
"""A title by the package setproctitle would hide the command line too, but Ray then shows it in quotes and with an
empty pair of them for each character that it is shorter."""
NAMES = (PROCESS_TITLE, ENTRYPOINT)


def name_process(title: str) -> None:
    """Names this worker's process until the method of the actor that is running returns: then Ray names it again."""
    PROCESS_TITLE.get()(f"ray::{title}")


@contextmanager
def job_title(title: str) -> Iterator[None]:
    """What a driver that joins Ray in this block is called in the dashboard's list of jobs (its entrypoint)."""
    ENTRYPOINT.get()
    with replaced(import_module(ENTRYPOINT.module), ENTRYPOINT.name, lambda: title):
        yield
