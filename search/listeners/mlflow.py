"""Logs trials as runs of an MLflow experiment as they start, report and end.

Ray's own `MLflowLoggerCallback` is not used: it needs Ray, logs everything in a trial's configuration and result with
one request per number, and a server that becomes unreachable ends the search.
"""

import logging
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Concatenate, ParamSpec

from search.engine.asha import Decision
from search.engine.label import label_of
from search.engine.listener import BaseListener
from trainable.errors import ConfigError
from trainable.record import FAILURES, EpochReport, TrialOutcome, TrialStart
from trainable.redaction import one_line

logger = logging.getLogger(__name__)

_QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default waits minutes for an unreachable server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Set before MLflow is imported, unless the user has set them."""
Arguments = ParamSpec("Arguments")


def _unless_lost(
    log: "Callable[Concatenate[MlflowRuns, Arguments], None]",
) -> "Callable[Concatenate[MlflowRuns, Arguments], None]":
    """After any error nothing more is logged to the server: logging must not end the search."""

    def logged(self: "MlflowRuns", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        if self.lost:
            return
        try:
            log(self, *args, **kwargs)
        except Exception as error:
            self.lost = True
            logger.warning("MLflow at %s failed and receives nothing more: %s", self.uri, _line(error))

    return logged


class MlflowRuns(BaseListener):
    """One MLflow run per trial: its parameters, TensorBoard's scalars by epoch, and its ending in the tag ``end``.

    A trial that is retried or resumed continues its run.

    Parameters
    ----------
    uri
        Tracking address.
    experiment
        Name of the experiment.
    space
        Name of the space; the runs' names start with it.
    identity
        Identifier of the search, which separates its runs from those of others in the same experiment.

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

        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # hides its retries
        self.uri = uri
        self.lost = False
        self._space, self._identity = space, identity
        self._open: dict[int, str] = {}
        """MLflow's run ids, by number of running trial."""
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            known = self._client.get_experiment_by_name(experiment)
            if known is not None and known.lifecycle_stage != "active":
                raise ConfigError(f"--mlflow: the experiment {experiment} was deleted; restore or rename it")
            self._experiment = self._client.create_experiment(experiment) if known is None else known.experiment_id
        except mlflow.exceptions.MlflowException as error:
            raise ConfigError(f"--mlflow {uri} cannot be used: {_line(error)}") from None

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
        metrics = [Metric(name, value, now, report.epoch) for name, value in report.scalars().items()]
        self._client.log_batch(self._open[number], metrics=metrics)

    @_unless_lost
    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        run = self._open.pop(start.number, None)
        if run is None:  # it was over budget and never started
            return
        self._client.set_tag(run, "end", outcome.end.value)
        self._client.set_terminated(run, "FAILED" if outcome.end in FAILURES else "FINISHED")

    @_unless_lost
    def close(self) -> None:
        """The search has ended or was interrupted: runs of unfinished trials are marked KILLED and can be resumed."""
        while self._open:
            _, run = self._open.popitem()
            self._client.set_terminated(run, "KILLED")

    def _begin(self, start: TrialStart) -> str:
        """Creates the run of a trial and returns its id."""
        from mlflow.entities import Param

        tags = {"trial": str(start.number), "search": self._identity}
        made = self._client.create_run(self._experiment, run_name=label_of(self._space, start), tags=tags)
        run: str = made.info.run_id
        self._client.log_batch(run, params=[Param(name, str(value)) for name, value in start.used.items()])
        return run

    def _found(self, number: int) -> str | None:
        """The run of a trial from before a resume of this search."""
        wanted = f"tags.search = '{self._identity}' and tags.trial = '{number}'"
        runs = self._client.search_runs([self._experiment], filter_string=wanted, max_results=1)
        return runs[0].info.run_id if runs else None


def _line(error: BaseException) -> str:
    """One line; for an unreachable server the operating system's reason, which MLflow's message buries."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, OSError):
            error = reason
        reason = reason.__cause__ or reason.__context__
    return one_line(error)
