"""Search spaces: YAML files, and the code that reads and validates them.

May import trainable's configuration and pyyaml; knows neither torch nor the search engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spaces.loader import builtin_spaces, load_space, space_from_mapping, space_from_text
    from spaces.space import Space

__all__ = ["Space", "builtin_spaces", "load_space", "space_from_mapping", "space_from_text"]


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("spaces.space" if name == "Space" else "spaces.loader"), name)
