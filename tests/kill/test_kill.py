"""A search killed again and again loses no reported result, repeats none, and ends with the trials asked for.

What is killed is ``python -m search.run`` itself (`tests.kill.driver`), with real trials and real checkpoints. A kill
counts only if the search has trained since it was started or killed last, and the trials it hit are known: each may
train one epoch again for each kill that hit it, and no other may train any again.
"""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest

from search.store.study import SearchStudy
from tests.analysis_tests.trained import write_recordings
from tests.kill.driver import HOARD_BYTES
from tests.search_tests.store_tests.test_postgres import PASSWORD, Server, server
from tests.search_tests.test_run import SPACE
from trainable.detection.ranking import LEADERS, competing
from trainable.record import EpochReport, RunFolder, TrialEnd

__all__ = ["server"]  # PostgreSQL's, a fixture
MAX_EPOCHS = 6
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
ROOT = Path(__file__).parents[2]


class Killed:
    """A search, what it had told before each kill, and what must be there at the end."""

    def __init__(self, folder: Path, trials: int, *flags: str, storage: str | None = None):
        self.folder, self.trials, self.storage = folder, trials, storage
        self.run, self.log = RunFolder(folder / "run"), folder / "epochs.log"
        self.told: dict[tuple[int, int], float] = {}
        self.ended: dict[int, TrialEnd] = {}
        self.kills = 0
        self.hits: Counter[int] = Counter()
        self.grown = 0
        machine = write_recordings(folder / "machines", machine_type="press", train=6, test=4)
        (folder / "space.yaml").write_text(SPACE.replace("width: 0.25", "width: 0.125"))
        options = ["--machine-type", "press", "--max-epochs", str(MAX_EPOCHS), "--grace-period", "2", "--seed", "3"]
        options += ["--num-samples", str(trials), "--max-failures", "1000", "--quiet", *flags]
        self._storage = [] if storage is None else ["--study-storage", storage]
        self.begin = ["--space", str(folder / "space.yaml"), "--data-root", str(machine), *options]

    def start(self, output: Path | None = None) -> subprocess.Popen[bytes]:
        """The search, begun or gone on with."""
        self.grown = self.lines()
        words = [*self.begin, *self._storage, "--output", str(output or self.run.path)]
        if output is None and self.run.manifest_path.exists():
            words = ["--resume", str(self.run.path), "--quiet", *self._storage]
        environment = {**os.environ, "KILL_LOG": str(self.log if output is None else output.with_suffix(".log"))}
        environment.setdefault("OMP_NUM_THREADS", "1")
        with (self.folder / "stderr.log").open("ab") as errors:
            command = [sys.executable, "-m", "tests.kill.driver", *words]
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # tests may run under nohup
            )

    def lines(self) -> int:
        """Epochs trained so far."""
        return len(self.log.read_bytes().splitlines()) if self.log.exists() else 0

    def trains(self, process: subprocess.Popen[bytes]) -> bool:
        """Waits until an epoch was trained since the start or the last kill; False if the search ends before."""
        while self.lines() <= self.grown:
            if process.poll() is not None:
                return False
            time.sleep(0.01)
        return True

    def ends_in_one_line(self, process: subprocess.Popen[bytes], said: str) -> None:
        """Waits for a search that has lost what it needs, and notes what it has told."""
        assert process.wait(300) == 2
        *_, line = (self.folder / "stderr.log").read_text().splitlines()
        assert line.startswith("error: ")
        assert said in line
        assert "--resume" in line
        assert "Traceback" not in (self.folder / "stderr.log").read_text()
        self.hit(self.running())
        self.note()

    def running(self) -> list[int]:
        return [number for number in self.run.numbers() if not (self.run.trial_path(number) / "end.json").exists()]

    def hit(self, numbers: list[int]) -> None:
        """A kill that counts."""
        self.kills += 1
        self.hits.update(numbers)
        self.grown = self.lines()

    def note(self) -> None:
        """Reads what is durable now, and checks that nothing noted before has changed."""
        now: dict[tuple[int, int], float] = {}
        for record in self.run.read_trials():
            for report in record.epochs:
                now[record.number, report.epoch] = report.validation_auc
            if record.outcome is not None:
                assert self.ended.setdefault(record.number, record.outcome.end) == record.outcome.end
        lost = set(self.told) - set(now)
        assert not lost, f"reported results lost: {sorted(lost)}"
        assert all(now[key] == value for key, value in self.told.items()), "a reported result changed"
        self.told = now

    def check_end(self) -> None:
        self.note()
        records = self.run.read_trials()
        assert len(records) == self.trials
        assert {record.outcome.end for record in records} <= {TrialEnd.COMPLETED, TrialEnd.PRUNED}
        manifest = self.run.read_manifest()
        if self.storage is None:
            study = SearchStudy.in_folder(self.run.study_path, manifest.study_name, manifest.identity)
        else:
            study = SearchStudy(self.storage, manifest.study_name, manifest.identity, shared=True)
        trials = study.trials()
        study._writer._storage.engine.dispose()
        assert [trial.number for trial in trials] == list(range(self.trials))
        assert all(trial.state.is_finished() for trial in trials)
        for record, trial in zip(records, trials, strict=True):
            reported = {report.epoch: report.validation_auc for report in record.epochs}
            assert trial.intermediate_values == reported
            assert sorted(reported) == list(range(1, record.outcome.epochs + 1))
            lines = (self.run.trial_path(record.number) / "epochs.jsonl").read_text().splitlines()
            assert len(lines) == len(reported), "an epoch was reported twice"
            if record.outcome.end is TrialEnd.COMPLETED:
                assert record.outcome.epochs == MAX_EPOCHS
        self.check_repetition()
        summary = json.loads(self.run.summary_path.read_text())
        assert summary["best"]["held_out_auc"] is not None, "the winner's checkpoint is there"
        leaders = {int(path.parent.name) for path in self.run.path.glob("trials/*/checkpoints")}
        assert leaders <= {record.number for record in competing(records)}, "losers' checkpoints are gone"
        assert len(leaders) <= LEADERS + 1, "those of the winner and of what the detector chooses from"

    def check_repetition(self) -> None:
        trained = Counter(tuple(int(word) for word in line.split()[:2]) for line in self.log.read_text().splitlines())
        again: Counter[int] = Counter()
        for (number, _), count in trained.items():
            again[number] += count - 1
        assert all(again[number] <= self.hits[number] for number in again), (dict(again), dict(self.hits))
        told = {
            (number, report.epoch) for number in self.run.numbers() for report in self.run.read_trial(number).epochs
        }
        assert told <= set(trained)
        # A trial that was hit between training and report may be ended by ASHA when the search is resumed.
        untold = Counter(number for number, _ in set(trained) - told)
        assert all(
            count <= 1 and self.hits[number] and self.ended[number] is TrialEnd.PRUNED
            for number, count in untold.items()
        )
        print(f"{self.kills} kills, {sum(self.hits.values())} trials hit, {sum(again.values())} epochs trained again")


def kill_a_worker(process: subprocess.Popen[bytes], killed: Killed, rng: random.Random) -> bool:
    """Kills one of the processes in which trials run; False if there is none now."""
    workers = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = " ".join(child.cmdline()).split()
            if words[:1] == ["ray::space"]:
                workers[int(words[1])] = child
    running = sorted(workers.keys() & set(killed.running()))
    if not running:
        return False
    number = rng.choice(running)
    workers[number].kill()
    killed.hit([number])
    return True


def kill_everything(process: subprocess.Popen[bytes], killed: Killed) -> None:
    """The driver and all of its Ray at once, as a power cut would."""
    children = psutil.Process(process.pid).children(recursive=True)
    for each in (psutil.Process(process.pid), *children):
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()
    psutil.wait_procs(children, timeout=10)
    killed.hit(killed.running())
    killed.note()


def kill_drivers(killed: Killed, *, kills: int, seed: int) -> None:
    """Kills the search in this process, or asks it to end, at random moments of its training; then lets it end."""
    rng = random.Random(seed)
    process = killed.start()
    while killed.kills < kills:
        assert killed.trains(process), f"the search ended after {killed.kills} kills; give it more trials"
        time.sleep(rng.uniform(0, 0.4))
        assert process.poll() is None, f"the search ended after {killed.kills} kills; give it more trials"
        process.send_signal(number := SIGNALS[killed.kills % len(SIGNALS)])
        assert process.wait() == (-number if number == signal.SIGKILL else 128 + number)
        killed.hit(killed.running())
        killed.note()
        process = killed.start()
    assert process.wait(1800) == 0, (killed.folder / "stderr.log").read_text()[-2000:]
    killed.check_end()


def test_local_driver_killed_five_times(tmp_path):
    kill_drivers(Killed(tmp_path, 14, "--local", "--concurrency", "2"), kills=5, seed=0)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_local_driver_killed_thirty_times(tmp_path):
    """One trial at a time: then the killed search is, trial by trial, the one that nobody killed."""
    killed = Killed(tmp_path, 60, "--local")
    kill_drivers(killed, kills=30, seed=1)
    whole = killed.start(tmp_path / "whole")
    assert whole.wait(1800) == 0
    for one, other in zip(killed.run.read_trials(), RunFolder(tmp_path / "whole").read_trials(), strict=True):
        assert (one.start.params, one.outcome) == (other.start.params, other.outcome)
        assert [_without_clocks(each) for each in one.epochs] == [_without_clocks(each) for each in other.epochs]
    runs = killed.run, RunFolder(tmp_path / "whole")
    best, best_of_whole = (json.loads(run.summary_path.read_text())["best"] for run in runs)
    assert best == best_of_whole


def _without_clocks(report: EpochReport) -> EpochReport:
    """A report without the times that the machine took."""
    return replace(report, **{each.name: 0.0 for each in fields(report) if each.name.endswith("seconds")})


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_ray_driver_and_workers_killed_thirty_times(tmp_path):
    """Two kills of a worker to one of the driver with all of Ray."""
    killed = Killed(tmp_path, 120, "--concurrency", "2")
    rng = random.Random(2)
    process = killed.start()
    while killed.kills < 30:
        assert killed.trains(process), f"the search ended after {killed.kills} kills; give it more trials"
        time.sleep(rng.uniform(0, 1.0))
        if rng.random() < 0.67:
            kill_a_worker(process, killed, rng)
        else:
            kill_everything(process, killed)
            process = killed.start()
    assert process.wait(1800) == 0, (tmp_path / "stderr.log").read_text()[-2000:]
    killed.check_end()


@pytest.mark.long
def test_a_ray_that_dies_is_one_line_and_charged_to_no_trial(tmp_path):
    killed = Killed(tmp_path, 4, "--concurrency", "2", "--max-failures", "0")
    process = killed.start()
    assert killed.trains(process)
    started = psutil.Process(process.pid).children(recursive=True)
    next(each for each in started if each.name() == "raylet").kill()
    killed.ends_in_one_line(process, "Ray on this machine has died (its process raylet was killed")
    _, alive = psutil.wait_procs(started, timeout=60)
    assert alive == []
    assert killed.start().wait(600) == 0
    killed.check_end()


@pytest.mark.long
def test_a_worker_for_which_memory_runs_out_is_killed_and_its_trial_goes_on(tmp_path, monkeypatch):
    """By Ray's memory monitor, whose threshold is set between what Ray and two workers need and what one takes."""
    memory = psutil.virtual_memory()
    if memory.available < 2 * HOARD_BYTES:
        pytest.skip("too little memory to take some")
    used = memory.total - memory.available
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{(used + 0.8 * HOARD_BYTES) / memory.total:.3f}")
    monkeypatch.setenv("KILL_HOARD", str(tmp_path / "hoarder"))
    killed = Killed(tmp_path, 12, "--concurrency", "2")
    killed.begin.remove("--quiet")
    assert killed.start().wait(900) == 0, (tmp_path / "stderr.log").read_text()[-2000:]
    told = (tmp_path / "stderr.log").read_text()
    assert "Traceback" not in told
    number = int((tmp_path / "hoarder").read_text())
    assert f"trial {number} failed and resumes from its checkpoint: the worker was killed: its node ran low" in told
    killed.hit([int(other) for other in re.findall(r"trial (\d+) (?:failed and resumes|begins its epoch again)", told)])
    killed.check_end()


@pytest.mark.long
def test_a_database_that_goes_in_mid_search_is_one_line_and_loses_nothing(server: Server, tmp_path):
    killed = Killed(tmp_path, 6, "--local", storage=server.url)
    process = killed.start()
    assert killed.trains(process)
    server.stop()
    killed.ends_in_one_line(process, "cannot be written")
    assert PASSWORD not in (tmp_path / "stderr.log").read_text()
    server.start()
    assert killed.start().wait(600) == 0
    killed.check_end()
