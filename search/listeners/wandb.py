"""Logs trials as runs of a Weights & Biases project as they start, report and end.

Ray's own `WandbLoggerCallback` is not used: it needs Ray, starts an actor per trial, and logs everything in a trial's
configuration and result.
"""

import hashlib
import logging
import os
import shlex
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from search.engine.asha import Decision
from search.engine.label import label_of
from search.engine.listener import BaseListener
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.record import FAILURES, EpochReport, TrialOutcome, TrialStart
from trainable.redaction import one_line

logger = logging.getLogger(__name__)

FINISH_SECONDS = 60
"""How long the end of a run, and the end of a search, wait for uploads. Choice."""
_QUIET = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
"""Set before W&B is imported, unless the user has set them."""


class WandbRuns(BaseListener):
    """One W&B run per trial, in a group per search: hyperparameters, memory and plan, scalars by epoch, the ending.

    W&B is called in a thread of its own, in the order of events: starting and ending a run waits for its server. After
    any error nothing more is logged to it, because logging must not end the search. A trial that is retried or resumed
    continues its run.

    Parameters
    ----------
    target
        ``PROJECT`` or ``ENTITY/PROJECT``.
    space
        Name of the space; the runs' names start with it.
    identity
        Identifier of the search: the runs' group, and with the trial's number the origin of their ids.
    folder
        Where W&B keeps its files, below ``wandb/``.

    Raises
    ------
    ConfigError
        If W&B is not installed, has no credentials or cannot be reached with them.
    """

    def __init__(self, target: str, *, space: str, identity: str, folder: Path):
        if find_spec("wandb") is None:
            raise ConfigError("--wandb needs Weights & Biases, which is not installed; pip install wandb")
        os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
        self.lost = False
        entity, _, self._project = target.rpartition("/")
        self._entity = entity or None
        self._space, self._identity, self._folder = space, identity, folder
        self._runs: dict[int, Any] = {}
        """W&B's runs by number of running trial; only the thread uses them."""
        self._plans: dict[int, ExecutionPlan | None] = {}
        _log_in()
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._make_calls, name="wandb", daemon=True)
        self._thread.start()

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        self._calls.put(lambda: self._begin(start))

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        self._calls.put(lambda: self._log(number, report))

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        self._calls.put(lambda: self._end(start.number, outcome))

    def close(self) -> None:
        """The search has ended or was interrupted: runs of unfinished trials are marked preempted and can go on."""
        self._calls.put(self._leave)
        self._calls.put(None)
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            logger.warning("W&B has not received everything; upload the rest with: %s", self._sync_command())

    def _make_calls(self) -> None:
        while (call := self._calls.get()) is not None:
            if self.lost:
                continue
            try:
                call()
            except Exception as error:
                self.lost = True
                logger.warning(
                    "W&B failed and receives nothing more: %s; upload what is here with: %s",
                    one_line(error),
                    self._sync_command(),
                )

    def _begin(self, start: TrialStart) -> None:
        import wandb

        run = wandb.init(
            entity=self._entity,
            project=self._project,
            group=self._identity,
            name=label_of(self._space, start),
            id=run_id(self._identity, start.number),
            resume="allow",
            reinit="create_new",
            dir=self._folder,
            config=_config(start),
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                finish_timeout=FINISH_SECONDS,
                x_disable_meta=True,  # the command line, which may hold a password
                x_disable_stats=True,  # of this machine, which need not be the trial's
                x_save_requirements=False,
            ),
        )
        run.define_metric("*", step_metric="epoch")
        self._runs[start.number] = run
        self._plans[start.number] = start.plan

    def _log(self, number: int, report: EpochReport) -> None:
        run = self._runs[number]
        if report.plan is not None and report.plan != self._plans[number]:
            self._plans[number] = report.plan
            run.config.update({"plan": report.plan.to_dict()}, allow_val_change=True)
        run.log({"epoch": report.epoch, "value": report.value, **report.scalars()})

    def _end(self, number: int, outcome: TrialOutcome) -> None:
        run = self._runs.pop(number, None)
        if run is None:  # it was over budget and never started
            return
        run.tags = (*(run.tags or ()), outcome.end.value)
        run.summary.update({"end": outcome.end.value, "reason": outcome.reason, "epochs": outcome.epochs})
        run.finish(exit_code=int(outcome.end in FAILURES))

    def _leave(self) -> None:
        while self._runs:
            _, run = self._runs.popitem()
            run.mark_preempting()
            run.finish(exit_code=1)

    def _sync_command(self) -> str:
        return f"wandb sync {shlex.quote(str(self._folder))}/wandb/*run-*"


def run_id(identity: str, number: int) -> str:
    """W&B's id of a trial's run, which a resumed search finds again: 16 hexadecimal digits."""
    return hashlib.sha256(f"{identity} {number}".encode(errors="backslashreplace")).hexdigest()[:16]


def _config(start: TrialStart) -> dict[str, Any]:
    """The searched parameters as the trial used them, the predicted memory in bytes, and the plan."""
    plan = {} if start.plan is None else {"plan": start.plan.to_dict()}
    return {**start.used, "trial": start.number, "predicted_bytes": start.predicted_bytes, **plan}


def _log_in() -> None:
    """Raises ConfigError if W&B is to be reached and there are no credentials, or they are refused."""
    import wandb

    if wandb.setup().settings.mode in ("offline", "disabled"):
        return
    try:
        known = wandb.login(prompt=False)
    except wandb.errors.Error as error:
        raise ConfigError(f"--wandb cannot be used: {one_line(error)}; WANDB_MODE=offline keeps all here") from None
    if not known:
        raise ConfigError(
            "--wandb has no credentials; run wandb login, or set WANDB_API_KEY, or WANDB_MODE=offline to keep all here"
        )
