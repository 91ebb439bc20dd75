"""Results of a search: tables, plots, report, notebooks, export and retraining of the best.

Reads a run's folder through `trainable.record` and the study through optuna; never imports the search.
"""

import warnings

# Optuna imports tqdm.auto, which in a notebook without ipywidgets warns about a progress bar that is not used here.
warnings.filterwarnings("ignore", message="IProgress not found")
