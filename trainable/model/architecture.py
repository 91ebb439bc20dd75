"""An architecture: an encoder, the decoder that undoes it, and the geometry of what passes between them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor, nn

from trainable.config import ModelConfig, QuantizerConfig
from trainable.data.frontend import N_MELS
from trainable.errors import ConfigError
from trainable.model.codebook import Codebook
from trainable.model.decoder import Decoder
from trainable.model.encoder import Encoder
from trainable.model.geometry import Geometry
from trainable.registry import ARCHITECTURES, QUANTIZERS


class Segmented(Protocol):
    """An encoder or a decoder: a module made of segments, which are its units of recomputation.

    An encoder turns X patches (X, F, T) into latents (X, latent_dim, rows, columns), a decoder such a grid into
    patches. No layer may mix patches (as batch norm does) or draw random numbers: a plan could then change the result.
    """

    segments: nn.ModuleList

    def __call__(self, x: Tensor, *, recompute: bool = False) -> Tensor: ...


@dataclass(frozen=True)
class Architecture:
    """An architecture that the knob `model` names.

    Raises
    ------
    ConfigError
        If its patches and the features differ in their number of mel bins.
    """

    geometry: Geometry
    encoder: Callable[[ModelConfig, Geometry], nn.Module]
    """Builds a `Segmented` encoder for one of its grids; called under the trial's seed."""
    decoder: Callable[[ModelConfig, Geometry], nn.Module]
    rows: tuple[int, ...] = ()
    """Other numbers of rows that its grid may have."""
    columns: tuple[int, ...] = ()
    """Other numbers of columns that its grid may have."""

    def __post_init__(self) -> None:
        if self.geometry.patch_mels != N_MELS:
            raise ConfigError(f"patches of {self.geometry.patch_mels} mel bins: the front end produces {N_MELS}")

    def geometry_for(self, config: ModelConfig) -> Geometry:
        """The geometry that a configuration asks for. Raises ConfigError if it asks for a grid that cannot be made."""

        def asked(name: str, number: int, own: int, others: tuple[int, ...]) -> int:
            if number not in (0, own, *others):
                known = ", ".join(map(str, sorted({own, *others})))
                raise ConfigError(f"{name} is {number}; the grid of model {config.model} may have {known}")
            return number or own

        return replace(
            self.geometry,
            rows=asked("rows", config.rows, self.geometry.rows, self.rows),
            columns=asked("columns", config.columns, self.geometry.columns, self.columns),
        )


def segments_of(module: nn.Module) -> nn.ModuleList:
    """The segments of an encoder or decoder. Raises ConfigError if it has none: its memory could not be traced."""
    segments = getattr(module, "segments", None)
    if not isinstance(segments, nn.ModuleList):
        raise ConfigError(f"{type(module).__name__} has no segments; give it an nn.ModuleList of that name")
    return segments


CONVOLUTIONAL = Architecture(Geometry(), Encoder, Decoder, rows=(16, 32), columns=(16, 32))


def architecture_named(name: str) -> Architecture:
    """The architecture of that name. Raises ConfigError if there is none."""
    architecture: Architecture = ARCHITECTURES.get(name)
    return architecture


def register_model(name: str, architecture: Architecture) -> None:
    """Registers an architecture for the knob `model`. Raises ConfigError if the name is taken."""
    ARCHITECTURES.register(name, architecture)


def make_codebook(config: QuantizerConfig, model: ModelConfig, geometry: Geometry) -> Codebook:
    """The codebook that the knob `quantizer` names. Raises ConfigError if there is none."""
    codebook: Codebook = QUANTIZERS.get(config.quantizer)(config, model, geometry)
    return codebook


def register_quantizer(name: str, quantizer: type[Codebook]) -> None:
    """Registers a codebook for the knob `quantizer`. Raises ConfigError if the name is taken."""
    QUANTIZERS.register(name, quantizer)
