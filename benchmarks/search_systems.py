"""Search systems as one kind of object, so that the same loop drives them all: this project's and those it is
compared with, each through its own code."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import optuna
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.budget_sampler import suggested
from benchmarks.idle_trials import idle_report
from search.engine.conductor import Conductor, Decision
from search.engine.feasibility import Feasibility
from search.engine.pace import Pace
from search.engine.sampler import Proposal
from search.engine.space_draws import uniform_params
from search.engine.trial_store import KnownTrial
from search.options import SearchOptions
from spaces.space import Space
from trainable.config import TrialConfig
from trainable.execution_plan import MemoryPlan
from trainable.record import EpochReport, TrialOutcome, TrialStart

METRIC = "validation_auc"


@dataclass(frozen=True)
class Setting:
    """What every system is told."""

    space: Space
    seed: int
    max_epochs: int
    budget: int
    """Epochs of training that the whole search has."""


class System(Protocol):
    """A search: proposes trainings, hears of every epoch, and names the one that it would hand over."""

    def start(self) -> tuple[int, dict[str, Any]] | None:
        """Number and parameters of the training to begin, or to go on with; None where it only waits for others."""
        ...

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Whether a training goes on after an epoch."""
        ...

    @property
    def best(self) -> int | None:
        """The training that a user would take now."""
        ...


# ---- this project ----------------------------------------------------------------------------------------------------


class MemoryStore:
    """Trials that nothing outlives: a `TrialStore` without a disk."""

    shared = False

    def __init__(self) -> None:
        self._next = 0

    def known(self) -> list[KnownTrial]:
        return []

    def elsewhere(self) -> list[KnownTrial]:
        return []

    def start(
        self, proposal: Proposal, config: TrialConfig, memory: MemoryPlan, epoch_seconds: float | None = None
    ) -> TrialStart:
        number, self._next = self._next, self._next + 1
        return TrialStart(number=number, params=proposal.params, config=config, plan=memory.plan, predicted_bytes=0)

    def over_budget(
        self, proposal: Proposal, config: TrialConfig, memory: MemoryPlan, outcome: TrialOutcome
    ) -> TrialStart:
        raise AssertionError("there is no budget")

    def report(self, number: int, report: EpochReport) -> None:
        """Nothing to keep."""

    def restarted(self, number: int, failures: int) -> None:
        """Nothing to keep."""

    def finish(self, number: int, outcome: TrialOutcome, attributes: Mapping[str, Any]) -> None:
        """Nothing to keep."""


class Ours:
    """The conductor, its sampler and ASHA, as a search runs them; only the store has no disk."""

    def __init__(
        self,
        setting: Setting,
        *,
        grace: int,
        factor: int,
        sampler: str = "tpe",
        initial: Sequence[Mapping[str, Any]] = (),
        startup: int | None = None,
        until_flat: float | None = None,
        prefer_fast: Pace | None = None,
    ):
        options = SearchOptions(
            space=setting.space.name,
            num_samples=setting.budget,
            max_epochs=setting.max_epochs,
            grace_period=grace,
            reduction_factor=factor,
            seed=setting.seed,
            sampler=sampler,
            startup_trials=startup,
            until_flat=until_flat,
            prefer_fast=prefer_fast is not None,
        )
        feasibility = Feasibility(setting.space, budget_bytes=None)
        self._conductor = Conductor(
            setting.space, options, MemoryStore(), feasibility, initial=initial, pace=prefer_fast
        )

    def start(self) -> tuple[int, dict[str, Any]] | None:
        start = self._conductor.next_trial()
        return None if start is None else (start.number, start.params)

    def report(self, number: int, epoch: int, value: float) -> bool:
        if self._conductor.report(number, idle_report(epoch, value)) is Decision.CONTINUE:
            return True
        self._conductor.finish(number, self._conductor.outcome(number))
        return False

    @property
    def best(self) -> int | None:
        """Its winner; before any trial has completed, the running one with the highest last value."""
        if self._conductor.best is not None:
            return self._conductor.best[1]
        last = {number: trial.values[trial.epoch] for number, trial in self._conductor.running.items() if trial.epoch}
        return max(last, key=lambda number: last[number], default=None)


# ---- plain Ray Tune --------------------------------------------------------------------------------------------------


class PlainRay:
    """Ray Tune's own `OptunaSearch` and `ASHAScheduler` with its defaults, told what a trial runner tells them.

    A user takes `ResultGrid.get_best_result`: the trial with the highest last value, stopped or not.
    """

    def __init__(self, setting: Setting):
        self._search = OptunaSearch(
            lambda trial: _nothing(suggested(setting.space, trial)), metric=METRIC, mode="max", seed=setting.seed
        )
        self._scheduler = ASHAScheduler(metric=METRIC, mode="max", max_t=setting.max_epochs)
        self._last: dict[int, float] = {}
        self._trials: dict[int, Any] = {}

    def start(self) -> tuple[int, dict[str, Any]] | None:
        number = len(self._trials)
        params = self._search.suggest(str(number))
        assert params is not None
        self._trials[number] = SimpleNamespace(trial_id=str(number))
        self._scheduler.on_trial_add(None, self._trials[number])  # type: ignore[arg-type]
        return number, params

    def report(self, number: int, epoch: int, value: float) -> bool:
        self._last[number] = value
        result = {METRIC: value, "training_iteration": epoch}
        decision = self._scheduler.on_trial_result(None, self._trials[number], result)  # type: ignore[arg-type]
        self._search.on_trial_result(str(number), result)
        if decision == TrialScheduler.CONTINUE:
            return True
        self._search.on_trial_complete(str(number), result)
        return False

    @property
    def best(self) -> int | None:
        return max(self._last, key=lambda number: self._last[number], default=None)


def _nothing(_params: dict[str, Any]) -> None:
    """Ray takes what a define-by-run function suggested from the trial, and would add what it returns."""


# ---- Optuna alone ----------------------------------------------------------------------------------------------------


class PlainOptuna:
    """An Optuna study with one of its samplers and pruners; a user takes `Study.best_trial`."""

    def __init__(self, setting: Setting, sampler: optuna.samplers.BaseSampler, pruner: optuna.pruners.BasePruner):
        self._setting = setting
        self._study = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
        self._running: dict[int, optuna.Trial] = {}
        self._last: dict[int, float] = {}
        self._completed: dict[int, float] = {}

    def start(self) -> tuple[int, dict[str, Any]] | None:
        trial = self._study.ask()
        self._running[trial.number] = trial
        return trial.number, suggested(self._setting.space, trial)

    def report(self, number: int, epoch: int, value: float) -> bool:
        trial = self._running[number]
        trial.report(value, epoch)
        self._last[number] = value
        if epoch >= self._setting.max_epochs:
            self._study.tell(trial, value)
            self._completed[number] = value
        elif trial.should_prune():
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            return True
        del self._running[number]
        return False

    @property
    def best(self) -> int | None:
        among = self._completed or {number: self._last[number] for number in self._running if number in self._last}
        return max(among, key=lambda number: among[number], default=None)


# ---- a rule of thumb -------------------------------------------------------------------------------------------------


class ShortThenBest:
    """Uniform draws: all trained for one epoch, then the best fifth trained to the end."""

    SHARE = 0.2

    def __init__(self, setting: Setting):
        self._setting = setting
        self._rng = np.random.RandomState(setting.seed)
        self._most = max(1, math.floor(setting.budget / (1 + self.SHARE * (setting.max_epochs - 1))))
        self._params: dict[int, dict[str, Any]] = {}
        self._first: dict[int, float] = {}
        self._chosen: list[int] | None = None
        self._last: dict[int, float] = {}

    def start(self) -> tuple[int, dict[str, Any]] | None:
        if len(self._params) < self._most:
            number = len(self._params)
            self._params[number] = uniform_params(self._setting.space, self._rng)
            return number, self._params[number]
        if self._chosen is None and len(self._first) == self._most:
            ranked = sorted(self._first, key=lambda number: -self._first[number])
            self._chosen = ranked[: max(1, round(self.SHARE * self._most))]
        if not self._chosen:
            return None
        number = self._chosen.pop(0)
        return number, self._params[number]

    def report(self, number: int, epoch: int, value: float) -> bool:
        if epoch == 1:
            self._first[number] = value
            return False
        self._last[number] = value
        return epoch < self._setting.max_epochs

    @property
    def best(self) -> int | None:
        among = self._last or self._first
        return max(among, key=lambda number: among[number], default=None)
