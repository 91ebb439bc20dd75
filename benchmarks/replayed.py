"""An objective made of recorded learning curves: a Gaussian process through the AUCs of trainings that were made.

A search proposes configurations that nobody trained; what they would have reached is read off the recorded ones by a
surrogate model (Eggensperger et al. 2015, "Efficient benchmarking of hyperparameter optimizers via surrogates"). It is
as good as its rank correlation on configurations left out, which `Replayed.rank_correlation` says.
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
    """Validation AUC after the last epoch as recorded, and between what was recorded as the surrogate says.

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
            # A length at its upper bound belongs to a parameter that does not matter here.
            warnings.simplefilter("ignore", ConvergenceWarning)
            left_out = cross_val_predict(self._model, inputs, aucs, cv=FOLDS)
            self._model.fit(inputs, aucs)
        self.rank_correlation = float(spearmanr(left_out, aucs).statistic)
        """Spearman's, of the AUCs of configurations left out in turn."""

    def __call__(self, params: Mapping[str, Any]) -> float:
        """The AUC that the surrogate expects of some parameters of `ad_tuning`; what was not varied does not count."""
        return float(self._model.predict(np.array([_features(params)]))[0])


def _features(params: Mapping[str, Any]) -> list[float]:
    """Numbers of a row of the table or of a search's parameters; an inactive parameter counts as 0."""
    logarithmic = [math.log2(float(params[name])) for name in LOGARITHMIC]
    linear = [float(params.get(name) or 0.0) for name in LINEAR]
    density = [float(params["density"] == name) for name in DENSITIES]
    return [*logarithmic, *linear, math.log1p(float(params["texture_weight"])), *density]
