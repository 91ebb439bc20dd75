"""The private corners of Optuna 5.0 that the search needs, all in this one module.

Written against optuna 5.0.0. What is used and why:

* ``RDBStorage``'s methods directly: `Study.ask` writes a new trial in one transaction per parameter and attribute;
  a template writes it in one. ``Trial.set_constraint`` stores the system attribute ``constraints:<name>``, and so do
  we.
* ``_ParzenEstimator`` and `default_gamma` through `TPESampler`'s own methods: one estimator of good trials, one of the
  others, many draws at once. The public `sample_relative` gives a single draw, already chosen.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import event

from spaces.space import Choices, Distribution

_CONSTRAINT = "constraints:{}"
WRITE_TIMEOUT_SECONDS = 60
"""How long a writer waits for another one before SQLite says that the database is locked."""


def to_optuna(distribution: Distribution) -> BaseDistribution:
    """A space's distribution as Optuna's; bounds are inclusive in both."""
    if isinstance(distribution, Choices):
        return optuna.distributions.CategoricalDistribution(distribution.values)
    if distribution.integer:
        return optuna.distributions.IntDistribution(
            int(distribution.low), int(distribution.high), log=distribution.log, step=int(distribution.step or 1)
        )
    return optuna.distributions.FloatDistribution(
        distribution.low, distribution.high, log=distribution.log, step=distribution.step
    )


def open_storage(url: str) -> RDBStorage:
    """The storage behind a URL; SQLite in WAL mode, every commit forced to disk.

    ``synchronous=FULL`` rather than NORMAL: in WAL mode NORMAL survives a killed process but may lose the last commits
    when the machine loses power, and a report that was told must stay. It costs one fsync a commit.
    """
    logging.getLogger("optuna").setLevel(logging.WARNING)
    if not url.startswith("sqlite"):
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": WRITE_TIMEOUT_SECONDS}})

    def set_pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    event.listen(storage.engine, "connect", set_pragmas)
    storage.engine.dispose()  # connections made before the listener are closed; the next ones have the pragmas
    return storage


class StudyWriter:
    """Writes trials of one study, each fact in one transaction."""

    def __init__(self, storage: RDBStorage, study: Study):
        self._storage = storage
        self._study_id = study._study_id
        self._ids: dict[int, int] = {}

    def create(
        self,
        state: TrialState,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        user_attrs: Mapping[str, Any],
        constraints: Mapping[str, float],
    ) -> int:
        """Adds a trial, complete with what is known of it, and gives its number."""
        template = create_trial(
            state=state,
            params=dict(params),
            distributions=dict(distributions),
            user_attrs=dict(user_attrs),
            constraints=dict(constraints),
        )
        frozen = self._storage._create_new_trial(self._study_id, template)
        if not state.is_finished():
            self._ids[frozen.number] = frozen._trial_id
        return frozen.number

    def adopt(self, trial: FrozenTrial) -> None:
        """Takes over a running trial of an earlier process."""
        self._ids[trial.number] = trial._trial_id

    def report(self, number: int, epoch: int, value: float) -> None:
        self._storage.set_trial_intermediate_value(self._ids[number], epoch, value)

    def set_user_attr(self, number: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._ids[number], key, value)

    def set_constraint(self, number: int, key: str, value: float) -> None:
        self._storage.set_trial_system_attr(self._ids[number], _CONSTRAINT.format(key), value)

    def finish(self, number: int, state: TrialState, value: float | None) -> None:
        """Ends a trial; an id that another writer ended before is left as it is."""
        self._storage.set_trial_state_values(self._ids.pop(number), state, None if value is None else [value])


class ParzenTPE(TPESampler):
    """Optuna's multivariate TPE, opened where it draws: gives many candidates with their scores instead of one."""

    def __init__(self) -> None:
        super().__init__(multivariate=True, constant_liar=True)

    @staticmethod
    def split(study: Study, trials: list[FrozenTrial], feasible: int) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Good trials and the others, as Optuna ranks them; a trial that violates a constraint is never good."""
        finished = sum(trial.state != TrialState.RUNNING for trial in trials)
        return _split_trials(study, trials, min(default_gamma(finished), feasible))

    def candidates(
        self,
        study: Study,
        search_space: dict[str, BaseDistribution],
        below: list[FrozenTrial],
        above: list[FrozenTrial],
        rng: np.random.RandomState,
        count: int,
    ) -> list[dict[str, Any]]:
        """`count` draws from l(x), the density of the good trials, with the highest l(x)/g(x) first."""
        good = self._build_parzen_estimator(study, search_space, below, handle_below=True)
        others = self._build_parzen_estimator(study, search_space, above, handle_below=False)
        samples = good.sample(rng, count)
        order = np.argsort(-self._compute_acquisition_func(samples, good, others), kind="stable")
        return [
            {name: dist.to_external_repr(samples[name][row].item()) for name, dist in search_space.items()}
            for row in order
        ]


def random_draws(
    search_space: Mapping[str, BaseDistribution], rng: np.random.RandomState, count: int
) -> list[dict[str, Any]]:
    """Uniform draws (logarithmic where the distribution is): the Parzen estimator of no observation is not uniform."""
    draws: list[dict[str, Any]] = []
    for _ in range(count):
        draws.append({name: _draw(dist, rng) for name, dist in search_space.items()})
    return draws


def _draw(dist: BaseDistribution, rng: np.random.RandomState) -> Any:
    if isinstance(dist, optuna.distributions.CategoricalDistribution):
        return dist.choices[rng.randint(len(dist.choices))]
    if isinstance(dist, optuna.distributions.IntDistribution):
        if dist.log:
            value = np.exp(rng.uniform(np.log(dist.low - 0.5), np.log(dist.high + 0.5)))
            return int(min(max(round(value), dist.low), dist.high))
        return int(dist.low + dist.step * rng.randint((dist.high - dist.low) // dist.step + 1))
    assert isinstance(dist, optuna.distributions.FloatDistribution)
    if dist.step is not None:
        return float(dist.low + dist.step * rng.randint(round((dist.high - dist.low) / dist.step) + 1))
    if dist.log:
        return float(np.clip(np.exp(rng.uniform(np.log(dist.low), np.log(dist.high))), dist.low, dist.high))
    return float(rng.uniform(dist.low, dist.high))


def frozen(
    number: int,
    state: TrialState,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    *,
    value: float | None = None,
    intermediate: Mapping[int, float] | None = None,
    constraints: Mapping[str, float] | None = None,
) -> FrozenTrial:
    """A trial as Optuna's functions want it, without a storage."""
    trial = create_trial(
        state=state,
        value=value,
        params=dict(params),
        distributions=dict(distributions),
        intermediate_values=dict(intermediate or {}),
        constraints=dict(constraints or {}),
    )
    trial.number = number
    return trial


def violation(trial: FrozenTrial) -> float:
    """Sum of violated constraints; 0 for a feasible trial."""
    return sum(value for value in trial.constraints.values() if value > 0)


def pruned_rank(trial: FrozenTrial) -> Sequence[float]:
    """Sort key of a pruned trial, best first: the furthest, then the highest last value."""
    if not trial.intermediate_values:
        return (1.0, 0.0)
    epoch, value = max(trial.intermediate_values.items())
    return (-float(epoch), -value if value == value else float("inf"))
