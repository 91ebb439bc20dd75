"""An objective from recorded learning curves: a Gaussian process fitted to the AUCs of real trainings.

A search proposes configurations that nobody trained; a surrogate model predicts their AUCs from the recorded ones
(Eggensperger et al. 2015, "Efficient benchmarking of hyperparameter optimizers via surrogates"). Its leave-one-out rank
correlation, `Replayed.rank_correlation`, says how good it is.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.tables import read_table

CURVES = Path(__file__).parent / "results" / "curves_fan.csv"
LOGARITHMIC = ("num_embeddings", "latent_dim", "commitment_cost", "stride", "learning_rate")
LINEAR = ("commitment_warmup_epochs", "commitment_warmup_start", "n_patches", "id_weight", "transform_weight")
DENSITIES = ("mahalanobis", "grid_neighbours", "combined")
FOLDS = 10


class Replayed:
    """Validation AUC after the last epoch: interpolates the recorded values with the surrogate.

    Raises
    ------
    OSError
        If the table cannot be read.
    """

    def __init__(self, path: Path = CURVES):
        last = {row["configuration"]: row for row in read_table(path)}
        inputs = np.array([_features(row) for row in last.values()])
        aucs = np.array([float(row["validation_auc"]) for row in last.values()])
        kernel = ConstantKernel(0.1) * Matern(np.full(inputs.shape[1], 3.0), (0.5, 30.0), nu=2.5) + WhiteKernel(1e-3)
        process = GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=3, random_state=0)
        self._model = make_pipeline(StandardScaler(), process)
        self.configurations = len(aucs)
        with warnings.catch_warnings():
            # A length scale at its upper bound belongs to a parameter that does not matter here.
            warnings.simplefilter("ignore", ConvergenceWarning)
            left_out = cross_val_predict(self._model, inputs, aucs, cv=FOLDS)
            self._model.fit(inputs, aucs)
        self.rank_correlation = float(spearmanr(left_out, aucs).statistic)
        """Spearman's leave-one-out correlation of predicted and recorded AUCs."""

    def __call__(self, params: Mapping[str, Any]) -> float:
        """The AUC that the surrogate predicts for parameters of `ad_tuning`; ignores those that were not varied."""
        return float(self._model.predict(np.array([_features(params)]))[0])


def _features(params: Mapping[str, Any]) -> list[float]:
    """Features of a row of the table or of a search's parameters; an inactive parameter counts as 0."""
    logarithmic = [math.log2(float(params[name])) for name in LOGARITHMIC]
    linear = [float(params.get(name) or 0.0) for name in LINEAR]
    density = [float(params["density"] == name) for name in DENSITIES]
    return [*logarithmic, *linear, math.log1p(float(params["texture_weight"])), *density]
