"""What a configuration may name, and where each part lives: the one place to register a new part.

A part is registered by its name and either the object itself or the text ``module:attribute``, which is imported when
the part is first used. So a command that only reads a space knows all names and imports none of the parts. Standard
library only, like the configuration that uses it.

A part within the project is one file and one line in a table below. One outside of it is a module that calls a
``register_…`` function and that the environment variable AD_EXTENSIONS names, so that every process of a search,
Ray's workers included, imports it. `docs/extending.md` has an example of each.
"""

import importlib
import os
import re
from collections.abc import Mapping
from typing import Any

from trainable.errors import ConfigError

EXTENSIONS = "AD_EXTENSIONS"
"""Environment variable: modules to import before a name is looked up, separated by commas."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Registry:
    """Parts of one kind by name, in the order in which they were registered.

    Parameters
    ----------
    kind
        What error messages call the parts.
    parts
        Name → ``module:attribute``.
    reserved
        Names that something else uses already.
    """

    def __init__(self, kind: str, parts: Mapping[str, str], reserved: tuple[str, ...] = ()):
        self.kind = kind
        self._parts: dict[str, Any] = dict(parts)
        self._reserved = reserved
        self.own = frozenset((*parts, *reserved))
        """Names that come with the project."""

    def register(self, name: str, part: Any) -> None:
        """Registers a part under a name.

        Raises
        ------
        ConfigError
            If the name is taken, or contains anything but small letters, digits and underscores.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"a {self.kind} cannot be registered as {name!r}; use small letters, digits and underscores"
            )
        if name in self._reserved or self._parts.get(name, part) is not part:
            raise ConfigError(f"there is a {self.kind} {name} already; register the new one under another name")
        self._parts[name] = part

    def names(self) -> tuple[str, ...]:
        """All names, in the order of registration. Raises ConfigError where an extension cannot be imported."""
        load_extensions()
        return tuple(self._parts)

    def get(self, name: str) -> Any:
        """The part of that name. Raises ConfigError if there is none, or if it cannot be imported."""
        if name not in self.names():
            raise ConfigError(
                f"there is no {self.kind} {name!r}; there are {', '.join(self._parts) or 'none'}, and others where "
                f"{EXTENSIONS} names the module that registers them"
            )
        part = self._parts[name]
        if isinstance(part, str):
            part = self._parts[name] = _imported(self.kind, name, part)
        return part


def _imported(kind: str, name: str, where: str) -> Any:
    module, _, attribute = where.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{kind} {name} cannot be imported from {where!r}: {error}; fix its registration") from None


_loaded: set[str] = set()


def load_extensions() -> None:
    """Imports the modules that AD_EXTENSIONS names, each once. Raises ConfigError if one cannot be imported."""
    for module in filter(None, (each.strip() for each in os.environ.get(EXTENSIONS, "").split(","))):
        if module in _loaded:
            continue
        _loaded.add(module)  # before the import, which may look names up itself
        try:
            importlib.import_module(module)
        except ImportError as error:
            _loaded.discard(module)
            raise ConfigError(
                f"{EXTENSIONS} names {module!r}, which cannot be imported: {error}; put its folder on PYTHONPATH"
            ) from None


DENSITIES = Registry(
    "density model",
    {
        "counts": "trainable.scoring.counts:Counts",
        "bigram": "trainable.scoring.counts:Bigram",
        "kernel_counts": "trainable.scoring.counts:KernelCounts",
        "histogram_neighbours": "trainable.scoring.neighbours:HistogramNeighbours",
        "grid_neighbours": "trainable.scoring.neighbours:GridNeighbours",
        "shifted_neighbours": "trainable.scoring.neighbours:ShiftedNeighbours",
        "mahalanobis": "trainable.scoring.mahalanobis:Mahalanobis",
        "cross_mahalanobis": "trainable.scoring.mahalanobis:CrossMahalanobis",
        "coarse_mahalanobis": "trainable.scoring.mahalanobis:CoarseMahalanobis",
        "coarse_cross_mahalanobis": "trainable.scoring.mahalanobis:CoarseCrossMahalanobis",
        "interpolation": "trainable.scoring.interpolation:Interpolation",
        "autoregressive": "trainable.scoring.autoregressive:Autoregressive",
        "combined": "trainable.scoring.combined:Combined",
        "fused": "trainable.scoring.combined:Fused",
    },
)
"""Subclasses of `trainable.scoring.density.DensityModel`."""
ARCHITECTURES = Registry("model", {"convolutional": "trainable.model.architecture:CONVOLUTIONAL"})
"""Instances of `trainable.model.architecture.Architecture`: an encoder, its decoder and their geometry."""
QUANTIZERS = Registry("quantizer", {"ema": "trainable.model.codebook:Codebook"})
"""`trainable.model.codebook.Codebook` and its subclasses."""
LOSS_TERMS = Registry("loss term", {}, reserved=("total", "reconstruction", "commitment", "texture", "id", "transform"))
"""Instances of `trainable.training.losses.LossTerm`, beside those that every trial has."""
LAYOUTS = Registry(
    "data layout",
    {
        "dcase2020": "trainable.data.layouts.dcase:DCASE2020",
        "good_folders": "trainable.data.layouts.good_folders:GOOD_FOLDERS",
        "dcase2021": "trainable.data.layouts.dcase:DCASE2021",
        "toyadmos": "trainable.data.layouts.toyadmos:TOYADMOS",
        "mimii": "trainable.data.layouts.mimii:MIMII",
    },
)
"""Instances of `trainable.data.layout.Layout`; the one registered last that recognises a folder reads it."""
