"""Why a trial's worker on Ray ended: our name for it, and one sentence that is the same for the same cause."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.tune.experiment import Trial as RayTuneTrial

from trainable.errors import RunError
from trainable.record import TrialEnd

_EXIT_TYPE = re.compile(r"[Ww]orker exit type: ([A-Z_]+)")
_OUT_OF_MEMORY = re.compile(r"NODE_OUT_OF_MEMORY|low on memory")
HEAD = "gcs_server"
_PARTS = (HEAD, "raylet")
"""Processes of Ray without which nothing runs: the head of a cluster, and one of each machine."""
_KILLED = "the worker was killed: its node ran low on memory (Ray's memory monitor)"


def crash_reason(trial: RayTuneTrial) -> tuple[TrialEnd, str]:
    """How the trial failed, and the type and message of the error, without its traceback."""
    path = Path(trial.pickled_error_file or "")
    if not path.is_file():  # no error of an actor or of its task, such as low memory at its start
        text = Path(trial.error_file or "")
        low = text.is_file() and _OUT_OF_MEMORY.search(text.read_text(encoding="utf-8", errors="replace"))
        return (TrialEnd.OUT_OF_MEMORY, _KILLED) if low else (TrialEnd.CRASHED, "the worker was lost")
    error = cloudpickle.loads(path.read_bytes())  # this process has just written it
    return reason_of(error)


def reason_of(error: BaseException) -> tuple[TrialEnd, str]:
    """Ending and reason for an error; for a lost worker, without the identifiers and addresses in Ray's message."""
    cause = getattr(error, "cause", None) or error
    text = str(cause)
    if isinstance(cause, ray.exceptions.OutOfMemoryError):
        return TrialEnd.OUT_OF_MEMORY, _KILLED
    if isinstance(cause, ray.exceptions.RayActorError) and not cause.actor_init_failed:
        exit_type = _EXIT_TYPE.search(text)
        if _OUT_OF_MEMORY.search(text):
            return TrialEnd.OUT_OF_MEMORY, _KILLED
        if "node has died" in text or "node was terminated" in text:
            return TrialEnd.CRASHED, "the worker was lost with its node"
        return (
            TrialEnd.CRASHED,
            f"the worker was lost (exit type {exit_type[1]})" if exit_type else "the worker was lost",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if isinstance(cause, ray.exceptions.RayActorError):  # the last line is the error raised in the worker's start
        return TrialEnd.CRASHED, f"the worker could not be started: {' '.join(lines[-1:])}"
    return TrialEnd.CRASHED, f"{type(cause).__name__}: {' '.join(lines[:3])}"


def caused_by_low_memory(error: BaseException | None) -> bool:
    """Whether an error arose from that of a worker that Ray's memory monitor killed."""
    while error is not None and not isinstance(error, ray.exceptions.OutOfMemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def kill_worker(worker: Any) -> tuple[TrialEnd, str] | None:
    """Makes sure that a worker is gone; ending and reason if Ray's memory monitor had killed it before."""
    ray.kill(worker)
    try:
        ray.get(worker.__ray_ready__.remote())
    except ray.exceptions.RayError as error:
        end, reason = reason_of(error)
        return (end, reason) if end is TrialEnd.OUT_OF_MEMORY else None
    return None


def dead_parts() -> list[str]:
    """Names of the processes without which a Ray that this process started ends this one, and which have died.

    Seen on Linux alone. Ray itself takes a while to notice, and then ends this process without an exception.
    """
    threads = Path("/proc/self/task").glob("*/children")
    states = [_read(Path("/proc", child, "stat")) for thread in threads for child in _read(thread).split()]
    # "PID (NAME) STATE …"; a process that has ended is a zombie until its parent asks how.
    found = [state.partition("(")[2].rpartition(")") for state in states]
    return [name for name, _, rest in found if name in _PARTS and rest.split()[0] == "Z"]


def _read(path: Path) -> str:
    """A file of /proc; empty if its process or thread is gone."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def ray_failure(error: Exception, folder: str) -> Exception:
    """The error to raise when Ray Tune itself failed: a full disk becomes a RunError, any other error stays."""
    full = os.strerror(errno.ENOSPC)
    if full in str(error):
        return RunError(f"Ray cannot write to {folder}: {full}; make room, and continue with --resume")
    return error
