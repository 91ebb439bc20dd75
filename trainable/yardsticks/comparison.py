"""A detector beside the yardsticks, on the same clips."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainable.config import TrialConfig
from trainable.data.load import Dataset
from trainable.errors import NonFiniteError, ProjectError
from trainable.scoring.clip_counts import ClipCounts
from trainable.scoring.evaluate import Evaluation, evaluate
from trainable.scoring.metrics import bootstrap_aucs, percentile_interval
from trainable.yardsticks.catalogue import CHEAP, title_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What yardsticks find on the clips of an evaluation, and whether the detector finds more.

    The best yardstick is named by the very clips that it is compared on, which favours it a little.
    """

    aucs: dict[str, float]
    """Mean over machine ids, by the yardstick's name."""
    auc: float
    """The detector's."""
    gain_interval: tuple[float, float]
    """95 % interval of the detector's AUC minus the best yardstick's: a bootstrap of clips, the same for both."""
    clips: ClipCounts | None = None
    """The clips that judged; None in the summaries of earlier versions."""

    @property
    def best(self) -> str:
        """Name of the yardstick with the highest AUC."""
        return max(self.aucs, key=lambda name: self.aucs[name])

    @property
    def too_few(self) -> bool:
        """Whether too few clips judge to tell a difference from chance: a bootstrap of them claims too many."""
        return self.clips is not None and self.clips.few

    @property
    def beaten(self) -> bool:
        """Whether the detector's AUC is higher than the best yardstick's by more than the clips' chance."""
        return self.gain_interval[0] > 0 and not self.too_few

    @property
    def gain_text(self) -> str:
        """The difference to the best yardstick, with its interval if clips suffice for one."""
        low, high = self.gain_interval
        gain = f"difference {self.auc - self.aucs[self.best]:+.3f}"
        return gain if self.too_few else f"{gain}, 95 % interval {low:+.3f} … {high:+.3f}"

    @property
    def verdict(self) -> str:
        """Whether the detector beats the best yardstick, as the end of a sentence about the detector."""
        best = (
            f"the best of which ({title_of(self.best)}) has an AUC of {self.aucs[self.best]:.3f} on the same held-out "
            f"clips ({self.gain_text})"
        )
        if self.clips is not None and self.too_few:
            return f"may or may not beat the yardsticks, {best}: too few clips to tell, {self.clips.text}"
        if self.beaten:
            return f"beats the yardsticks, {best}"
        less = "it detects less" if self.gain_interval[1] < 0 else "these clips cannot tell which detects more"
        return f"does not beat the yardsticks, {best}: {less}"

    def to_dict(self) -> dict[str, Any]:
        """The entries of a winner in ``summary.json``."""
        return {
            "yardsticks": self.aucs,
            "beats_yardsticks": None if self.too_few else self.beaten,
            "over_best_yardstick": list(self.gain_interval),
        }

    @classmethod
    def from_dict(cls, best: Mapping[str, Any]) -> "Comparison | None":
        """Reads a winner's entries; None if they are missing, as in runs from before there were yardsticks."""
        aucs, interval = best.get("yardsticks"), best.get("over_best_yardstick")
        auc = best.get("detector_held_out_auc") or best.get("held_out_auc")
        if not aucs or auc is None or interval is None:
            return None
        low, high = interval
        clips = ClipCounts.from_dict(best.get("held_out_clips"))
        named = {str(name): float(value) for name, value in aucs.items()}
        return cls(named, float(auc), (float(low), float(high)), clips)


NOT_MEASURED: Mapping[str, None] = {"yardsticks": None, "beats_yardsticks": None, "over_best_yardstick": None}
"""The entries where there is no comparison."""


def compare(config: TrialConfig, dataset: Dataset, held_out: Evaluation) -> Comparison | None:
    """Fits the cheap yardsticks to the training clips and compares them with a detector on the held-out clips.

    None, with a warning, if a yardstick fails: a search is not lost by what it is compared with.

    Parameters
    ----------
    config
        The detector's; yardsticks that look at windows look at the same.
    held_out
        The detector's evaluation on the held-out clips of `dataset`.
    """
    found: dict[str, Evaluation] = {}
    try:
        for each in CHEAP:
            scores = each.beside(config).fit(dataset.train).score_samples(dataset.held_out)
            found[each.name] = evaluate(scores, dataset.held_out)
    except (ProjectError, NonFiniteError, np.linalg.LinAlgError) as error:
        _log.warning("no yardsticks to compare with: %s: %s", each.name, error)
        return None
    aucs = {name: evaluation.auc for name, evaluation in found.items()}
    best = found[max(aucs, key=lambda name: aucs[name])]
    gains = _resamples(held_out) - _resamples(best)
    return Comparison(aucs, held_out.auc, percentile_interval(gains), held_out.clips)


def _resamples(evaluation: Evaluation) -> np.ndarray:
    return bootstrap_aucs(evaluation.labels, evaluation.scores, evaluation.machine_ids)
