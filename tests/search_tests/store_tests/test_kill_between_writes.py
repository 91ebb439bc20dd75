"""A driver may be killed after any single write to the study: a resume gives the same trials and endings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState

from search.engine.conductor import Conductor
from search.runners.local import LocalRunner
from search.store.study import outcome_of
from tests.search_tests.synthetic import SyntheticTrial, make_conductor
from trainable.record import EpochReport, RunFolder, TrialEnd

OPTIONS: dict[str, Any] = {"num_samples": 1, "max_epochs": 2, "grace_period": 1, "max_failures": 0}
WRITES = frozenset(
    {"create_new_trial", "set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr"}
    | {"set_trial_state_values", "set_trial_param"}
)


class Killed(BaseException):
    """As a kill: nothing in the search catches it."""


class MortalStorage:
    """A storage that writes `lives` times; the driver dies right after the last of them."""

    def __init__(self, storage: Any, lives: int | None):
        self._storage, self._lives = storage, lives
        self.written: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        return self._counted(name, method) if name in WRITES else method

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **options: Any) -> Any:
            result = method(*args, **options)
            self.written.append((name, args[1] if name.endswith("_attr") else None))
            if len(self.written) == self._lives:
                raise Killed
            return result

        return write


class MeasuredTrial(SyntheticTrial):
    """Has measured memory, which becomes user attributes of the ending."""

    def step(self) -> EpochReport:
        report = super().step()
        return EpochReport(**{**report.__dict__, "peak_bytes": 110, "predicted_allocated_bytes": 100})


class FailingTrial(MeasuredTrial):
    """Runs out of memory in its second epoch."""

    def step(self) -> EpochReport:
        if self.epoch == 1:
            raise torch.OutOfMemoryError("out of memory")
        return super().step()


ENDINGS = [(MeasuredTrial, TrialEnd.COMPLETED), (FailingTrial, TrialEnd.OUT_OF_MEMORY)]


def drive(path: Path, factory: type[SyntheticTrial], lives: int | None = None) -> tuple[Conductor, MortalStorage]:
    conductor = make_conductor(path, **OPTIONS)
    writer = conductor.store.study._writer
    mortal = MortalStorage(writer._storage, lives)
    writer._storage = mortal  # type: ignore[assignment]
    try:
        LocalRunner(conductor, store=conductor.store, options=conductor.options, trial_factory=factory).run()
    except Killed:
        pass
    finally:
        mortal._storage.engine.dispose()
    return conductor, mortal


def facts(path: Path) -> tuple[Any, ...]:
    """What the study says of its only trial, its times aside."""
    study = make_conductor(path, **OPTIONS).store.study
    (trial,) = study.trials()
    study._writer._storage.engine.dispose()
    return trial.state, trial.value, trial.params, trial.intermediate_values, trial.user_attrs, trial.constraints


@pytest.mark.parametrize(("factory", "end"), ENDINGS, ids=[end for _, end in ENDINGS])
def test_a_kill_after_any_write_changes_nothing(tmp_path: Path, factory: type[SyntheticTrial], end: TrialEnd) -> None:
    _, undisturbed = drive(tmp_path / "whole/run", factory)
    whole = facts(tmp_path / "whole/run")
    assert whole[4]["outcome"]["end"] == end
    assert {"peak_bytes", "memory_error"} <= whole[4].keys()
    assert len(undisturbed.written) >= 7
    for lives in range(1, len(undisturbed.written) + 1):
        path = tmp_path / f"after {lives}/run"
        killed, mortal = drive(path, factory, lives)
        assert len(mortal.written) == lives, "killed there"
        (trial,) = killed.store.study.trials()
        ended = lives == len(undisturbed.written)
        assert trial.state.is_finished() == ended
        outcome_written = ("set_trial_user_attr", "outcome") in mortal.written
        assert (outcome_of(trial) is not None) == outcome_written
        killed.store.study._writer._storage.engine.dispose()
        resumed, again = drive(path, factory)
        assert resumed.done
        assert facts(path) == whole, mortal.written
        (record,) = RunFolder(path).read_trials()
        assert record.outcome is not None
        assert record.outcome.end == end
        if ended:
            assert again.written == []


@pytest.mark.parametrize(("factory", "end"), ENDINGS, ids=[end for _, end in ENDINGS])
def test_an_ending_begins_with_its_outcome_and_ends_with_its_state(
    tmp_path: Path, factory: type[SyntheticTrial], end: TrialEnd
) -> None:
    _, mortal = drive(tmp_path / "run", factory)
    assert mortal.written[0] == ("create_new_trial", None), "a trial begins in one transaction"
    first = next(place for place, (name, _) in enumerate(mortal.written) if name == "set_trial_user_attr")
    assert mortal.written[first] == ("set_trial_user_attr", "outcome")
    assert mortal.written[-1] == ("set_trial_state_values", None)
    failures = [key for name, key in mortal.written if name == "set_trial_system_attr"]
    assert failures == ([] if end is TrialEnd.COMPLETED else ["constraints:failure"])


def test_a_trial_over_budget_is_one_transaction(tmp_path: Path) -> None:
    conductor = make_conductor(tmp_path, budget_bytes=1000)
    mortal = MortalStorage(conductor.store.study._writer._storage, 1)
    conductor.store.study._writer._storage = mortal  # type: ignore[assignment]
    proposal = conductor.sampler.suggest(0, lambda params: False)
    proposal = replace(proposal, params={**proposal.params, "num_embeddings": 256, "latent_dim": 64})
    config = conductor.space.config(proposal.params, epochs=3)
    memory = conductor.feasibility.plan(config)
    with pytest.raises(Killed):
        conductor._record_over_budget(proposal, config, memory)
    (trial,) = make_conductor(tmp_path, budget_bytes=1000).store.study.trials()
    assert trial.state == TrialState.PRUNED
    assert trial.constraints["memory"] > 0
    outcome = outcome_of(trial)
    assert outcome is not None
    assert outcome.end is TrialEnd.OVER_BUDGET
