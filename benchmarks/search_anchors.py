"""Search systems of other packages, as `benchmarks.search_systems` has them; the project itself depends on neither.

    pip install "syne-tune==0.16.0" huggingface_hub "smac==2.4.1"

Syne Tune (Salinas et al. 2022) has no conditions: a parameter whose condition does not hold is drawn and left out.
SMAC (Lindauer et al. 2022) has them, and trains for budgets of its own; a training goes on from where it stopped.
"""

import logging
import math
import tempfile
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from benchmarks.search_systems import METRIC, Setting
from spaces.space import Choices, Parameter, Range, Space

_EPOCH = "epoch"


class SyneTune:
    """One of Syne Tune's multi-fidelity schedulers with its defaults.

    A user takes `Tuner.best_config`: the trial with the highest value of any epoch.
    """

    def __init__(self, setting: Setting, scheduler: str):
        from syne_tune.optimizer import baselines

        logging.getLogger("syne_tune").setLevel(logging.ERROR)
        self._space = setting.space
        self._scheduler = getattr(baselines, scheduler)(
            {parameter.name: _syne_tune(parameter) for parameter in setting.space.parameters},
            metric=METRIC,
            time_attr=_EPOCH,
            max_t=setting.max_epochs,
            do_minimize=False,
            random_seed=setting.seed,
        )
        self._last_epoch = setting.max_epochs
        self._trials: list[Any] = []
        self._highest: dict[int, float] = {}

    def start(self) -> tuple[int, dict[str, Any]] | None:
        from syne_tune.backend.trial_status import Trial

        suggestion = self._scheduler.suggest()
        trial = Trial(trial_id=len(self._trials), config=suggestion.config, creation_time=datetime.now())
        self._scheduler.on_trial_add(trial)
        self._trials.append(trial)
        return trial.trial_id, _active(self._space, suggestion.config)

    def report(self, number: int, epoch: int, value: float) -> bool:
        from syne_tune.optimizer.scheduler import SchedulerDecision

        self._highest[number] = max(value, self._highest.get(number, -math.inf))
        result = {METRIC: value, _EPOCH: epoch}
        if epoch >= self._last_epoch:
            self._scheduler.on_trial_complete(self._trials[number], result)
            return False
        if self._scheduler.on_trial_result(self._trials[number], result) == SchedulerDecision.CONTINUE:
            return True
        self._scheduler.on_trial_remove(self._trials[number])
        return False

    @property
    def best(self) -> int | None:
        return max(self._highest, key=lambda number: self._highest[number], default=None)


def _syne_tune(parameter: Parameter) -> Any:
    from syne_tune import config_space

    distribution = parameter.distribution
    if isinstance(distribution, Choices):
        return config_space.choice(list(distribution.values))
    low, high = distribution.low, distribution.high
    if distribution.integer:
        return (config_space.lograndint if distribution.log else config_space.randint)(int(low), int(high))
    return (config_space.loguniform if distribution.log else config_space.uniform)(low, high)


def _active(space: Space, config: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters whose condition holds, with the values of the space."""
    params: dict[str, Any] = {}
    for parameter in space.parameters:
        if space.is_active(parameter, params):
            params[parameter.name] = _value(parameter, config[parameter.name])
    return params


def _value(parameter: Parameter, value: Any) -> Any:
    """What a package gave as NumPy's number, as the space's own."""
    distribution = parameter.distribution
    if isinstance(distribution, Choices):
        return distribution.values[distribution.values.index(value)]
    return int(value) if distribution.integer else float(value)


class Smac:
    """SMAC's multi-fidelity facade, a random forest and Hyperband, with its defaults; a user takes its incumbent."""

    def __init__(self, setting: Setting):
        from smac import MultiFidelityFacade, Scenario

        self._space = setting.space
        self._folder = tempfile.TemporaryDirectory(prefix="smac-")
        scenario = Scenario(
            _config_space(setting.space, setting.seed),
            deterministic=True,
            n_trials=setting.budget,
            min_budget=1,
            max_budget=setting.max_epochs,
            seed=setting.seed,
            output_directory=self._folder.name,
        )
        self._smac = MultiFidelityFacade(
            scenario, lambda config, seed, budget: 0.0, overwrite=True, logging_level=logging.ERROR
        )
        self._numbers: dict[Any, int] = {}
        self._epochs: dict[int, int] = {}
        self._asked: dict[int, Any] = {}
        self._last: dict[int, float] = {}

    def start(self) -> tuple[int, dict[str, Any]] | None:
        from smac.runhistory.dataclasses import TrialValue

        while True:
            info = self._smac.ask()
            number = self._numbers.setdefault(info.config, len(self._numbers))
            if number in self._asked:  # runs already, for a smaller budget: one after the other
                return None
            if round(info.budget) > self._epochs.get(number, 0):
                self._asked[number] = info
                return number, _active(self._space, dict(info.config))
            self._smac.tell(info, TrialValue(cost=-self._last[number]), save=False)

    def report(self, number: int, epoch: int, value: float) -> bool:
        from smac.runhistory.dataclasses import TrialValue

        self._epochs[number], self._last[number] = epoch, value
        if epoch < round(self._asked[number].budget):
            return True
        self._smac.tell(self._asked.pop(number), TrialValue(cost=-value), save=False)
        return False

    @property
    def best(self) -> int | None:
        incumbents = self._smac.intensifier.get_incumbents()
        if incumbents:
            return self._numbers[incumbents[0]]
        return max(self._last, key=lambda number: self._last[number], default=None)


def _config_space(space: Space, seed: int) -> Any:
    from ConfigSpace import ConfigurationSpace, GreaterThanCondition, InCondition

    found = ConfigurationSpace(seed=seed)
    made = {parameter.name: _hyperparameter(parameter) for parameter in space.parameters}
    found.add(list(made.values()))
    for parameter in space.parameters:
        when = parameter.when
        if when is None or when.parameter not in made:
            continue
        parent, child = made[when.parameter], made[parameter.name]
        if when.above is not None:
            found.add(GreaterThanCondition(child, parent, when.above))
        else:
            found.add(InCondition(child, parent, list(when.values or ())))
    return found


def _hyperparameter(parameter: Parameter) -> Any:
    from ConfigSpace import Categorical, Float, Integer

    distribution = parameter.distribution
    if isinstance(distribution, Choices):
        return Categorical(parameter.name, list(distribution.values), ordered=_numbers(distribution))
    assert isinstance(distribution, Range)
    kind, number = (Integer, int) if distribution.integer else (Float, float)
    return kind(parameter.name, (number(distribution.low), number(distribution.high)), log=distribution.log)


def _numbers(choices: Choices) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in choices.values)
