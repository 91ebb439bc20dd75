"""What came out: tables, plots, report, notebooks, export and retraining of the best.

Reads a run's folder through `trainable.record` and the study through optuna; never imports the search.
"""
