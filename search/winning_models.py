"""The trained models that a search ends with: the winner's, and those whose mean is the detector it leaves behind."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from search.options import SearchOptions
from search.store.checkpoints import checkpoint_place
from search.store.run_store import RunStore
from trainable.checkpoint_place import CheckpointPlace
from trainable.data.load import Dataset
from trainable.detection.detector import Member
from trainable.detection.finish import Finished, MemberPlan, finish
from trainable.detection.ranking import Pair
from trainable.device.out_of_memory import is_out_of_memory
from trainable.errors import BudgetError, CheckpointError, DataError, NonFiniteError
from trainable.record import TrialRecord, TrialStart
from trainable.redaction import one_line
from trainable.steps import Steps
from trainable.trial import Trial

logger = logging.getLogger(__name__)
SAME_AUC = 1e-9
"""AUCs this close come from the same scores: swapping a single pair of clips changes an AUC by more."""


@dataclass(frozen=True)
class Models:
    """Restores trained trials of a run from their checkpoints."""

    options: SearchOptions
    store: RunStore
    make_trial: Callable[[TrialStart], Trial]

    def stored(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Those whose checkpoints are there; a message names the others."""
        missing = [record.number for record in records if not self._is_stored(record)]
        if missing:
            named = ", ".join(f"trial {number}" for number in missing)
            logger.warning("the detector does without %s: no checkpoint is left", named)
        return [record for record in records if record.number not in missing]

    @contextmanager
    def restored(self, record: TrialRecord) -> Iterator[Trial]:
        """A trial as its last reported epoch left it; released at the end.

        Raises
        ------
        CheckpointError
            If its checkpoints are gone, or its last one is and retraining from an earlier one gives another value.
        BudgetError
            If this process's device cannot hold it, or runs out of memory while it is used: it may have less than those
            that trained.
        NonFiniteError
            If that retraining diverges.
        """
        with ExitStack() as closing:
            try:
                trial = self.make_trial(record.start)
                closing.callback(trial.release)
                place = self._place(record)
                closing.callback(place.forget_copy)
                place.fetch()
                trial.load(place.folder, record.epochs[-1].epoch)
                _train_to(trial, record)
                yield trial
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise BudgetError(f"memory ran out under the smallest plan: {one_line(error)}") from None

    def _is_stored(self, record: TrialRecord) -> bool:
        try:
            return self._place(record).size_bytes() > 0
        except CheckpointError:
            return True  # restoring it tells why its store cannot be reached

    def _place(self, record: TrialRecord) -> CheckpointPlace:
        return checkpoint_place(self.options, self.store.folder, self.store.study.run, record.number)


def _train_to(trial: Trial, record: TrialRecord) -> None:
    """Retrains a trial whose last checkpoint is lost up to its last reported epoch.

    Raises
    ------
    CheckpointError
        If its value differs from the reported one, so these are not the same weights.
    """
    epochs, value = record.epochs[-1].epoch, record.epochs[-1].value
    if trial.epoch == epochs:
        return
    logger.warning(
        "the last checkpoint of trial %d, epoch %d, is lost; training resumes from epoch %d",
        record.number,
        epochs,
        trial.epoch,
    )
    again = value
    while trial.epoch < epochs:
        again = trial.step().value
    if abs(again - value) > SAME_AUC:
        raise CheckpointError(
            f"its last checkpoint is lost, and retraining gives {again:.4f} for its {trial.dataset.objective.measure}, "
            f"not {value:.4f}; train its configuration from scratch with python -m trainable.train"
        )


@dataclass(frozen=True)
class Averaged:
    """The detector of a search, trained by the search itself."""

    pairs: tuple[Pair, ...]
    finished: Finished


def average(
    pairs: Sequence[Pair], records: Sequence[TrialRecord], models: Models, dataset: Dataset, steps: Steps
) -> tuple[Averaged | None, str]:
    """The mean of the pairs whose trials can be restored, or None and the reason if there is no such detector."""
    by_number = {record.number: record for record in records}
    of_trial: dict[int, list[Pair]] = {}
    for pair in pairs:
        of_trial.setdefault(pair.trial, []).append(pair)
    members: list[Member] = []
    used: list[Pair] = []
    reason = "no trial that trained long enough reports a density model"
    for number, mine in of_trial.items():
        steps.begin(f"restoring trial {number} for the detector")
        try:
            with models.restored(by_number[number]) as trial:
                member = Member.of_trial(trial, [pair.density for pair in mine])
                # Without its optimizer and off the card: eight models at once need not fit what one was planned for.
                members.append(Member.from_plain(member.to_plain(), torch.device("cpu")))
        except (CheckpointError, BudgetError, NonFiniteError) as error:
            reason = f"trial {number} cannot be restored: {error}"
            logger.warning("the detector does without trial %d: %s", number, error)
        else:
            used += mine
    if not members:
        return None, reason
    steps.begin("calibrating the detector and scoring held-out clips with it")
    try:
        finished = finish(
            members,
            [MemberPlan(pair.trial, pair.density) for pair in used],
            dataset,
            models.options.data.front_end,
            run=models.store.folder.path.resolve().name,
            epochs=[by_number[pair.trial].epochs[-1].epoch for pair in used],
        )
    except (DataError, NonFiniteError) as error:
        logger.warning("the search leaves no detector: %s", error)
        return None, str(error)
    return Averaged(tuple(used), finished), ""
