"""The durable study: every start, report and ending is in the Optuna storage before the search goes on.

How our endings appear in Optuna (its user attribute ``end`` always keeps our own word, see `TrialEnd`):

=============  ========  =============================================================================
our word       state     why
=============  ========  =============================================================================
completed      COMPLETE  its value is the validation AUC of the *last* epoch: the best of all epochs would be
                         chosen with the same clips and look better than it is
pruned         PRUNED    with its intermediate values, so that TPE ranks it behind the completed
over_budget    PRUNED    constraint ``memory`` = log(predicted / budget) > 0; never trained
out_of_memory  PRUNED    constraint ``failure`` = 1 > 0: Optuna ignores FAIL, and then the sampler goes back
non_finite     PRUNED    into the zone that fails; a violated constraint repels it, whatever AUC the trial
crashed        PRUNED    had before
=============  ========  =============================================================================
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search._optuna import StudyWriter, frozen, open_storage
from trainable.errors import RunError
from trainable.record import TrialEnd, TrialOutcome, TrialStart

logger = logging.getLogger(__name__)

FAILURES = frozenset({TrialEnd.OUT_OF_MEMORY, TrialEnd.NON_FINITE, TrialEnd.CRASHED})
"""Endings that must repel the sampler."""
FAILURE_VIOLATION = 1.0
"""As large as predicting e times the budget: violations are summed and compared."""


def redact(url: str) -> str:
    """A storage URL as it may be shown: without user, password and query."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an IPv6 address without its closing bracket
        return re.sub(r"//.*@", "//***@", url.split("?")[0])
    if not parts.scheme or not parts.netloc:
        return re.sub(r"//[^@]*@", "//***@", url.split("?")[0])
    host = parts.netloc.rpartition("@")
    shown = f"***@{host[2]}" if host[1] else host[2]
    return f"{parts.scheme}://{shown}{parts.path}"


def memory_violation(predicted_bytes: int, budget_bytes: int) -> float:
    """log(predicted / budget): 0 at the budget, positive above, of the same scale for every size of card."""
    return math.log(predicted_bytes / budget_bytes)


class SearchStudy:
    """One Optuna study, written by this run and possibly by others.

    Parameters
    ----------
    url
        Storage, ``sqlite:///…`` or another database.
    name
        Study name in that storage.
    run
        This run's identity: a study may hold the trials of several drivers, and each takes care of its own.
    shared
        Others may write too: `trials` then asks the storage again instead of trusting what was read before.
    """

    def __init__(self, url: str, name: str, run: str, *, shared: bool = False):
        self.url, self.name, self.run, self.shared = url, name, run, shared
        try:
            storage = open_storage(url)
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True
            )
        except Exception as error:  # sqlalchemy, drivers and Optuna raise many kinds; none may carry the password out
            reason = str(error).replace(url, redact(url)).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(
                f"study storage {redact(url)} cannot be opened: {_without_secrets(reason, url)}; "
                "check the address, the driver (psycopg for postgresql) and the access rights"
            ) from None
        self._writer = StudyWriter(storage, self._study)

    @classmethod
    def in_folder(cls, path: Path, name: str, run: str | None = None) -> "SearchStudy":
        """The study of a run's folder, ``study.db``; without another identity the run's is the study's name."""
        return cls(f"sqlite:///{path}", name, run or name)

    @property
    def optuna_study(self) -> optuna.Study:
        """For reading (analysis, dashboards, tests)."""
        return self._study

    def trials(self) -> list[FrozenTrial]:
        """All trials of the study, other drivers' too, by number."""
        return self._study.get_trials(deepcopy=False)

    def is_mine(self, trial: FrozenTrial) -> bool:
        return bool(trial.user_attrs.get("run") == self.run)

    def start(
        self,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        *,
        config: Mapping[str, Any],
        plan: Mapping[str, Any] | None,
        predicted_bytes: int,
    ) -> int:
        """Adds a running trial and gives its number."""
        attrs = {"run": self.run, "config": dict(config), "plan": plan, "predicted_bytes": predicted_bytes}
        return self._writer.create(TrialState.RUNNING, params, distributions, attrs, {})

    def over_budget(
        self,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        *,
        config: Mapping[str, Any],
        predicted_bytes: int,
        budget_bytes: int,
        outcome: TrialOutcome,
    ) -> int:
        """Adds a trial that was never started, in one transaction, and gives its number."""
        attrs = {
            "run": self.run,
            "config": dict(config),
            "plan": None,
            "predicted_bytes": predicted_bytes,
            "end": outcome.end.value,
            "reason": outcome.reason,
            "outcome": asdict(outcome),
        }
        constraints = {"memory": memory_violation(predicted_bytes, budget_bytes)}
        return self._writer.create(TrialState.PRUNED, params, distributions, attrs, constraints)

    def report(self, number: int, epoch: int, value: float) -> None:
        """Writes an intermediate value."""
        self._writer.report(number, epoch, value)

    def finish(self, number: int, outcome: TrialOutcome) -> None:
        """Ends a trial: the word of its ending and its state in one transaction."""
        attrs = {"outcome": asdict(outcome), "end": outcome.end.value}
        if outcome.reason:
            attrs["reason"] = outcome.reason
        constraints = {"failure": FAILURE_VIOLATION} if outcome.end in FAILURES else {}
        self._writer.finish(number, *state_of(outcome), attrs, constraints)

    def adopt(self, trial: FrozenTrial) -> None:
        """Takes over a trial that an earlier process of this run left running."""
        self._writer.adopt(trial)


def state_of(outcome: TrialOutcome) -> tuple[TrialState, float | None]:
    """Optuna's state and value of an ending."""
    if outcome.end == TrialEnd.COMPLETED and outcome.final_auc is not None and math.isfinite(outcome.final_auc):
        return TrialState.COMPLETE, outcome.final_auc
    return TrialState.PRUNED, None


def as_observation(
    number: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    intermediate: Mapping[int, float],
    outcome: TrialOutcome,
) -> FrozenTrial:
    """A trial that ended, as the sampler's history wants it: the same as reading it back from the storage."""
    state, value = state_of(outcome)
    constraints = {"failure": FAILURE_VIOLATION} if outcome.end in FAILURES else {}
    return frozen(number, state, params, distributions, value=value, intermediate=intermediate, constraints=constraints)


def outcome_of(trial: FrozenTrial) -> TrialOutcome | None:
    """How a trial of the study ended, None where that was not written."""
    values = trial.user_attrs.get("outcome")
    return None if values is None else TrialOutcome(**{**values, "end": TrialEnd(values["end"])})


def start_of(trial: FrozenTrial) -> TrialStart:
    """What was known of a trial of the study before its first epoch."""
    attrs = trial.user_attrs
    return TrialStart(
        number=trial.number,
        params=dict(trial.params),
        config=dict(attrs["config"]),
        plan=attrs["plan"],
        predicted_bytes=int(attrs["predicted_bytes"]),
    )


def _without_secrets(text: str, url: str) -> str:
    """The text without what `redact` hides of the URL, as it stands there or decoded."""
    try:
        parts = urlsplit(url)
        # A name of one or two letters is no secret, and striking it out would strike out half of the sentence.
        user = parts.username if len(parts.username or "") > 2 else None
        secrets = [parts.password, user, *(value for _, value in parse_qsl(parts.query))]
    except ValueError:
        secrets = [url]
    for secret in secrets:
        for spelling in {secret, unquote(secret)} if secret else ():
            text = text.replace(spelling, "***")
    return text
