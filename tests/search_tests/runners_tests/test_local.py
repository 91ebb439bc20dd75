"""Whole searches in this process, on a synthetic learning curve."""

import shutil
from pathlib import Path

import pytest

from search.runners.local import LocalRunner
from tests.search_tests.synthetic import SwallowsCtrlC, SyntheticTrial, make_conductor
from trainable.detection.ranking import LEADERS
from trainable.errors import BudgetError, NonFiniteError
from trainable.record import RunFolder, TrialEnd, TrialStart
from trainable.training.checkpoint import list_checkpoints, write_checkpoint


def run(path: Path, factory=SyntheticTrial, **options):
    conductor = make_conductor(path, **options)
    LocalRunner(conductor, store=conductor.store, options=conductor.options, trial_factory=factory).run()
    return conductor


def table(path: Path):
    return [
        (record.start.params, record.start.config.seed, record.outcome, [e.validation_auc for e in record.epochs])
        for record in RunFolder(path).read_trials()
    ]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_same_seed_twice_gives_the_same_table(tmp_path, concurrency):
    first = run(tmp_path / "a", concurrency=concurrency, seed=5, num_samples=12)
    run(tmp_path / "b", concurrency=concurrency, seed=5, num_samples=12)
    run(tmp_path / "c", concurrency=concurrency, seed=6, num_samples=12)
    assert table(tmp_path / "a") == table(tmp_path / "b")
    assert table(tmp_path / "a") != table(tmp_path / "c")
    assert first.done
    assert sum(first.standing.counts.values()) == 12
    assert first.standing.counts[TrialEnd.PRUNED] >= 4
    assert first.standing.counts[TrialEnd.COMPLETED] >= 1
    kept = [path for path in (tmp_path / "a/trials").glob("*/checkpoints") if any(path.iterdir())]
    assert {int(path.parent.name) for path in kept} == set(first.standing.kept)


def test_a_stopped_trial_that_leads_keeps_the_checkpoint_of_its_last_report(tmp_path):
    conductor = run(tmp_path, seed=5, num_samples=8, grace_period=3)
    records = [conductor.store.folder.read_trial(number) for number in conductor.standing.kept]
    assert TrialEnd.PRUNED in {record.outcome.end for record in records}
    for record in records:
        checkpoints = list_checkpoints(conductor.store.folder.checkpoint_path(record.number))
        assert max(checkpoints) == record.epochs[-1].epoch


def test_models_of_completed_trials_stay_where_those_of_stopped_ones_are_gone(tmp_path):
    """As in a run of an earlier version, which kept no model of a trial that ASHA stopped."""
    options = {"seed": 5, "num_samples": 14, "grace_period": 3}
    conductor = run(tmp_path, **options)
    folder = conductor.store.folder
    records = folder.read_trials()
    completed = [each.number for each in records if each.outcome.end is TrialEnd.COMPLETED]
    assert len(completed) <= LEADERS, "the earlier version kept them all"
    assert not set(completed) <= set(conductor.standing.kept), "some made room for stopped ones"
    for record in records:
        shutil.rmtree(folder.checkpoint_path(record.number), ignore_errors=True)
        if record.number in completed:
            write_checkpoint(folder.checkpoint_path(record.number) / "epoch-000009.ckpt", {"epoch": 9})
    again = run(tmp_path, **options)
    assert set(again.standing.kept) == set(completed)
    assert all(list_checkpoints(folder.checkpoint_path(number)) for number in completed)


def test_interrupted_search_goes_on_and_ends_with_the_same_trials(tmp_path):
    class Interrupted(SyntheticTrial):
        steps = 0

        def step(self):
            Interrupted.steps += 1
            if Interrupted.steps in (7, 20):
                raise KeyboardInterrupt
            return super().step()

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a", Interrupted, seed=5, num_samples=12)
    resumed = run(tmp_path / "a", seed=5, num_samples=12)
    run(tmp_path / "b", seed=5, num_samples=12)
    assert table(tmp_path / "a") == table(tmp_path / "b")
    assert resumed.started == 12
    study = resumed.store.study.trials()
    assert all(trial.state.is_finished() for trial in study)


def test_a_crash_is_retried_from_the_checkpoint(tmp_path):
    class Flaky(SyntheticTrial):
        crashes = 0

        def step(self):
            if self.start.number == 1 and self.epoch == 2 and Flaky.crashes < 2:
                Flaky.crashes += 1
                raise OSError("the data read hung")
            return super().step()

    conductor = run(tmp_path / "a", Flaky, max_failures=2)
    record = conductor.store.folder.read_trial(1)
    assert record.outcome.failures == 2
    assert record.outcome.end in (TrialEnd.COMPLETED, TrialEnd.PRUNED)
    assert [report.epoch for report in record.epochs] == list(range(1, len(record.epochs) + 1))


@pytest.mark.parametrize("epoch", [2, 3], ids=["after its report", "before the report of what may be its last"])
def test_a_checkpoint_that_cannot_be_written_is_its_trials_fault(tmp_path, epoch):
    class Unsaved(SyntheticTrial):
        failed = 0

        def save(self, folder):
            if self.start.number == 1 and self.epoch == epoch and Unsaved.failed < 2:
                Unsaved.failed += 1
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super().save(folder)

    conductor = run(tmp_path / "a", Unsaved, max_failures=2, grace_period=3)
    record = conductor.store.folder.read_trial(1)
    assert record.outcome.failures == 2
    assert [report.epoch for report in record.epochs] == list(range(1, len(record.epochs) + 1))
    assert all(each.outcome is not None for each in conductor.store.folder.read_trials())


@pytest.mark.parametrize(
    "full",
    [
        MemoryError("no more"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        BudgetError("no plan fits what the driver leaves of the budget"),
    ],
)
def test_every_fault_keeps_its_own_word(tmp_path, full):
    def factory(start: TrialStart):
        class Faulty(SyntheticTrial):
            def step(self):
                if start.number == 1:
                    raise NonFiniteError("loss is nan")
                if start.number == 2:
                    raise full
                if start.number == 3:
                    raise ValueError("not\nin one line")
                return super().step()

        return Faulty(start)

    conductor = run(tmp_path / "a", factory, max_failures=1)
    ends = [record.outcome.end for record in conductor.store.folder.read_trials()]
    assert ends[1:4] == [TrialEnd.NON_FINITE, TrialEnd.OUT_OF_MEMORY, TrialEnd.CRASHED]
    assert conductor.store.folder.read_trial(3).outcome.reason == "ValueError: not in one line"
    assert conductor.store.folder.read_trial(3).outcome.failures == 1
    trials = conductor.store.study.trials()
    assert [trial.constraints for trial in trials[1:4]] == [{"failure": 1.0}] * 3


def test_the_same_failure_five_times_first_ends_the_search(tmp_path):
    class Broken(SyntheticTrial):
        def step(self):
            raise RuntimeError(f"cannot open device {self.start.number}")

    conductor = run(tmp_path / "a", Broken, num_samples=20, max_failures=0)
    assert conductor.started == 5
    assert "first 5 trials all failed in the same way" in conductor.stop_reason
    assert "cannot open device" in conductor.stop_reason


def test_a_swallowed_ctrl_c_ends_the_search_all_the_same(tmp_path):
    conductor = make_conductor(tmp_path / "run", num_samples=50, concurrency=2, max_epochs=3)
    conductor.listener = SwallowsCtrlC()
    with pytest.raises(KeyboardInterrupt):
        LocalRunner(conductor, store=conductor.store, options=conductor.options, trial_factory=SyntheticTrial).run()
    records = conductor.store.folder.read_trials()
    assert [[report.epoch for report in record.epochs] for record in records] == [[1], []]
    assert all(record.outcome is None for record in records)
