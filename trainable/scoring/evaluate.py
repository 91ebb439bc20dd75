"""Evaluates codes with the configured density model, and with the cheap ones beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from trainable.config import DensityName, ScoreConfig
from trainable.data.clips import TestClips
from trainable.errors import NonFiniteError
from trainable.scoring.clip_counts import ClipCounts, auc_text
from trainable.scoring.codes import ClipCodes
from trainable.scoring.combined import Combined, Fused
from trainable.scoring.density import DensityModel
from trainable.scoring.domains import DomainScores, domain_scores
from trainable.scoring.metrics import auc, auc_interval, groups_by_id, mean_auc, pauc
from trainable.scoring.registry import cheap_densities, make_density


@dataclass(frozen=True)
class Evaluation:
    """Quality of scores on labelled clips."""

    auc: float
    """Mean over machine ids."""
    pauc: float
    """Standardised, max_fpr 0.1, mean over machine ids."""
    auc_by_id: dict[str, float]
    pauc_by_id: dict[str, float]
    scores: np.ndarray
    """float64 (clips,), higher = more anomalous."""
    names: tuple[str, ...]
    machine_ids: tuple[str, ...]
    labels: np.ndarray
    domains: tuple[str, ...] = ()
    """Of each clip, or empty."""

    @cached_property
    def by_domain(self) -> DomainScores | None:
        """AUCs by section and domain; None where the clips are not of several domains."""
        return domain_scores(self.labels, self.scores, self.machine_ids, self.domains)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `auc` (see `auc_interval`), computed on demand; epochs do not need it."""
        return auc_interval(self.labels, self.scores, self.machine_ids)

    @property
    def clips(self) -> ClipCounts:
        """The clips that judged."""
        return ClipCounts.of(self.labels)

    @property
    def text(self) -> str:
        """The AUC with its interval and the clips that it rests on."""
        return auc_text(self.auc, self.interval, self.clips)


@dataclass(frozen=True)
class ScoreReport:
    """One epoch's validation."""

    evaluation: Evaluation | None
    """On labelled clips; None where they do not judge."""
    auc_by_density: dict[str, float]
    comparison_auc: dict[str, float]
    """AUC of reconstruction and quantization error: for comparison only, never optimised."""
    pseudo_auc_by_density: dict[str, dict[str, float]]
    """Density model → family of pseudo-anomalies → AUC; empty where they do not judge."""


def evaluate(scores: np.ndarray, clips: TestClips) -> Evaluation:
    """AUC, pAUC and interval of scores. Raises NonFiniteError for a NaN, DataError for an id of one label only."""
    if not np.isfinite(scores).all():
        raise NonFiniteError("the density model returned a score that is not finite")
    labels = clips.labels
    groups = groups_by_id(clips.machine_ids, labels)
    auc_by_id = {machine_id: auc(labels[m], scores[m]) for machine_id, m in groups.items()}
    pauc_by_id = {machine_id: pauc(labels[m], scores[m]) for machine_id, m in groups.items()}
    return Evaluation(
        auc=float(np.mean(list(auc_by_id.values()))),
        pauc=float(np.mean(list(pauc_by_id.values()))),
        auc_by_id=auc_by_id,
        pauc_by_id=pauc_by_id,
        scores=scores,
        names=clips.names,
        machine_ids=clips.machine_ids,
        labels=labels,
        domains=clips.domains,
    )


def evaluate_codes(
    config: ScoreConfig, train: ClipCodes, test: ClipCodes, clips: TestClips, codebook_KD: Tensor, *, seed: int
) -> Evaluation:
    """Fits the configured density model to the training codes and evaluates it on labelled clips."""
    model = make_density(config, seed=seed).fit(train, codebook_KD)
    return evaluate(model.score_samples(test), clips)


def fitted_densities(
    config: ScoreConfig, train: ClipCodes, codebook_KD: Tensor, *, seed: int
) -> dict[DensityName, DensityModel]:
    """The configured density model and every cheap one, by name, fitted to the training codes."""
    fused = Fused(config, seed=seed).fit(train, codebook_KD)
    fitted: dict[DensityName, DensityModel] = {
        model.name: model for model in (fused, fused.part(Combined), *fused.fitted_members())
    }
    return {
        name: fitted.get(name) or make_density(config, name=name, seed=seed).fit(train, codebook_KD)
        for name in dict.fromkeys((config.density, *cheap_densities()))
    }


def all_scores(densities: Mapping[DensityName, DensityModel], codes: ClipCodes) -> dict[DensityName, np.ndarray]:
    """Scores of clips by each of the models of `fitted_densities`, float64 (B,).

    A combination takes what its members gave where all of them are among the models, and scores by itself elsewhere.
    """
    scores = {name: each.score_samples(codes) for name, each in densities.items() if not isinstance(each, Combined)}
    for name, each in densities.items():
        if isinstance(each, Combined):
            told = all(kind.name in scores for kind in each.kinds)
            scores[name] = each.scores_from_members(scores, codes) if told else each.score_samples(codes)
    return scores


def report_scores(
    densities: Mapping[DensityName, DensityModel],
    optimised: DensityName,
    *,
    labelled: tuple[ClipCodes, TestClips] | None,
    pseudo: tuple[ClipCodes, Callable[[np.ndarray], dict[str, float]]] | None,
    comparison: Mapping[str, np.ndarray],
) -> ScoreReport:
    """Evaluation of the optimised density model, AUC of every other one, and of scores for comparison.

    Parameters
    ----------
    labelled
        Labelled clips and their codes, or None.
    pseudo
        Codes of pseudo-anomalies, and what gives their scores an AUC by family; or None.
    comparison
        Scores of the labelled clips by name.
    """
    evaluation: Evaluation | None = None
    aucs: dict[str, float] = {}
    compared: dict[str, float] = {}
    pseudo_aucs: dict[str, dict[str, float]] = {}
    if labelled is not None:
        codes, clips = labelled
        scores = all_scores(densities, codes)
        evaluation = evaluate(scores[optimised], clips)
        aucs = {name: mean_auc(clips.labels, values, clips.machine_ids) for name, values in scores.items()}
        compared = {name: mean_auc(clips.labels, values, clips.machine_ids) for name, values in comparison.items()}
    if pseudo is not None:
        codes, by_family = pseudo
        pseudo_aucs = {name: by_family(values) for name, values in all_scores(densities, codes).items()}
    return ScoreReport(evaluation, aucs, compared, pseudo_aucs)
