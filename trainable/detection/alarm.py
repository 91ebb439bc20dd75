"""How often a detector may raise a false alarm, what that makes of a p-value, and what a calibration can promise.

Standard library only: a mistyped rate is refused before torch is loaded.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from trainable.errors import ConfigError

UNIT_SECONDS = {"minute": 60.0, "hour": 3600.0, "day": 86_400.0, "week": 604_800.0}
DEFAULT_ALARM_RATE = "0.05"
"""One normal recording in twenty: what a p-value of 0.05 means, and what 19 calibration recordings can promise."""
RATE_HELP = (
    "false alarms that may be: a share of normal recordings (0.01, 1%%), or a number per time of normal sound (1/day, "
    "2/hour)"
)
_RATE = re.compile(r"\s*(?P<number>[0-9]*\.?[0-9]+(?:e[+-]?[0-9]{1,3})?)\s*(?:(?P<percent>%)|/\s*(?P<unit>[a-z]+))?\s*")
LEAST, MOST = 1e-9, 1e9
"""Bounds of a rate's number: beyond them nobody means it, and its reciprocal is no longer a number of recordings."""
FEW_ALARMS = 5
"""So few are looked at one by one."""
ROUNDING = 1.0 + 1e-9
"""1/20 is 0.05, whatever the last digit of a division says."""


class Verdict(StrEnum):
    """What a detector says of a recording at its alarm rate."""

    NORMAL = "normal"
    ANOMALY = "anomaly"
    UNKNOWN = "unknown"
    """There is no alarm rate, the recording cannot be judged, or it scores higher than every normal stretch and too few
    of them are known to say that this is as rare as the rate."""


@dataclass(frozen=True)
class AlarmRate:
    """False alarms that a user accepts: a share of normal recordings, or a number per time of normal sound."""

    number: float
    unit: str | None = None
    """One of `UNIT_SECONDS`; None for a share."""

    @classmethod
    def parse(cls, text: str) -> "AlarmRate":
        """The rate of ``0.01``, ``1%``, ``1/day`` or ``2.5/hour``. Raises ConfigError for anything else."""
        found = _RATE.fullmatch(text.lower())
        unit = None if found is None else found["unit"]
        if found is None or (unit is not None and unit not in UNIT_SECONDS):
            units = ", ".join(UNIT_SECONDS)
            raise ConfigError(
                f"--alarm-rate {text[:40]!r} is no rate; give a share of the recordings such as 0.01, or a number per "
                f"time such as 1/day (units: {units})"
            )
        number = float(found["number"]) / (100.0 if found["percent"] else 1.0)
        if not LEAST <= number <= MOST or (unit is None and number >= 1):
            raise ConfigError(
                f"--alarm-rate {text[:40]!r}: a share lies between {LEAST:g} and 1, a number per time between "
                f"{LEAST:g} and {MOST:g}; write for example 0.01 or 1/day"
            )
        return cls(number, unit)

    def __str__(self) -> str:
        number = repr(self.number).removesuffix(".0")  # all digits: it is read back
        return number if self.unit is None else f"{number}/{self.unit}"

    @property
    def text(self) -> str:
        """For readers: ``1/day`` or ``1 % of normal recordings``."""
        return str(self) if self.unit is not None else f"{100 * self.number:.3g} % of normal recordings"

    def share(self, seconds: float) -> float:
        """Share of normal stretches of so many seconds that may raise an alarm."""
        return self.number if self.unit is None else self.number * seconds / UNIT_SECONDS[self.unit]

    def alarms(self, p_value: float, lowest_p: float, stretches: int, seconds: float) -> bool:
        """Whether a recording of so many seconds alarms.

        By a share of recordings it does if its p-value is at most that share: of normal recordings at most that share
        has such a p-value. By a number per time it does if one of its stretches has a p-value of at most the stretches'
        share; whatever their dependence, expectations add up, so the expected number of such stretches is at most the
        rate times the recorded time.
        """
        if self.unit is None:
            return p_value <= self.number * ROUNDING
        return lowest_p <= self.share(seconds / stretches) * ROUNDING


@dataclass(frozen=True)
class Promise:
    """What the calibration of a machine id allows to promise of single stretches."""

    rate: AlarmRate
    recordings: float
    """Calibration recordings."""
    stretch_seconds: float

    @property
    def kept(self) -> bool:
        """Whether the rate can be promised."""
        return self.least_share <= self.rate.share(self.stretch_seconds) * ROUNDING

    @property
    def least_share(self) -> float:
        """The smallest share of normal stretches that can be promised: one in n + 1."""
        return 1.0 / (1.0 + self.recordings)

    @property
    def least_per_hour(self) -> float:
        """The lowest number of false alarms per hour of normal sound that can be promised."""
        return self.least_share * UNIT_SECONDS["hour"] / self.stretch_seconds

    @property
    def recordings_needed(self) -> float:
        return 1.0 / self.rate.share(self.stretch_seconds) - 1.0

    def shortfall(self) -> str:
        """Why the rate cannot be promised, what can, and what is needed; one line."""
        per_hour = self.least_per_hour
        if self.rate.unit is None:
            least = f"{100 * _rounded_up(self.least_share):.3g} % (--alarm-rate {_rounded_up(self.least_share):.3g})"
        else:
            least = f"{_rounded_up(per_hour):.3g} an hour (--alarm-rate {_rounded_up(per_hour):.3g}/hour)"
        hours = self.recordings_needed * self.stretch_seconds / UNIT_SECONDS["hour"]
        return (
            f"{self.rate.text} cannot be promised by {self.recordings:.0f} calibration recordings of "
            f"{self.stretch_seconds:.3g} s: the least they can promise is {least}; needed are "
            f"{_whole_up(self.recordings_needed):,} normal recordings, {_rounded_up(hours):.3g} hours; until then "
            "whatever scores higher than all of them is unknown"
        )


def shortfalls(promises: Mapping[str, Promise]) -> list[str]:
    """One line for all machine ids whose calibration cannot promise the rate for the same reason."""
    by_reason: dict[str, list[str]] = {}
    for machine_id, promise in promises.items():
        if not promise.kept:
            by_reason.setdefault(promise.shortfall(), []).append(machine_id)
    return [f"id {', '.join(ids)}: {reason}" for reason, ids in by_reason.items()]


@dataclass
class Tally:
    """Recordings that were scored one after another."""

    judged: int = 0
    """Those that got a p-value."""
    alarms: int = 0
    failed: int = 0
    """Those that could not be scored."""

    def too_many_text(self, rate: AlarmRate | None, calibration: float) -> str:
        """That more recordings alarm than normal ones would, and what to think of; empty if that may be chance.

        Of n normal recordings n·r alarm at a share r. The number varies with the n recordings and, since all are
        compared with the same `calibration` recordings, with these: their part of the variance is n²·r(1 − r)/(c + 2)
        (the share of false alarms given the calibration has a beta distribution, Vovk 2012).
        """
        if rate is None or rate.unit is not None:
            return ""
        expected = self.judged * rate.number
        chance = math.sqrt(expected * (1 - rate.number) * (1 + self.judged / (calibration + 2)))
        if self.alarms < FEW_ALARMS or self.alarms <= expected + 3 * chance:
            return ""
        return (
            f"{self.alarms} of {self.judged} recordings alarm; of normal ones like those it is calibrated with, about "
            f"{expected:.0f} would. Either so many are faulty, or they were recorded otherwise (another microphone, "
            "place, load or season); then train the detector on normal recordings of today: python -m analysis.best "
            "RUN --retrain --allow-changes"
        )


def alarm_lines(promises: Mapping[str, Promise], thresholds: Mapping[str, float | None]) -> list[str]:
    """What an alarm of a new detector means, for its maker."""
    kept = [f"{value:.2f} (id {name})" for name, value in thresholds.items() if value is not None]
    rate = next(iter(promises.values())).rate
    promised = (
        f"alarm rate {rate.text}: a recording alarms above a score of {', '.join(kept)}; false alarms keep to the "
    )
    return [
        *([promised + "rate as long as normal recordings are like those of the calibration"] if kept else []),
        *shortfalls(promises),
    ]


def _rounded_up(value: float) -> float:
    """To three significant digits, never below the value: a rate that is printed can be asked for."""
    unit = 10.0 ** float(f"{value:e}".partition("e")[2]) / 100
    return float(f"{_whole_up(value / unit) * unit:.3g}")


def _whole_up(value: float) -> int:
    return -int(-value // 1 if abs(value - round(value)) > 1e-9 else -round(value))
