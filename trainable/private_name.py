"""Private names of other libraries: each declared in one place, with one clear message if it is missing.

Each library that we use this way has one module of them (`trainable.device._torch_private`,
`search.runners._ray_private`); ``tests/test_private_names.py`` tries them all on the installed releases.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

from trainable.errors import ProjectError


class PrivateNameError(ProjectError):
    """A library's release no longer has a private name that we use."""


@dataclass(frozen=True)
class PrivateName:
    """A name that is looked up on use, so that a release without it fails there and not at import."""

    library: str
    """Name of its distribution, such as ``torch``."""
    module: str
    name: str
    """Name in the module; dots lead to attributes."""
    purpose: str
    """What it is for, and what breaks without it."""
    written_for: str
    """Releases it was tried on."""

    def get(self) -> Any:
        """The object. Raises PrivateNameError if the installed release has none of this name."""
        try:
            found: Any = import_module(self.module)
            for part in self.name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError):
            raise PrivateNameError(
                f"{self.library} {version(self.library)} has no {self.module}.{self.name}, which {self.purpose}; "
                f"this was written for {self.library} {self.written_for}: install that, or see what took its place"
            ) from None
        return found


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets an attribute of a module or an object for the duration of the block."""
    own = vars(owner).get(name, owner)  # `owner` itself where the attribute comes from the class
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own is owner:
            delattr(owner, name)
        else:
            setattr(owner, name, own)
