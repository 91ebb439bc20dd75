"""Searches on Ray itself: the same endings as in this process, crashes retried, a worker node lost in the middle."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from search.ray_session import ray_session
from tests.kill.slow_trial import SlowTrial, SlowTrials
from tests.search_tests.synthetic import SyntheticTrial, make_conductor
from trainable.errors import NonFiniteError
from trainable.record import TrialEnd, TrialStart
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
    from search.ray_runner import RayRunner

    conductor = make_conductor(path, **options)
    ray_options = replace(conductor.options, local=False, trial_timeout_seconds=options.get("trial_timeout_seconds"))
    RayRunner(
        conductor,
        run_folder=conductor.folder,
        options=ray_options,
        trial_factory=factory,
        slots=session.slots(ray_options, "cpu"),
        nodes_now=session.nodes_now,
    ).run()
    return conductor


@pytest.mark.timeout(180)
def test_every_fault_keeps_its_own_word_on_ray(tmp_path, monkeypatch):
    monkeypatch.setenv("FAULTY_FOLDER", str(tmp_path))
    options = make_conductor(tmp_path / "o", concurrency=2).options
    with ray_session(replace(options, local=False)) as session:
        conductor = run_on_ray(
            tmp_path / "run", Faulty, session, concurrency=2, max_failures=1, trial_timeout_seconds=6.0
        )
    outcomes = {record.number: record.outcome for record in conductor.folder.read_trials()}
    assert len(outcomes) == 8
    assert [outcomes[number].end for number in (1, 2, 3)] == [
        TrialEnd.NON_FINITE,
        TrialEnd.OUT_OF_MEMORY,
        TrialEnd.CRASHED,
    ]
    assert outcomes[3].reason == "ValueError: not in one line"
    assert [outcomes[number].failures for number in (3, 4, 5)] == [1, 1, 1]
    for number in (0, 4, 5, 6, 7):
        assert outcomes[number].end in (TrialEnd.COMPLETED, TrialEnd.PRUNED)
    epochs = [report.epoch for report in conductor.folder.read_trial(4).epochs]
    assert epochs == list(range(1, outcomes[4].epochs + 1))


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
@pytest.mark.timeout(600)
def test_a_cluster_loses_a_node_and_no_trial(tmp_path):
    """A head and two workers, each its own raylet; one worker is killed; GPUs are declared, not there."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for gpus, mib in ((1, 24 * 1024), (1, 80 * 1024)):
            cluster.add_node(num_cpus=2, num_gpus=gpus, resources={"gpu_memory_mib": mib, f"card{mib}": 1})
        conductor = make_conductor(tmp_path / "run", num_samples=24, seed=3, concurrency=3, max_failures=10)
        options = replace(
            conductor.options, local=False, address=cluster.address, budget_bytes=20 * 1024 * MIB, concurrency=3
        )
        with ray_session(options) as session:
            from search.ray_runner import RayRunner

            slots = session.slots(options, "cuda")
            assert [kind.count for kind in slots] == [3, 1]
            runner = RayRunner(
                conductor,
                run_folder=conductor.folder,
                options=replace(options, concurrency=4),
                trial_factory=OnNode(str(tmp_path / "epochs.log")),
                slots=slots,
                nodes_now=session.nodes_now,
            )
            conductor.listener = _KillsOneOfTwo(cluster, tmp_path / "nodes.log")
            runner.run()
    finally:
        cluster.shutdown()
    outcomes = [record.outcome.end for record in conductor.folder.read_trials()]
    assert len(outcomes) == 24
    assert set(outcomes) <= {TrialEnd.COMPLETED, TrialEnd.PRUNED}
    assert conductor.listener.killed


class _KillsOneOfTwo:
    """Kills a worker node, without a word to it, as soon as trials run on both."""

    def __init__(self, cluster, log: Path):
        self.cluster, self.log, self.killed = cluster, log, False

    def on_start(self, start, *, resumed):
        """Nothing."""

    def on_report(self, number, report, decision):
        nodes = {line.split()[1] for line in self.log.read_text().splitlines()}
        if len(nodes) == 2 and not self.killed:
            self.killed = True
            self.cluster.remove_node(sorted(self.cluster.worker_nodes, key=str)[0], allow_graceful=False)

    def on_end(self, start, outcome):
        """Nothing."""
