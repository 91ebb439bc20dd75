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

from search.listeners.tensorboard import SCALARS
from trainable.errors import ConfigError
from trainable.ray_trainable import REPORT
from trainable.record import RunFolder, TrialEnd

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

logger = logging.getLogger(__name__)

# Unless the user has set them: MLflow waits minutes for a server that is gone, and prints two lines a run.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

FAILED = {TrialEnd.OUT_OF_MEMORY, TrialEnd.NON_FINITE, TrialEnd.CRASHED}
Arguments = ParamSpec("Arguments")


def _unless_lost(
    log: "Callable[Concatenate[MlflowRuns, Arguments], None]",
) -> "Callable[Concatenate[MlflowRuns, Arguments], None]":
    """A server that fails is told nothing more, whatever went wrong: what is logged beside a search must not end it."""

    def logged(self: "MlflowRuns", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        if self.lost:
            return
        try:
            log(self, *args, **kwargs)
        except Exception as error:
            self.lost = True
            logger.warning("MLflow at %s is told nothing more of this search: %s", self.uri, _line(error))

    return logged


class MlflowRuns(LoggerCallback):
    """One MLflow run a trial: its parameters, TensorBoard's scalars by epoch, and in the tag ``end`` how it ended.

    A trial that is tried again, or goes on after a resume, goes on in its run.

    Parameters
    ----------
    uri
        Tracking address.
    experiment
        Name of the experiment.
    folder
        Of the search.
    identity
        Of the search: another one in the same experiment has runs of its own.

    Raises
    ------
    ConfigError
        If MLflow is not installed, or the address or the experiment cannot be used.
    """

    def __init__(self, uri: str, experiment: str, folder: RunFolder, identity: str):
        if find_spec("mlflow") is None:
            raise ConfigError("--mlflow needs MLflow, which is not installed; pip install mlflow")
        import mlflow

        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries; what came of them is said
        self.uri = uri
        self.lost = False
        self._folder, self._identity = folder, identity
        self._runs: dict[int, str] = {}
        """Ids of MLflow's runs by trial."""
        self._open: set[int] = set()
        """Trials that have begun and not ended."""
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(experiment)
            if known is not None and known.lifecycle_stage != "active":
                raise ConfigError(f"--mlflow: the experiment {experiment} is deleted there; restore or rename it")
            self._experiment = self._client.create_experiment(experiment) if known is None else known.experiment_id
        except mlflow.exceptions.MlflowException as error:
            raise ConfigError(f"--mlflow {uri} is not usable: {_line(error)}") from None

    @_unless_lost
    def log_trial_start(self, trial: "Trial") -> None:
        from mlflow.entities import Param

        number = _number(trial)
        self._open.add(number)
        run = self._runs.get(number) or self._found(number)
        if run is not None:
            self._runs[number] = run
            self._client.update_run(run, status="RUNNING")
            return
        tags = {"trial": str(number), "search": self._identity}
        self._runs[number] = run = self._client.create_run(self._experiment, run_name=str(trial), tags=tags).info.run_id
        params = [Param(name, str(value)) for name, value in trial.config["start"]["params"].items()]
        self._client.log_batch(run, params=params)

    def _found(self, number: int) -> str | None:
        """The run of a trial that an earlier part of this search began."""
        wanted = f"tags.search = '{self._identity}' and tags.trial = '{number}'"
        runs = self._client.search_runs([self._experiment], filter_string=wanted, max_results=1)
        return runs[0].info.run_id if runs else None

    @_unless_lost
    def log_trial_result(self, iteration: int, trial: "Trial", result: dict[str, Any]) -> None:
        from mlflow.entities import Metric

        if REPORT not in result:  # how it ended, not an epoch
            return
        report, now = json.loads(result[REPORT]), int(time.time() * 1000)
        metrics = [Metric(name, report[name], now, report["epoch"]) for name in SCALARS]
        extra = report.get("extra_losses", {}).items()
        metrics += [Metric(f"{name}_loss", loss, now, report["epoch"]) for name, loss in extra]
        self._client.log_batch(self._runs[_number(trial)], metrics=metrics)

    @_unless_lost
    def log_trial_end(self, trial: "Trial", failed: bool = False) -> None:
        if _number(trial) in self._open:  # otherwise its worker was lost before it began
            self._end(_number(trial))

    @_unless_lost
    def close(self) -> None:
        """The search is over, for now or for good: what still ran is there to be resumed."""
        for number in sorted(self._open):
            if not self._end(number):
                self._client.set_terminated(self._runs[number], "KILLED")

    def _end(self, number: int) -> bool:
        """Says how a trial ended; whether it has, for it may be tried again."""
        outcome = self._folder.read_trial(number).outcome
        if outcome is None:
            return False
        self._open.remove(number)
        self._client.set_tag(self._runs[number], "end", outcome.end.value)
        self._client.set_terminated(self._runs[number], "FAILED" if outcome.end in FAILED else "FINISHED")
        return True


def _number(trial: "Trial") -> int:
    return int(trial.config["start"]["number"])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
