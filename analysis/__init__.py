"""Results of a search: tables, plots, report, notebooks, export and retraining of the best.

Reads a run's folder through `trainable.record` and the study through optuna; never imports the search.
"""

import warnings
from importlib.util import find_spec

_missing = [name for name in ("pandas", "matplotlib", "jinja2", "tensorboard") if find_spec(name) is None]
if _missing:
    raise ModuleNotFoundError(
        f"reading results needs {', '.join(_missing)}; install the extra: pip install 'vqvae-ad-search[analysis]'",
        name="analysis",  # `python -m analysis.…` then prints this one line instead of a traceback
    )

# Optuna imports tqdm.auto, which in a notebook without ipywidgets warns about a progress bar that is not used here.
warnings.filterwarnings("ignore", message="IProgress not found")
