"""What a model hears at once and how many codes it makes of it: said by an architecture, asked for by everyone else.

No torch, so that a space and a picture may ask.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainable.errors import ConfigError
from trainable.registry import ARCHITECTURES

if TYPE_CHECKING:
    from trainable.config import TrialConfig


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A patch and its code grid. Rows of the grid are frequency, the lowest first; columns are time.

    Raises
    ------
    ConfigError
        If the grid does not divide the patch into whole cells.
    """

    patch_mels: int = 64
    """Mel bins of a patch: all that the front end gives (`trainable.data.frontend.N_MELS`)."""
    patch_frames: int = 64
    rows: int = 8
    columns: int = 8

    def __post_init__(self) -> None:
        for cells, size, what in (
            (self.rows, self.patch_mels, "mel bins"),
            (self.columns, self.patch_frames, "frames"),
        ):
            if cells < 1 or size < 1 or size % cells:
                raise ConfigError(f"a patch of {size} {what} has no {cells} equal cells; give a divisor of {size}")

    @property
    def codes_per_patch(self) -> int:
        return self.rows * self.columns

    @property
    def cell_frames(self) -> int:
        """Frames of a column of the code grid."""
        return self.patch_frames // self.columns

    @property
    def cell_mels(self) -> int:
        """Mel bins of a row of the code grid."""
        return self.patch_mels // self.rows


def geometry_named(model: str) -> Geometry:
    """The geometry of an architecture, which is imported. Raises ConfigError if there is none of that name."""
    geometry: Geometry = ARCHITECTURES.get(model).geometry
    return geometry


def geometry_of(config: "TrialConfig") -> Geometry:
    """The geometry of the architecture that a configuration names, which is imported."""
    return geometry_named(config.model.model)
