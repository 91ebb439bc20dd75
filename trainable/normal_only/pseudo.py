"""Pseudo-anomalies of held-back normal clips: what judges a training where no anomaly is labelled."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np

from trainable.data.clips import Split, TestClips, TrainClips, offsets_of
from trainable.data.features import ClipFeatures, passing
from trainable.data.normalise import NormStats
from trainable.errors import DataError
from trainable.normal_only.families import FAMILIES, Family, families
from trainable.normal_only.held_back import FEW, FEWEST
from trainable.normal_only.severity import Severity, find_severity
from trainable.scoring.metrics import mean_auc
from trainable.units import counted
from trainable.yardsticks.log_mel import LogMelMahalanobis

NORMAL = ""
"""In place of a family: the clip is as it was recorded."""


@dataclass(frozen=True)
class PseudoAnomalies:
    """Held-back normal clips, then each family's changed copies of them."""

    clips: TestClips
    """Of `Split.HELD_BACK`; label 1 = changed."""
    families: tuple[str, ...]
    """Per clip the family that changed it, or `NORMAL`."""
    severities: tuple[Severity, ...]
    """One per family."""

    @property
    def normal(self) -> TestClips:
        """The held-back clips as they were recorded: what a detector is calibrated on."""
        return self.clips.take(np.flatnonzero(self.clips.labels == 0))

    def aucs(self, scores: np.ndarray) -> dict[str, float]:
        """AUC of each family against the held-back clips, mean over machine ids, from scores (clips,) of `clips`."""
        return aucs_by_family(np.array(self.families), np.array(self.clips.machine_ids), scores)

    @property
    def held_back_by_id(self) -> dict[str, int]:
        """Number of held-back clips of each machine id."""
        pairs = zip(self.clips.machine_ids, self.families, strict=True)
        return dict(sorted(Counter(machine_id for machine_id, family in pairs if family == NORMAL).items()))

    def lines(self, *, labelled: bool) -> tuple[str, ...]:
        """What a search says before it starts: what is held back, what is made of it, and what it does not promise.

        Parameters
        ----------
        labelled
            Whether there are labelled clips.
        """
        by_id = self.held_back_by_id
        made = "; ".join(
            f"{family.name} ({family.title}; severity {severity.alpha:.3g})"
            for family, severity in zip(FAMILIES, self.severities, strict=True)
        )
        return (
            ("" if labelled else "no anomaly is labelled: ")
            + f"{counted(sum(by_id.values()), 'normal clip')} held back from training and from density models "
            f"({', '.join(f'id {machine_id}: {count}' for machine_id, count in by_id.items())})",
            f"trainings are judged by how well they tell these from pseudo-anomalies made of them: {made}",
            "this pseudo-AUC is no AUC on real faults: it ranks trainings, and does not say how many faults are heard",
        )

    def to_dict(self) -> dict[str, Any]:
        """What a run's manifest keeps: counts and severities."""
        return {
            "held_back_by_id": self.held_back_by_id,
            "severities": [asdict(each) for each in self.severities],
            "warnings": list(self.warnings()),
        }

    def warnings(self) -> tuple[str, ...]:
        """What makes these pseudo-anomalies worth less, one sentence each."""
        found = []
        few = {machine_id: count for machine_id, count in self.held_back_by_id.items() if count < FEW}
        if few:
            ids = ", ".join(f"{machine_id} ({count})" for machine_id, count in few.items())
            found.append(
                f"fewer than {FEW} normal clips are held back of machine id {ids}: its pseudo-AUC is rough; "
                f"record at least {5 * FEW} normal clips of it"
            )
        for family, severity in zip(FAMILIES, self.severities, strict=True):
            if not severity.reached:
                found.append(
                    f"{family.name}: a covariance of log-mel statistics reaches an AUC of "
                    f"{severity.reference_auc:.2f} at the largest severity, not {family.target_auc:.2f}; the "
                    "pseudo-AUC may rank trainings of these recordings by chance"
                )
            elif not family.usual[0] <= severity.alpha <= family.usual[1]:
                found.append(
                    f"{family.name}: the severity {severity.alpha:.3g} is far from what other machines need "
                    f"({family.usual[0]:g} … {family.usual[1]:g}); look at the recordings: are they all normal, of one "
                    "microphone and level?"
                )
        return tuple(found)


def aucs_by_family(families_N: np.ndarray, machine_ids_N: np.ndarray, scores_N: np.ndarray) -> dict[str, float]:
    """AUC of each family's clips against the unchanged ones (`NORMAL`), mean over machine ids."""
    found = {}
    for family in sorted(set(families_N.tolist()) - {NORMAL}):
        rows = np.flatnonzero((families_N == NORMAL) | (families_N == family))
        changed = (families_N[rows] != NORMAL).astype(np.int64)
        found[family] = mean_auc(changed, scores_N[rows], tuple(machine_ids_N[rows].tolist()))
    return found


def make_pseudo_anomalies(
    train: TrainClips, held_back: ClipFeatures, norm: NormStats, *, scale: int = 1
) -> PseudoAnomalies:
    """Changes each held-back clip by each family, as severely as `find_severity` says.

    Parameters
    ----------
    train
        The clips that training sees, to which the reference is fitted.
    held_back
        Log-mels in dB; a machine id with one clip only is left out, since one clip ranks nothing.
    scale
        How much longer changes last in frames, see `Family.scale`.

    Raises
    ------
    DataError
        If no clip is held back.
    """
    counts = Counter(held_back.machine_ids)
    held_back = held_back.take([index for index, each in enumerate(held_back.machine_ids) if counts[each] >= FEWEST])
    if not held_back.names:
        raise DataError(
            "no machine id has the four normal training clips that judging without anomalies needs: two to train on "
            "and two to hold back; record more"
        )
    unchanged = np.zeros(len(held_back.names), dtype=np.int64)
    normal = TestClips(*norm.packed(held_back), Split.HELD_BACK, labels=unchanged)
    reference = LogMelMahalanobis().fit(train)
    normal_scores = reference.score_samples(normal)

    def changed_clips(family: Family, severity: float) -> Iterator[np.ndarray]:
        for name, clip_TF in zip(held_back.names, passing(held_back.features), strict=True):
            yield family.change(clip_TF, severity, family.draws(name))

    def changed(family: Family, severity: float) -> TestClips:
        frames_TF = norm.frames(changed_clips(family, severity), len(normal.frames_TF))
        return replace(normal, frames_TF=frames_TF, labels=np.ones_like(normal.labels))

    def reference_auc(family: Family, severity: float) -> float:
        scores = reference.score_samples(changed(family, severity))
        labels = np.repeat([0, 1], len(normal))
        return mean_auc(labels, np.concatenate([normal_scores, scores]), 2 * normal.machine_ids)

    made = families(scale)
    severities = tuple(
        find_severity(family, lambda alpha, family=family: reference_auc(family, alpha))  # type: ignore[misc]
        for family in made
    )
    changes = (changed_clips(family, found.alpha) for family, found in zip(made, severities, strict=True))
    sets = 1 + len(FAMILIES)
    clips = TestClips(
        norm.frames(chain(passing(held_back.features), *changes), sets * len(normal.frames_TF)),
        offsets_of(np.tile(normal.lengths, sets)),
        sets * normal.machine_ids,
        sets * normal.names,
        Split.HELD_BACK,
        labels=np.repeat([0, *(1 for _ in FAMILIES)], len(normal)),
    )
    names = [NORMAL, *(family.name for family in FAMILIES)]
    return PseudoAnomalies(clips, tuple(np.repeat(names, len(normal)).tolist()), severities)
