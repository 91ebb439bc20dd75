"""Results of a search: tables, plots, report, notebooks, export and retraining of the best.

Reads a run's folder through `trainable.record` and the study through optuna; never imports the search.
"""

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.report import write_report
    from analysis.results import RunResults, load_run

__all__ = ["RunResults", "load_run", "write_report"]

_missing = [name for name in ("pandas", "matplotlib", "jinja2", "tensorboard") if find_spec(name) is None]
if _missing:
    raise ModuleNotFoundError(
        f"reading results needs {', '.join(_missing)}; install the extra: pip install 'vqvae-ad-search[analysis]'",
        name="analysis",  # `python -m analysis.…` then prints this one line instead of a traceback
    )

# Optuna imports tqdm.auto, which in a notebook without ipywidgets warns about a progress bar that is not used here.
warnings.filterwarnings("ignore", message="IProgress not found")


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("analysis.report" if name == "write_report" else "analysis.results"), name)
