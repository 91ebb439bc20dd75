"""Private names of Ray that have no public equivalent. Looked up when used (`trainable.private_name`)."""

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
"""The package setproctitle has no effect in a worker, because Ray has already set its title (setproctitle 1.3.8,
Ray 2.60)."""
ENTRYPOINT = PrivateName(
    "ray",
    "ray._private.utils",
    "get_entrypoint_name",
    "gives the dashboard a driver's entrypoint: by default the whole command line, including passwords",
    _WRITTEN_FOR,
)
"""The package setproctitle would hide the command line too, but Ray then quotes the title and appends an empty pair of
quotes for each character by which it is shorter."""
NAMES = (PROCESS_TITLE, ENTRYPOINT)


def name_process(title: str) -> None:
    """Names this worker's process until the running actor method returns; then Ray renames it."""
    PROCESS_TITLE.get()(f"ray::{title}")


@contextmanager
def job_title(title: str) -> Iterator[None]:
    """Sets the entrypoint that the dashboard's job list shows for a driver that joins Ray in this block."""
    ENTRYPOINT.get()
    with replaced(import_module(ENTRYPOINT.module), ENTRYPOINT.name, lambda: title):
        yield
