"""Trials as runs of an MLflow experiment, told as they start, report and end.

Not Ray's own `MLflowLoggerCallback`: it needs Ray, logs whatever is in a trial's configuration and result with a
request a number, and a server that goes away ends the search.
"""

import logging
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Concatenate, ParamSpec

from search.engine.asha import Decision
from search.engine.label import label_of
from search.engine.listener import BaseListener
from search.listeners.tensorboard import SCALARS
from trainable.errors import ConfigError
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialStart

logger = logging.getLogger(__name__)

_QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by itself it waits minutes for a server that is gone
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Set before MLflow is imported, unless the user has set them."""
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


class MlflowRuns(BaseListener):
    """One MLflow run a trial: its parameters, TensorBoard's scalars by epoch, and in the tag ``end`` how it ended.

    A trial that is tried again, or goes on after a resume, goes on in its run.

    Parameters
    ----------
    uri
        Tracking address.
    experiment
        Name of the experiment.
    space
        Name of the space; the names of the runs begin with it.
    identity
        Of the search: another one in the same experiment has runs of its own.

    Raises
    ------
    ConfigError
        If MLflow is not installed, or the address or the experiment cannot be used.
    """

    def __init__(self, uri: str, experiment: str, *, space: str, identity: str):
        if find_spec("mlflow") is None:
            raise ConfigError("--mlflow needs MLflow, which is not installed; pip install mlflow-skinny")
        os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
        import mlflow

        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # its retries; what came of them is said
        self.uri = uri
        self.lost = False
        self._space, self._identity = space, identity
        self._open: dict[int, str] = {}
        """Ids of MLflow's runs, by trials that have begun and not ended."""
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(experiment)
            if known is not None and known.lifecycle_stage != "active":
                raise ConfigError(f"--mlflow: the experiment {experiment} is deleted there; restore or rename it")
            self._experiment = self._client.create_experiment(experiment) if known is None else known.experiment_id
        except mlflow.exceptions.MlflowException as error:
            raise ConfigError(f"--mlflow {uri} is not usable: {_line(error)}") from None

    @_unless_lost
    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        found = self._found(start.number) if resumed else None
        if found is None:
            self._open[start.number] = self._begin(start)
        else:
            self._open[start.number] = found
            self._client.update_run(found, status="RUNNING")

    @_unless_lost
    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(getattr(report, name)), now, report.epoch) for name in SCALARS]
        metrics += [Metric(f"{name}_loss", loss, now, report.epoch) for name, loss in report.extra_losses.items()]
        self._client.log_batch(self._open[number], metrics=metrics)

    @_unless_lost
    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        run = self._open.pop(start.number, None)
        if run is None:  # it is over budget and never began
            return
        self._client.set_tag(run, "end", outcome.end.value)
        self._client.set_terminated(run, "FAILED" if outcome.end in FAILED else "FINISHED")

    @_unless_lost
    def close(self) -> None:
        """The search is over, for now or for good: what still ran is there to be resumed."""
        while self._open:
            _, run = self._open.popitem()
            self._client.set_terminated(run, "KILLED")

    def _begin(self, start: TrialStart) -> str:
        """Makes the run of a trial; its id."""
        from mlflow.entities import Param

        tags = {"trial": str(start.number), "search": self._identity}
        made = self._client.create_run(self._experiment, run_name=label_of(self._space, start), tags=tags)
        run: str = made.info.run_id
        self._client.log_batch(run, params=[Param(name, str(value)) for name, value in _params(start).items()])
        return run

    def _found(self, number: int) -> str | None:
        """The run of a trial that an earlier part of this search began."""
        wanted = f"tags.search = '{self._identity}' and tags.trial = '{number}'"
        runs = self._client.search_runs([self._experiment], filter_string=wanted, max_results=1)
        return runs[0].info.run_id if runs else None


def _params(start: TrialStart) -> dict[str, Any]:
    """What MLflow is told of a trial's configuration: the searched parameters, as the trial used them."""
    return start.used


def _line(error: BaseException) -> str:
    """One line: of a server that cannot be reached the system's own reason, which MLflow's message buries."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, OSError):
            error = reason
        reason = reason.__cause__ or reason.__context__
    return " ".join(str(error).split())[:300]
