"""Which parameters mattered: PED-ANOVA on comparable values, with a note on how far to trust it."""

from dataclasses import dataclass

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState, create_trial

from analysis.results import PARAM, RunResults, auc_at, comparison_epoch
from analysis.study import quiet_optuna
from trainable.units import counted

FEWEST_TRIALS = 12
"""With fewer trials the ranking changes with every further one, so nothing is shown."""
FEW_TRIALS = 40
"""With fewer trials the ranking is shown with a warning."""


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


def importances(run: RunResults) -> Importances:
    """Importances of a run's parameters for the trials' values at the epoch that nearly all of them reached.

    Uses PED-ANOVA (Watanabe et al. 2023), which handles conditional parameters and takes well under a second for
    1,000 trials: it asks which parameters' distributions differ most between the best tenth (the best quarter below
    100 trials) and all trials.
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
    shares = _ped_anova(run.trials.loc[values.index], values, run.distributions)
    note = f"Compared at epoch {epoch}, which {counted(len(values), 'trial')} reached."
    if not shares:
        note += " No parameter was drawn in more than one way, so there is nothing to compare."
    elif len(values) < FEW_TRIALS:
        note += f" With fewer than {FEW_TRIALS} trials this is a hint, not a finding."
    return Importances(shares, len(values), epoch, note)


def _ped_anova(trials: pd.DataFrame, values: pd.Series, distributions: dict[str, BaseDistribution]) -> dict[str, float]:
    searched = {name: d for name, d in distributions.items() if not d.single() and PARAM + name in trials.columns}
    with quiet_optuna():
        study = optuna.create_study(direction="maximize", storage=optuna.storages.InMemoryStorage())
    for value, (_, row) in zip(values, trials.iterrows(), strict=True):
        params = {name: _plain(row[PARAM + name], d) for name, d in searched.items() if pd.notna(row[PARAM + name])}
        try:
            trial = create_trial(
                state=TrialState.COMPLETE,
                value=float(value),
                params=params,
                distributions={n: searched[n] for n in params},
            )
        except ValueError:
            continue  # enqueued with a value outside the range that was searched later
        study.add_trial(trial)
    if not searched or len(study.trials) < FEWEST_TRIALS:
        return {}
    quantile = 0.1 if len(study.trials) >= 100 else 0.25
    with quiet_optuna():
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile))


def _plain(value: object, distribution: BaseDistribution) -> object:
    """Returns a frame's value as it was drawn: pandas turns integers into floats if some trials have none."""
    if isinstance(distribution, optuna.distributions.IntDistribution):
        return int(value)  # type: ignore[call-overload]
    if isinstance(distribution, optuna.distributions.FloatDistribution):
        return float(value)  # type: ignore[arg-type]
    return value.item() if hasattr(value, "item") else value
