"""Decides which trials run, where and when: command line, Optuna sampler, ASHA, runners, durable study, resume.

May import spaces, trainable, ray and optuna; nothing imports it. What is here for other programs:

    import search

    result = search.run(space="ad_tuning", data_root="recordings", budget="8GiB")
    result.best.config, result.held_out, result.table(), result.report()

`docs/library.md` describes it.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.library import load, resume, run
    from search.result import Best, HeldOut, Result

__all__ = ["Best", "HeldOut", "Result", "load", "resume", "run"]


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("search.library" if name.islower() else "search.result"), name)


class _Package(ModuleType):
    """Keeps `search.run` the function when something imports the module of that name, which is the command."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name == "run" and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
