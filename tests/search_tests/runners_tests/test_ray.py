"""Searches on Ray itself: the same endings as in this process, crashes retried, a worker node lost in the middle."""

import json
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from search.runners.ray_session import ray_session
from tests.kill.slow_trial import SlowTrial, SlowTrials
from tests.search_tests.synthetic import SwallowsCtrlC, SyntheticTrial, make_conductor
from trainable.errors import CheckpointError, NonFiniteError, RunError
from trainable.record import RunFolder, TrialEnd, TrialStart
from trainable.units import MIB

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own, of its own modules
    pytest.mark.xdist_group("ray"),
]


class Faulty(SyntheticTrial):
    """Trial 1 diverges, 2 runs out of memory, 3 crashes always, 4 loses its worker once, 5 hangs once."""

    def step(self):
        number, marker = self.start.number, Path(os.environ["FAULTY_FOLDER"]) / str(self.start.number)
        if number == 1:
            raise NonFiniteError("loss is nan")
        if number == 2:
            raise MemoryError("no more")
        if number == 3:
            raise ValueError("not\nin one line")
        if number in (4, 5) and self.epoch == 1 and not marker.exists():
            marker.touch()
            if number == 4:
                os._exit(1)
            time.sleep(600)
        return super().step()


def run_on_ray(path: Path, factory, session=None, **options):
    from search.runners.ray_tune import RayRunner

    conductor = make_conductor(path, **options)
    ray_options = replace(conductor.options, local=False, trial_timeout_seconds=options.get("trial_timeout_seconds"))
    RayRunner(
        conductor,
        store=conductor.store,
        options=ray_options,
        trial_factory=factory,
        slots=session.slots(ray_options, "cpu"),
        nodes_now=session.nodes_now,
    ).run()
    return conductor


def test_every_fault_keeps_its_own_word_on_ray(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTY_FOLDER", str(tmp_path))
    options = make_conductor(tmp_path / "o", concurrency=2).options
    with ray_session(replace(options, local=False)) as session:
        conductor = run_on_ray(
            tmp_path / "run", Faulty, session, concurrency=2, max_failures=1, trial_timeout_seconds=15.0
        )
    outcomes = {record.number: record.outcome for record in conductor.store.folder.read_trials()}
    assert len(outcomes) == 8
    assert [outcomes[number].end for number in (1, 2, 3)] == [
        TrialEnd.NON_FINITE,
        TrialEnd.OUT_OF_MEMORY,
        TrialEnd.CRASHED,
    ]
    assert outcomes[3].reason == "ValueError: not in one line"
    assert [outcomes[number].failures for number in (1, 2, 3, 4, 5)] == [1] * 5
    for number in (0, 4, 5, 6, 7):
        assert outcomes[number].end in (TrialEnd.COMPLETED, TrialEnd.PRUNED)
    epochs = [report.epoch for report in conductor.store.folder.read_trial(4).epochs]
    assert epochs == list(range(1, outcomes[4].epochs + 1))


class Dies(SyntheticTrial):
    """Takes its worker with it."""

    def step(self):
        os._exit(1)


class NoRoom(SyntheticTrial):
    """The disk is full at the second epoch of trial 1."""

    def save(self, folder: Path) -> Path:
        if self.start.number == 1 and self.epoch == 2 and not Path(os.environ["FAULTY_FOLDER"], "room").exists():
            raise CheckpointError(f"checkpoint {folder} cannot be written: No space left on device; make room")
        return super().save(folder)


def test_what_is_not_a_trials_fault_ends_the_search_in_one_line(tmp_path, monkeypatch):
    """Workers that all die, a full disk under the checkpoints, under the folder and under the study."""
    monkeypatch.setenv("FAULTY_FOLDER", str(tmp_path))
    short = {"concurrency": 2, "max_epochs": 3, "grace_period": 3, "max_failures": 0}
    with ray_session(replace(make_conductor(tmp_path / "o", concurrency=2).options, local=False)) as session:
        dead = run_on_ray(tmp_path / "dead", Dies, session, num_samples=12, **short)
        assert "first 5 trials all failed in the same way: crashed: the worker was lost" in dead.stop_reason
        assert "actor_id" not in dead.stop_reason
        assert dead.started <= 5 + 1, "one more may have begun beside the fifth"

        with pytest.raises(RunError, match="cannot be written: No space left on device; make room") as caught:
            run_on_ray(tmp_path / "full", NoRoom, session, num_samples=4, **short)
        assert "\n" not in str(caught.value)
        ends = [record.outcome and record.outcome.end for record in RunFolder(tmp_path / "full").read_trials()]
        assert set(ends) <= {None, TrialEnd.COMPLETED}
        assert ends[1] is None, "it runs on"
        (tmp_path / "room").touch()
        ended = run_on_ray(tmp_path / "full", NoRoom, session, num_samples=4, **short)
        assert ended.standing.counts[TrialEnd.COMPLETED] == 4
        for record in ended.store.folder.read_trials():
            lines = (ended.store.folder.trial_path(record.number) / "epochs.jsonl").read_text().splitlines()
            assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]

        def refuse(self, number, report):
            raise RunError(f"epochs.jsonl of trial {number} cannot be written: No space left on device; make room")

        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "append_epoch", refuse)
            with pytest.raises(RunError, match=r"epochs\.jsonl of trial . cannot be written"):
                run_on_ray(tmp_path / "folder", SyntheticTrial, session, num_samples=4, **short)
        assert all(record.outcome is None for record in RunFolder(tmp_path / "folder").read_trials())


def test_a_swallowed_ctrl_c_ends_the_search_all_the_same(tmp_path):
    from search.runners.ray_tune import RayRunner

    before = signal.getsignal(signal.SIGINT)
    with ray_session(replace(make_conductor(tmp_path / "o", concurrency=1).options, local=False)) as session:
        for name, listener in (("kept", SwallowsCtrlC()), ("made", SwallowsCtrlC(raises=RuntimeError("of a library")))):
            conductor = make_conductor(tmp_path / name, num_samples=50, concurrency=1, max_epochs=3)
            conductor.listener = listener
            options = replace(conductor.options, local=False)
            slots = session.slots(options, "cpu")
            runner = RayRunner(
                conductor, store=conductor.store, options=options, trial_factory=SyntheticTrial, slots=slots
            )
            with pytest.raises(KeyboardInterrupt):
                runner.run()
            (record,) = conductor.store.folder.read_trials()
            assert [report.epoch for report in record.epochs] == [1]
            assert record.outcome is None, "it is there to be resumed"
    assert signal.getsignal(signal.SIGINT) is before


class Slowest(SyntheticTrial):
    """All epochs take longer than a trial may be silent, one takes far less."""

    def step(self):
        time.sleep(2)
        return super().step()


def test_a_trial_that_waits_for_a_worker_is_not_silent(tmp_path):
    """A second trial asks for a slot that there is not, as on a busy cluster; it waits longer than it may be silent."""
    from search.runners.packing import cpu_slots
    from search.runners.ray_tune import RayRunner

    conductor = make_conductor(tmp_path / "run", num_samples=2, max_epochs=7, grace_period=7, max_failures=0)
    options = replace(conductor.options, local=False, concurrency=2, trial_timeout_seconds=10.0)
    with ray_session(replace(options, concurrency=1)) as session:
        cpus = sum(node.cpus for node in session.nodes)
        (slot,) = [replace(cpu_slots(2, 2), request={"CPU": float(cpus)})]
        RayRunner(conductor, store=conductor.store, options=options, trial_factory=Slowest, slots=[slot]).run()
    outcomes = [record.outcome for record in conductor.store.folder.read_trials()]
    assert [(outcome.end, outcome.failures) for outcome in outcomes] == [(TrialEnd.COMPLETED, 0)] * 2


class OnNode(SlowTrials):
    """Each trial notes on which node it runs."""

    def __call__(self, start: TrialStart):
        import ray

        with Path(self._log_path).with_name("nodes.log").open("a") as log:
            log.write(f"{start.number} {ray.get_runtime_context().get_node_id()}\n")
        return _Slower(start, self._log_path)


class _Slower(SlowTrial):
    def step(self):
        time.sleep(0.3)
        return super().step()


@pytest.mark.long  # Ray takes a minute to declare a node dead
def test_a_cluster_loses_a_node_and_no_trial(tmp_path):
    """A head and two workers, each its own raylet; one worker is killed; GPUs are declared, not there."""
    from ray.cluster_utils import Cluster

    # The first Ray that starts in a process has it ask for a token from then on, and the cluster must have been told.
    with ray_session(replace(make_conductor(tmp_path / "o", concurrency=1).options, local=False)):
        assert os.environ["RAY_AUTH_MODE"] == "token"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for gpus, mib in ((1, 24 * 1024), (1, 80 * 1024)):
            cluster.add_node(num_cpus=2, num_gpus=gpus, resources={"gpu_memory_mib": mib, f"card{mib}": 1})
        conductor = make_conductor(tmp_path / "run", num_samples=24, seed=3, concurrency=3, max_failures=10)
        options = replace(
            conductor.options, local=False, address=cluster.address, budget_bytes=20 * 1024 * MIB, concurrency=3
        )
        with ray_session(options) as session:
            from search.runners.ray_tune import RayRunner

            slots = session.slots(options, "cuda")
            assert [kind.count for kind in slots] == [3, 1]
            runner = RayRunner(
                conductor,
                store=conductor.store,
                options=replace(options, concurrency=4),
                trial_factory=OnNode(str(tmp_path / "epochs.log")),
                slots=slots,
                nodes_now=session.nodes_now,
            )
            conductor.listener = _KillsOneOfTwo(cluster, tmp_path / "nodes.log")
            runner.run()
    finally:
        cluster.shutdown()
    records = conductor.store.folder.read_trials()
    assert len(records) == 24
    assert {record.outcome.end for record in records} <= {TrialEnd.COMPLETED, TrialEnd.PRUNED}
    assert conductor.listener.killed
    trained = Counter(tuple(map(int, line.split()[:2])) for line in (tmp_path / "epochs.log").read_text().splitlines())
    reported: dict[tuple[int, int], float] = {}
    for record in records:
        lines = (conductor.store.folder.trial_path(record.number) / "epochs.jsonl").read_text().splitlines()
        epochs = [json.loads(line)["epoch"] for line in lines]
        assert epochs == list(range(1, record.outcome.epochs + 1)), "nothing is lost and nothing reported twice"
        reported |= {(record.number, report.epoch): report.validation_auc for report in record.epochs}
        again = sum(count - 1 for (number, _), count in trained.items() if number == record.number)
        assert again <= record.outcome.failures, "one epoch for each time that the trial lost its worker"
    assert set(reported) == set(trained)
    assert conductor.listener.reported.items() <= reported.items(), "reports from before the loss stand"
    stored = conductor.store.study.trials()
    assert {
        (trial.number, epoch): value for trial in stored for epoch, value in trial.intermediate_values.items()
    } == reported


class _KillsOneOfTwo:
    """Kills a worker node, without a word to it, as soon as trials run on both."""

    def __init__(self, cluster, log: Path):
        self.cluster, self.log, self.killed = cluster, log, False
        self.reported: dict[tuple[int, int], float] = {}

    def on_start(self, start, *, resumed):
        """Nothing."""

    def on_report(self, number, report, decision):
        self.reported[number, report.epoch] = report.validation_auc
        nodes = {line.split()[1] for line in self.log.read_text().splitlines()}
        if len(nodes) == 2 and not self.killed:
            self.killed = True
            self.cluster.remove_node(sorted(self.cluster.worker_nodes, key=str)[0], allow_graceful=False)

    def on_end(self, start, outcome):
        """Nothing."""
