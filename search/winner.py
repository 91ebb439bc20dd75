"""The best trial of a search and its detector, scored on held-out clips."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from search.engine.conductor import Conductor
from search.store.run_store import RunStore
from search.winning_models import Averaged, Models, average
from trainable.config import Objective
from trainable.data.clips import Split
from trainable.data.load import Dataset
from trainable.detection.ranking import Pair, choose_members, ranking_warnings
from trainable.errors import BudgetError, CheckpointError, NonFiniteError, RunError
from trainable.record import EpochReport, TrialStart
from trainable.scoring.evaluate import Evaluation
from trainable.steps import Steps
from trainable.trial import Trial
from trainable.yardsticks.comparison import Comparison, compare

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Winner:
    """The best configuration and its evaluations."""

    start: TrialStart
    objective: Objective
    last: EpochReport
    """The report of its last epoch."""
    validation: Evaluation | None = None
    """None if no label judges, or the checkpoint cannot be read; the study still has the AUC."""
    held_out: Evaluation | None = None
    unmeasured: str = ""
    """Why there is no held-out evaluation; empty if there is one."""
    yardsticks: Comparison | None = None
    """What yardsticks find on the same held-out clips, beside the detector."""
    averaged: Averaged | None = None
    """The detector."""
    no_detector: str = ""
    """Why there is none; empty if there is one."""
    warnings: tuple[str, ...] = ()
    """What makes the choice worth less."""

    @property
    def epochs(self) -> int:
        return self.last.epoch

    @property
    def few_clips(self) -> tuple[str, ...]:
        """That few clips judge, if they do."""
        judged = self.judged or self.validation
        return (judged.clips.warning,) if judged is not None and judged.clips.few else ()

    @property
    def members(self) -> tuple[Pair, ...]:
        """The pairs that the detector averages."""
        return () if self.averaged is None else self.averaged.pairs

    @property
    def detector_held_out(self) -> Evaluation | None:
        """None if there is no detector, or no anomaly is labelled."""
        return None if self.averaged is None else self.averaged.finished.held_out

    @property
    def judged(self) -> Evaluation | None:
        """What held-out clips say of the detector, or of the best trial where there is none."""
        return self.detector_held_out or self.held_out


def find_winner(
    conductor: Conductor,
    store: RunStore,
    dataset: Dataset,
    make_trial: Callable[[TrialStart], Trial],
    steps: Steps | None = None,
) -> Winner | None:
    """The completed trial with the highest final value, and the detector that averages the best pairs; both are scored
    here on held-out clips, if there are any, for the first time.

    None if no trial completed. `steps` are told what is done.

    Raises
    ------
    RunError
        If the reports of the best trial are lost.
    """
    if conductor.best is None:
        return None
    steps = steps or Steps()
    leaders = [store.folder.read_trial(number) for number in conductor.standing.kept]
    record = leaders[0]
    if not record.epochs:
        path = store.folder.trial_path(record.number)
        raise RunError(f"the reports of trial {record.number}, the best, are not in {path}; restore it from a copy")
    winner = Winner(record.start, dataset.objective, record.epochs[-1])
    if dataset.objective.holds_back:
        winner = replace(winner, warnings=tuple(ranking_warnings(store.folder.read_trials())))
    models = Models(conductor.options, store, make_trial)
    stored = models.stored(leaders)
    pairs = choose_members(stored)
    steps.expect(2 * dataset.labelled + len({pair.trial for pair in pairs}) + 1)
    if dataset.labelled:
        steps.begin("scoring held-out clips with the winner")
        try:
            with models.restored(record) as trial:
                by_labels = dataset.objective is not Objective.NORMAL_ONLY
                validation = trial.evaluate(Split.VALIDATION) if by_labels else None
                winner = replace(winner, validation=validation, held_out=trial.evaluate(Split.HELD_OUT))
        except (BudgetError, CheckpointError, NonFiniteError) as error:
            logger.warning("the winner's held-out AUC cannot be measured: %s", error)
            winner = replace(winner, unmeasured=str(error))
    else:
        winner = replace(winner, unmeasured="no anomaly is labelled")
    averaged, reason = (
        average(pairs, leaders, models, dataset, steps) if stored else (None, "no trial has a checkpoint left")
    )
    winner = replace(winner, averaged=averaged, no_detector=reason)
    if winner.judged is None:
        return winner
    steps.begin("training the yardsticks and scoring held-out clips with them")
    return replace(winner, yardsticks=compare(record.start.config, dataset, winner.judged))
