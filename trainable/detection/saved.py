"""What a detector's ``detector.json`` holds: one schema for writing and reading it. Loads no model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from trainable.config import FrontEndConfig
from trainable.data.frontend import N_MELS
from trainable.data.normalise import FeaturePrecision, NormStats
from trainable.data.npy import Axes
from trainable.data.windows import Windows
from trainable.detection.alarm import AlarmRate
from trainable.detection.calibration import Calibration
from trainable.detection.recorded import Limits
from trainable.errors import CheckpointError, ConfigError
from trainable.typed import Finite, Length, Positive, Share, Within, build

FILE_NAME = "detector.json"
FORMAT = 6
"""2: with the length of a stretch. A detector of format 1 silently scored only part of a long recording.
3: a model may have several density models. 4: hears every window; with an alarm rate and limits of what it judges.
5: normalised features may be rounded to half precision. 6: with a digest of all that it says."""
READ_FORMATS = (2, 3, 4, 5, 6)
_SEALED = 6
"""The first format with a digest."""
_MOST_FRAMES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SavedNorm:
    """Normalisation statistics."""

    mean: Annotated[tuple[Finite, ...], Length(N_MELS)]
    std: Annotated[tuple[Positive, ...], Length(N_MELS)]
    precision: FeaturePrecision = "float32"

    @classmethod
    def of(cls, norm: NormStats) -> "SavedNorm":
        return cls(mean=tuple(norm.mean_F.tolist()), std=tuple(norm.std_F.tolist()), precision=norm.precision)

    @property
    def stats(self) -> NormStats:
        """Raises ValueError if they are too large, or too small, for float32."""
        with np.errstate(over="ignore", under="ignore"):
            mean_F, std_F = (np.array(values).astype(np.float32) for values in (self.mean, self.std))
        return NormStats(mean_F, std_F, self.precision)


@dataclass(frozen=True, kw_only=True)
class SavedDetector:
    """The fields of ``detector.json``. A default is what an earlier format, which lacks the field, meant.

    Raises
    ------
    ValueError
        If fields contradict each other.
    ConfigError
        If `alarm_rate` is no rate.
    """

    format: int
    machine_type: str
    ids: tuple[str, ...]
    stretch_frames: Annotated[int, Within(low=1, high=_MOST_FRAMES)]
    front_end: FrontEndConfig
    axes: Axes | None = Axes.EACH_BY_SHAPE
    norm: SavedNorm
    members: tuple[str, ...]
    """SHA-256 of each member's file, hexadecimal."""
    calibration: dict[str, Calibration]
    """By machine id."""
    windows: Windows = Windows.CONFIGURED
    alarm_rate: str | None = None
    thresholds: dict[str, Finite | None] = field(default_factory=dict)
    """For readers: the score above which a recording of one whole stretch alarms, by machine id."""
    lowest_rate_hz: Positive | None = None
    most_clipped: Share | None = None
    made: dict[str, Any]
    """How it was made, for readers."""
    digest: str = ""
    """SHA-256 of the other fields, see `digest_of`; empty before format 6."""

    def __post_init__(self) -> None:
        if not self.ids or len(set(self.ids)) < len(self.ids) or set(self.ids) != set(self.calibration):
            raise ValueError("ids and calibration do not name the same machine ids, each once")
        if not self.members:
            raise ValueError("it has no members")
        if (self.lowest_rate_hz is None) != (self.most_clipped is None):
            raise ValueError("lowest_rate_hz and most_clipped are there together or not at all")
        _ = self.rate

    @property
    def rate(self) -> AlarmRate | None:
        return None if self.alarm_rate is None else AlarmRate.parse(self.alarm_rate)

    @property
    def limits(self) -> Limits | None:
        if self.lowest_rate_hz is None or self.most_clipped is None:
            return None
        return Limits(self.lowest_rate_hz, self.most_clipped)

    def to_json(self) -> str:
        """The file's content, with the digest of all that it says."""
        values = json.loads(json.dumps(asdict(self)))  # keys and numbers as they are read back
        return json.dumps({**values, "digest": digest_of(values)}, indent=1)


def digest_of(values: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of JSON values by name, however a file lays them out; without the field ``digest``."""
    plain = {name: value for name, value in values.items() if name != "digest"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def read_saved(folder: Path) -> SavedDetector:
    """What the ``detector.json`` of a folder says, every value checked.

    Raises
    ------
    CheckpointError
        If it cannot be read, is of another format or an exported detector's, or says what no detector's does.
    """
    path = folder / FILE_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it does not hold a JSON object")
        if "kind" in values:
            raise CheckpointError(f"{folder} is an exported detector; score with: python {folder / 'score.py'} FILES")
        _check_format(path, values)
        return build(SavedDetector, {**values, "front_end": _with_channel(values.get("front_end"))})
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); --model names a detector's folder") from None
    except (ValueError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{path} does not describe a detector: {error}") from None


def _check_format(path: Path, values: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a format that is not read, and where the digest is not that of the values."""
    known = values.get("format")
    if known not in READ_FORMATS:
        raise CheckpointError(
            f"{path} does not describe a detector: it has the format {known!r:.40}, and this version reads "
            f"{', '.join(map(str, READ_FORMATS))}; make the detector again with python -m analysis.best RUN --retrain"
        )
    if (known >= _SEALED or "digest" in values) and values.get("digest") != digest_of(values):
        raise CheckpointError(
            f"{path} is damaged: its digest is not that of what it says; copy it again from where it was made, or make "
            "the detector again with python -m analysis.best RUN --retrain"
        )


def _with_channel(front_end: Any) -> Any:
    """The front end's values; before there was a choice of channels, their mean was heard."""
    return {"channel": "mean", **front_end} if isinstance(front_end, Mapping) else front_end
