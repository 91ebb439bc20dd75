"""The size of a model's patches and of their code grid, which an architecture sets and everyone else looks up.

No torch, so that spaces and figures can import it.
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
    """Mel bins of a patch: all that the front end produces (`trainable.data.frontend.N_MELS`)."""
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
    """Imports an architecture and returns its geometry. Raises ConfigError if there is none of that name."""
    geometry: Geometry = ARCHITECTURES.get(model).geometry
    return geometry


def geometry_of(config: "TrialConfig") -> Geometry:
    """Imports the architecture that a configuration names and returns the geometry it asks for.

    Raises ConfigError if there is no such architecture, or if its grid cannot have the columns asked for.
    """
    geometry: Geometry = ARCHITECTURES.get(config.model.model).geometry_for(config.model)
    return geometry
