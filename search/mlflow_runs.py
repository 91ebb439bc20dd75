"""Trials as runs of an MLflow experiment, as a logger of Ray Tune.

Not Ray's own `MLflowLoggerCallback`: it logs whatever is in a trial's configuration and result, which here is much that
only our actors need, with a request a number, and a server that goes away ends the search.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from ray.tune.logger import LoggerCallback

from search.tensorboard import SCALARS
from trainable.errors import ConfigError
from trainable.ray_trainable import REPORT
from trainable.record import RunFolder, TrialEnd

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

logger = logging.getLogger(__name__)

# Unless the user has set them: MLflow waits minutes for a server that is gone, and prints two lines a run.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

FAILED = {TrialEnd.OUT_OF_MEMORY, TrialEnd.NON_FINITE, TrialEnd.CRASHED}
Arguments = ParamSpec("Arguments")


def _unless_lost(
    log: "Callable[Concatenate[MlflowRuns, Arguments], None]",
) -> "Callable[Concatenate[MlflowRuns, Arguments], None]":
    """A server that fails is told nothing more; the search goes on without it."""

    def logged(self: "MlflowRuns", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        from mlflow.exceptions import MlflowException

        if self.lost:
            return
        try:
            log(self, *args, **kwargs)
        except MlflowException as error:
            self.lost = True
            logger.warning("MLflow at %s is told nothing more of this search: %s", self.uri, error)

    return logged


class MlflowRuns(LoggerCallback):
    """One MLflow run a trial: its parameters, TensorBoard's scalars by epoch, and in the tag ``end`` how it ended.

    Parameters
    ----------
    uri
        Tracking address.
    folder
        Of the search; the experiment has its name.

    Raises
    ------
    ConfigError
        If MLflow is not installed, or no server answers.
    """

    def __init__(self, uri: str, folder: RunFolder):
        if find_spec("mlflow") is None:
            raise ConfigError("--mlflow needs MLflow, which is not installed; pip install mlflow")
        import mlflow

        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries; what came of them is said
        self.uri = uri
        self.lost = False
        self._folder = folder
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._runs: dict[int, str] = {}
        """Ids of MLflow's runs by trial: one that is tried again goes on in its run."""
        name = folder.path.resolve().name
        try:
            experiment = self._client.get_experiment_by_name(name)
            self._experiment = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        except mlflow.exceptions.MlflowException as error:
            raise ConfigError(f"--mlflow {uri} is not usable: {error}") from None

    @_unless_lost
    def log_trial_start(self, trial: "Trial") -> None:
        from mlflow.entities import Param

        number = _number(trial)
        if number in self._runs:
            return
        run = self._client.create_run(self._experiment, run_name=str(trial), tags={"trial": str(number)})
        self._runs[number] = run.info.run_id
        params = [Param(name, str(value)) for name, value in trial.config["start"]["params"].items()]
        self._client.log_batch(run.info.run_id, params=params)

    @_unless_lost
    def log_trial_result(self, iteration: int, trial: "Trial", result: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        if REPORT not in result:  # how it ended, not an epoch
            return
        report, now = json.loads(result[REPORT]), int(time.time() * 1000)
        metrics = [Metric(name, report[name], now, report["epoch"]) for name in SCALARS]
        self._client.log_batch(self._runs[_number(trial)], metrics=metrics)

    @_unless_lost
    def log_trial_end(self, trial: "Trial", failed: bool = False) -> None:
        run, outcome = self._runs[_number(trial)], self._folder.read_trial(_number(trial)).outcome
        if outcome is None:  # it is tried again, or was cut short to be resumed
            self._client.set_terminated(run, "KILLED")
            return
        self._client.set_tag(run, "end", outcome.end.value)
        self._client.set_terminated(run, "FAILED" if outcome.end in FAILED else "FINISHED")


def _number(trial: "Trial") -> int:
    return int(trial.config["start"]["number"])
