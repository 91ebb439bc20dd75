"""Whether a recording can be compared with the calibration recordings at all, by how it was recorded."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from trainable.data.check import CLIPPED_SHARE, DataCheck, Storage
from trainable.detection.calibration import Calibration

QUIET_DB = 20.0
"""Below the quietest calibration recording, in mean log-mel: a hundredth of its power. A machine that is off, a
microphone that fell off or whose gain was changed."""
SHORT_SHARE = 0.5
"""Of the shortest calibration recording: what is shorter scores too variably to be compared."""


class Status(StrEnum):
    """What is wrong with how a recording was recorded; of several the first."""

    ERROR = "error"
    """It cannot be read, or its machine id is not known."""
    SILENT = "silent"
    """Every sample is zero."""
    SHORT = "short"
    """Shorter than a window, or than `SHORT_SHARE` of the shortest calibration recording."""
    QUIET = "quiet"
    """`QUIET_DB` quieter than the quietest calibration recording."""
    OTHER_RATE = "other_rate"
    """Resampled from a rate lower than that of every normal recording: bands are missing."""
    CLIPPED = "clipped"
    """More samples at full scale than `CLIPPED_SHARE` and than any training recording has: judged nevertheless, since
    a machine that is too loud for its microphone is a finding."""
    OK = "ok"

    @property
    def judged(self) -> bool:
        """Whether such a recording has a p-value and a verdict."""
        return self in (Status.OK, Status.CLIPPED)


@dataclass(frozen=True)
class Limits:
    """How the normal recordings of all ids were recorded."""

    lowest_rate_hz: float
    """Lowest sample rate, at most that of the front end."""
    most_clipped: float = CLIPPED_SHARE
    """Largest share of samples at full scale, at least `CLIPPED_SHARE`."""

    @classmethod
    def of_check(cls, check: DataCheck | None, sample_rate: int) -> "Limits":
        """From the check of a data set's recordings; from the front end's rate alone without one."""
        rows = [] if check is None else [row for row in check.rows if row.label == "normal"]
        return cls(
            min([sample_rate, *_known(row.low["rate"] for row in rows)]),
            max([CLIPPED_SHARE, *_known(row.high["clipped"] for row in rows)]),
        )

    def status(self, storage: Storage, frames: int, calibration: Calibration) -> Status:
        """Status of a recording that was read, from how it was stored and its number of frames."""
        shortest, lowest_db = calibration.shortest_frames, calibration.lowest_level_db
        if shortest is not None and frames < SHORT_SHARE * shortest:
            return Status.SHORT
        if lowest_db is not None and storage.level < lowest_db - QUIET_DB:
            return Status.QUIET
        if storage.rate < self.lowest_rate_hz:  # NaN of precomputed features is not
            return Status.OTHER_RATE
        return Status.CLIPPED if storage.clipped > self.most_clipped else Status.OK


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
