"""A search killed again and again loses no reported result, repeats none, and ends with the trials asked for."""

import contextlib
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from search.study import SearchStudy
from tests.kill.driver import MAX_EPOCHS
from trainable.record import RunFolder, TrialEnd

TRIALS, SLOTS = 60, 2
ROOT = Path(__file__).parents[2]


class Killed:
    """What a search told before each kill, and what must be there at the end."""

    def __init__(self, folder: Path, mode: str):
        self.folder, self.mode = folder, mode
        self.told: dict[tuple[int, int], float] = {}
        self.ended: dict[int, TrialEnd] = {}
        self.kills = 0
        self.running_at_kills = 0

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.kill.driver", str(self.folder), str(TRIALS), str(SLOTS), self.mode]
        with (self.folder / "stderr.log").open("ab") as errors:
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)

    def note(self) -> None:
        """Reads what is durable now, and checks that nothing noted before has changed."""
        now: dict[tuple[int, int], float] = {}
        for record in RunFolder(self.folder / "run").read_trials():
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
        records = RunFolder(self.folder / "run").read_trials()
        assert len(records) == TRIALS
        assert {record.outcome.end for record in records} <= {TrialEnd.COMPLETED, TrialEnd.PRUNED}
        study = SearchStudy.in_folder(self.folder / "run/study.db", "run")
        trials = study.trials()
        assert [trial.number for trial in trials] == list(range(TRIALS))
        assert all(trial.state.is_finished() for trial in trials)
        for record, trial in zip(records, trials, strict=True):
            reported = {report.epoch: report.validation_auc for report in record.epochs}
            assert trial.intermediate_values == reported
            assert sorted(reported) == list(range(1, record.outcome.epochs + 1))
            lines = (RunFolder(self.folder / "run").trial_path(record.number) / "epochs.jsonl").read_text().splitlines()
            assert len(lines) == len(reported), "an epoch was told twice"
            if record.outcome.end is TrialEnd.COMPLETED:
                assert record.outcome.epochs == MAX_EPOCHS
        trained = Counter(tuple(line.split()[:2]) for line in (self.folder / "epochs.log").read_text().splitlines())
        again = sum(count - 1 for count in trained.values())
        assert again <= self.running_at_kills, f"{again} epochs trained twice, {self.running_at_kills} running"


def kill_a_worker(driver: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """Kills one of the driver's processes in which trials run; False if there is none now."""
    workers = [child for child in _children(driver) if "ray::synthetic " in " ".join(child.cmdline())]
    if workers:
        rng.choice(workers).kill()
    return bool(workers)


def kill_everything(driver: subprocess.Popen[bytes]) -> None:
    """The driver and all of its Ray at once, as a power cut would."""
    children = _children(driver)
    for process in (psutil.Process(driver.pid), *children):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    driver.wait()
    psutil.wait_procs(children, timeout=10)


def _children(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(driver.pid).children(recursive=True)


@pytest.mark.timeout(120)
def test_local_driver_killed_five_times(tmp_path):
    kill_at_random(Killed(tmp_path, "local"), kills=5, seed=0, wait=(1.2, 2.5))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_local_driver_killed_thirty_times(tmp_path):
    kill_at_random(Killed(tmp_path, "local"), kills=30, seed=1, wait=(1.0, 1.8))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ray_driver_and_workers_killed_thirty_times(tmp_path):
    """Two kills of a worker to one of the driver with all of Ray."""
    killed = Killed(tmp_path, "ray")
    rng = random.Random(2)
    process = killed.start()
    while killed.kills < 30 and process.poll() is None:
        time.sleep(rng.uniform(1.0, 3.0))
        if not (tmp_path / "epochs.log").exists():
            continue
        if rng.random() < 0.67:
            if kill_a_worker(process, rng):
                killed.kills += 1
                killed.running_at_kills += 1
        else:
            kill_everything(process)
            killed.kills += 1
            killed.running_at_kills += SLOTS
            killed.note()
            process = killed.start()
            time.sleep(6)
    assert killed.kills >= 30, f"the search ended after {killed.kills} kills; give it more trials"
    assert process.wait(600) == 0
    killed.check_end()


def kill_at_random(killed: Killed, *, kills: int, seed: int, wait: tuple[float, float]) -> None:
    rng = random.Random(seed)
    for _ in range(kills):
        process = killed.start()
        time.sleep(rng.uniform(*wait))
        process.kill()
        process.wait()
        killed.kills += 1
        killed.running_at_kills += SLOTS
        if (killed.folder / "run").exists():
            killed.note()
    process = killed.start()
    assert process.wait(300) == 0, (killed.folder / "stderr.log").read_text()[-2000:]
    killed.check_end()
