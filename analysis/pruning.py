"""What pruning saved: the epochs and hours that weak trials did not train.

Trials that a time limit or an interruption ended count as trained, never as saved: ASHA did not judge them.
"""

from dataclasses import dataclass

import pandas as pd

from analysis.results import CUT_OFF, UNFINISHED
from trainable.record import TrialEnd
from trainable.units import counted, duration_text


@dataclass(frozen=True)
class PruningSavings:
    """Savings compared with training every pruned trial to the end."""

    pruned: int
    """Trials that ASHA stopped."""
    trained_epochs: int
    """Epochs that all trials trained, summed."""
    saved_epochs: int
    """Epochs that pruned trials did not train."""
    trained_hours: float
    saved_hours: float
    """Each pruned trial's missing epochs times its own median time of an epoch."""

    @property
    def saved_share(self) -> float:
        """Share of all epochs that pruning saved, in 0 … 1."""
        total = self.trained_epochs + self.saved_epochs
        return self.saved_epochs / total if total else 0.0

    @property
    def text(self) -> str:
        """What ASHA saved, in a sentence."""
        if not self.pruned:
            return "ASHA stopped no trial early."
        return (
            f"ASHA stopped {counted(self.pruned, 'trial')} early and saved {counted(self.saved_epochs, 'epoch')}, "
            f"{self.saved_share:.0%} of what training every started trial to the end would have taken "
            f"({duration_text(3600 * self.saved_hours)} at each trial's own pace)."
        )


def pruning_savings(trials: pd.DataFrame, max_epochs: int) -> PruningSavings:
    """Computes the savings of a run whose full trainings last `max_epochs`."""
    pruned = trials[trials["end"] == TrialEnd.PRUNED.value]
    missing = (max_epochs - pruned["epochs"]).clip(lower=0)
    return PruningSavings(
        pruned=len(pruned),
        trained_epochs=int(trials["epochs"].sum()),
        saved_epochs=int(missing.sum()),
        trained_hours=float(trials["hours"].sum()),
        saved_hours=float((missing * pruned["epoch_seconds"].fillna(0.0)).sum() / 3600),
    )


def survivors(trials: pd.DataFrame, max_epochs: int) -> pd.DataFrame:
    """Counts for each epoch 1 … max_epochs the trials that `trained` it, those that ASHA `stopped` after it, and those
    that are `unfinished` there because their search ended.
    """
    epochs = range(1, max_epochs + 1)
    pruned = trials[trials["end"] == TrialEnd.PRUNED.value]
    unfinished = trials[trials["end"].isin([UNFINISHED, CUT_OFF])]
    return pd.DataFrame(
        {
            "trained": [int((trials["epochs"] >= epoch).sum()) for epoch in epochs],
            "stopped": [int((pruned["epochs"] == epoch).sum()) for epoch in epochs],
            "unfinished": [int((unfinished["epochs"] == epoch).sum()) for epoch in epochs],
        },
        index=pd.Index(epochs, name="epoch"),
    )
