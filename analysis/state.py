"""Whether a search has ended: results of a running one may change, and its held-out clips are not scored."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from trainable.host import file_locks
from trainable.record import RunFolder


class SearchState(StrEnum):
    """What the run's folder shows about a search."""

    ENDED = "ended"
    """The search has written its summary."""
    RUNNING = "running"
    """A driver on this machine holds the folder's lock."""
    OPEN = "interrupted or running on another machine"


def search_state(folder: RunFolder, summary: dict[str, Any]) -> SearchState:
    """Returns the state of a search whose `RunFolder.read_summary` is given."""
    if _is_held(folder):
        return SearchState.RUNNING
    return SearchState.ENDED if summary else SearchState.OPEN


def _is_held(folder: RunFolder) -> bool:
    """Whether a driver has locked the folder. Tests with a brief shared lock, so that readers do not see each other."""
    fcntl = file_locks()
    try:
        with (folder.path / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def last_recorded(folder: RunFolder) -> datetime | None:
    """Time of the last report or ending of a trial; None before the first."""
    times = [
        file.stat().st_mtime
        for name in ("epochs.jsonl", "end.json")
        for file in folder.path.glob(f"trials/*/{name}")
        if file.exists()
    ]
    return datetime.fromtimestamp(max(times), UTC) if times else None


NO_LABELS = "No anomaly is labelled, so nobody knows yet how many faults are heard."
"""Why there is no AUC on labelled clips."""
LABEL_SOME = (
    "To find out, label a few recordings of faults and of normal sound that training has not seen, and search again "
    "with --objective both."
)
"""What to do about it."""


def held_out_later(state: SearchState) -> str:
    """Why held-out clips are not scored yet; empty once the search has ended."""
    if state is SearchState.ENDED:
        return ""
    return "Held-out clips are scored once, for the winner, when the search has ended; --held-out scores them earlier."


def time_text(moment: datetime) -> str:
    """``2026-03-01 14:05 UTC``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
