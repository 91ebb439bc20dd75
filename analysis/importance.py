"""Which parameters mattered: PED-ANOVA on comparable values, with its uncertainty and what chance alone gives."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from analysis.results import PARAM, RunResults, auc_at, comparison_epoch
from analysis.study import quiet_optuna
from trainable.units import counted

FEWEST_TRIALS = 12
"""With fewer trials the ranking changes with every further one, so nothing is shown."""
FEW_TRIALS = 40
"""With fewer trials the ranking is shown with a warning."""
REPEATS = 50
"""Random halves, and shuffles, that intervals and chance are measured with."""


@dataclass(frozen=True)
class Importances:
    """Share of each parameter in what separates good trials from the rest; they sum to 1."""

    shares: dict[str, float]
    """Most important first; empty if there are too few trials."""
    trials: int
    """Trials compared."""
    epoch: int
    """Epoch at which their values were compared; 0 if there was none."""
    note: str
    """A caveat for the reader: one or two sentences."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Middle 90 % of each share over random halves of the trials, widened to hold the share."""
    chance: dict[str, float] = field(default_factory=dict)
    """Limits that no share passes in 95 % of shuffles of the values between the trials."""

    @property
    def beyond_chance(self) -> dict[str, float]:
        """The shares that chance alone would hardly give."""
        return {name: share for name, share in self.shares.items() if share > self.chance[name]}


def importances(run: RunResults) -> Importances:
    """Importances of a run's parameters for the trials' values at the epoch that nearly all of them reached.

    Uses PED-ANOVA (Watanabe et al. 2023), which handles conditional parameters: it asks which parameters'
    distributions differ most between the best tenth (the best quarter below 100 trials) and all trials.

    The interval of a share is its spread over random halves of the trials, which have about the variance of the whole
    (delete-half jackknife, Shao and Wu 1989). Few trials give some parameter a large share whatever mattered; what
    chance gives is the share with the values shuffled between the trials: a permutation test of all parameters at once
    (Westfall and Young 1993).
    """
    if not len(run.epochs):
        return Importances({}, 0, 0, "No trial has finished an epoch yet.")
    epoch = comparison_epoch(run.epochs)
    values = auc_at(run.epochs, epoch)
    if not run.distributions:
        return Importances(
            {}, len(values), epoch, "The study could not be read, so the parameters' ranges are unknown."
        )
    if len(values) < FEWEST_TRIALS:
        return Importances(
            {},
            len(values),
            epoch,
            f"Only {counted(len(values), 'trial')} reached epoch {epoch}; importances need at least {FEWEST_TRIALS}. "
            "Run more trials to see them.",
        )
    note = f"Compared at epoch {epoch}, which {counted(len(values), 'trial')} reached."
    compared = _Compared.of(run.trials.loc[values.index], values, run.distributions)
    shares = {} if compared is None else compared.shares(compared.values)
    if compared is None or not shares:
        note += " No parameter was drawn in more than one way, so there is nothing to compare."
        return Importances({}, len(values), epoch, note)
    found = Importances(
        shares, len(values), epoch, note, intervals=compared.intervals(shares), chance=compared.chance(shares)
    )
    return replace(found, note=f"{note} {_trust(found)}")


def _trust(found: Importances) -> str:
    if not found.beyond_chance:
        return "No share is larger than chance alone gives, so this search does not tell what mattered."
    beyond = f"Beyond what chance gives: {', '.join(found.beyond_chance)}."
    few = f" With fewer than {FEW_TRIALS} trials this is a hint, not a finding." if found.trials < FEW_TRIALS else ""
    return beyond + few


@dataclass(frozen=True)
class _Compared:
    """Trials in a study of their own, whose values may be exchanged."""

    study: optuna.Study
    values: np.ndarray
    """Float64 (trials,), by the number in this study."""

    @classmethod
    def of(
        cls, trials: pd.DataFrame, values: "pd.Series[float]", distributions: dict[str, BaseDistribution]
    ) -> "_Compared | None":
        """None if too few trials lie in the ranges, or nothing was searched."""
        searched = {name: d for name, d in distributions.items() if not d.single() and PARAM + name in trials.columns}
        frozen = [*_frozen(trials, values, searched)]
        if not searched or len(frozen) < FEWEST_TRIALS:
            return None
        with quiet_optuna():
            study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
            study.add_trials(frozen)
        return cls(study, np.array([trial.value for trial in frozen], dtype=float))

    def shares(self, values: np.ndarray) -> dict[str, float]:
        """The shares, the largest first, if the trials had these values; a trial whose value is NaN is left out."""
        evaluator = PedAnovaImportanceEvaluator(target_quantile=0.1 if len(self.values) >= 100 else 0.25)
        with quiet_optuna(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that lower targets count as better: these are negated
            return get_param_importances(
                self.study, evaluator=evaluator, target=lambda trial: -float(values[trial.number])
            )

    def intervals(self, shares: dict[str, float]) -> dict[str, tuple[float, float]]:
        rng, count = np.random.default_rng(0), len(self.values)
        halves = []
        for _ in range(REPEATS):
            half = np.full(count, np.nan)
            chosen = rng.permutation(count)[: count // 2]
            half[chosen] = self.values[chosen]
            halves.append(half)
        lows, highs = np.quantile(self._drawn(shares, halves), [0.05, 0.95], axis=0).tolist()
        return {
            name: (min(low, share), max(high, share))
            for (name, share), low, high in zip(shares.items(), lows, highs, strict=True)
        }

    def chance(self, shares: dict[str, float]) -> dict[str, float]:
        """Limits of the same level for every parameter, raised until 95 % of the shuffles pass none of them."""
        rng = np.random.default_rng(0)
        drawn_RP = self._drawn(shares, [rng.permutation(self.values) for _ in range(REPEATS)])
        limits_P = np.quantile(drawn_RP, 0.95, axis=0) + 1e-9
        raised_P = limits_P * np.quantile((drawn_RP / limits_P).max(axis=1), 0.95)
        return dict(zip(shares, np.minimum(raised_P, 1.0).tolist(), strict=True))

    def _drawn(self, shares: dict[str, float], draws: list[np.ndarray]) -> np.ndarray:
        """Each parameter's share under each draw of the values, float64 (R draws, P parameters)."""
        drawn = [self.shares(values) for values in draws]
        return np.array([[each.get(name, 0.0) for name in shares] for each in drawn])


def _frozen(
    trials: pd.DataFrame, values: "pd.Series[float]", searched: dict[str, BaseDistribution]
) -> Iterable[FrozenTrial]:
    for value, (_, row) in zip(values, trials.iterrows(), strict=True):
        params = {name: _plain(row[PARAM + name], d) for name, d in searched.items() if pd.notna(row[PARAM + name])}
        try:
            yield create_trial(
                state=TrialState.COMPLETE,
                value=float(value),
                params=params,
                distributions={name: searched[name] for name in params},
            )
        except ValueError:
            continue  # enqueued with a value outside the range that was searched later


def _plain(value: object, distribution: BaseDistribution) -> object:
    """Returns a frame's value as it was drawn: pandas turns integers into floats if some trials have none."""
    if isinstance(distribution, optuna.distributions.IntDistribution):
        return int(value)  # type: ignore[call-overload]
    if isinstance(distribution, optuna.distributions.FloatDistribution):
        return float(value)  # type: ignore[arg-type]
    return value.item() if hasattr(value, "item") else value
