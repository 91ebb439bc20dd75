"""AUCs by section and domain, and their harmonic mean, as DCASE's Task 2 has ranked detectors since 2022."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainable.scoring.metrics import auc, pauc

SMALLEST = float(np.finfo(np.float64).eps)
"""Added to an AUC of 0, as the official evaluator does, since the harmonic mean of it would be 0."""


@dataclass(frozen=True)
class DomainScores:
    """How well scores do in each domain."""

    auc: dict[tuple[str, str], float]
    """(Section, domain) → AUC of the normal clips of that domain against all anomalies of the section."""
    pauc: dict[str, float]
    """Section → pAUC over all its domains."""

    @property
    def harmonic_mean(self) -> float:
        """Of every AUC and pAUC: the official score (Dohi et al., DCASE 2022 Task 2)."""
        values = np.maximum([*self.auc.values(), *self.pauc.values()], SMALLEST)
        return float(len(values) / (1.0 / values).sum())

    @property
    def text(self) -> str:
        """``source 0.812, target 0.655; harmonic mean with pAUC 0.671``, by section where there are several."""
        several = len(self.pauc) > 1
        shown = [
            f"{f'{section} ' if several else ''}{domain} {value:.3f}" for (section, domain), value in self.auc.items()
        ]
        return f"{', '.join(shown)}; harmonic mean with pAUC {self.harmonic_mean:.3f}"

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        by_section: dict[str, dict[str, float]] = {}
        for (section, domain), value in self.auc.items():
            by_section.setdefault(section, {})[domain] = value
        return {"auc": by_section, "pauc": self.pauc, "harmonic_mean": self.harmonic_mean}


def domain_scores(
    labels: np.ndarray, scores: np.ndarray, sections: Sequence[str], domains: Sequence[str]
) -> DomainScores | None:
    """Scores of labelled clips by domain; None where there are not several domains.

    A domain of a section without normal clips has no AUC.
    """
    if len(set(domains)) < 2:
        return None
    section_of, domain_of = np.array(sections), np.array(domains)
    aucs: dict[tuple[str, str], float] = {}
    paucs: dict[str, float] = {}
    for section in sorted(set(sections)):
        mine = section_of == section
        paucs[section] = pauc(labels[mine], scores[mine])
        for domain in sorted(set(domain_of[mine].tolist())):
            judged = mine & ((labels == 1) | (domain_of == domain))
            if (labels[judged] == 0).any():
                aucs[section, domain] = auc(labels[judged], scores[judged])
    return DomainScores(aucs, paucs)
