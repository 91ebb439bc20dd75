"""What differs from one operating system to another: the cores of this process, and locks on files."""

import os
from types import ModuleType

from trainable.errors import RunError


def available_cores() -> int:
    """CPU cores that this process may use; all of the machine's if the system does not say (macOS)."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def file_locks() -> ModuleType:
    """The module fcntl.

    Raises
    ------
    RunError
        On Windows, which has none.
    """
    try:
        import fcntl
    except ImportError:
        raise RunError("this system has no fcntl, which locks a run's folder; on Windows, run it in WSL") from None
    return fcntl
