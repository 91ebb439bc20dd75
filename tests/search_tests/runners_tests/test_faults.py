"""What goes wrong in a trial and what goes wrong around it: retried, recorded by its word, or stopped and resumed."""

import contextlib
import errno
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayTaskError

from search.engine.conductor import Conductor
from search.engine.standing import failure_kind
from search.options import SearchOptions
from search.runners import deadline as module
from search.runners import ray_tune
from search.runners.deadline import TrialTimeoutError, deadline
from search.runners.local import LocalRunner
from search.runners.packing import SlotKind
from search.runners.ray_faults import caused_by_low_memory, dead_parts, ray_failure, reason_of
from search.store.checkpoints import CheckpointKeeper
from tests.search_tests.synthetic import SyntheticTrial, make_conductor
from trainable.errors import CheckpointError, NonFiniteError, RunError
from trainable.record import RunFolder, TrialEnd
from trainable.training.checkpoint import list_checkpoints, write_checkpoint
from trainable.units import GIB


def drive(conductor: Conductor, factory: Any = SyntheticTrial) -> Conductor:
    LocalRunner(conductor, store=conductor.store, options=conductor.options, trial_factory=factory).run()
    return conductor


def epochs(path: Path) -> list[list[int]]:
    return [[report.epoch for report in record.epochs] for record in RunFolder(path).read_trials()]


# ---- the last epoch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", ["before", "after"])
def test_killed_at_its_last_report_a_trial_ends_with_the_weights_that_it_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    options = {"num_samples": 1, "max_epochs": 3, "grace_period": 3}
    conductor, report = make_conductor(tmp_path, **options), Conductor.report

    def dying(self: Conductor, number: int, epoch_report: Any) -> Any:
        if epoch_report.epoch < 3:
            return report(self, number, epoch_report)
        if killed == "after":
            report(self, number, epoch_report)
        raise KeyboardInterrupt

    monkeypatch.setattr(Conductor, "report", dying)
    with pytest.raises(KeyboardInterrupt):
        drive(conductor)
    monkeypatch.undo()
    assert list(list_checkpoints(conductor.store.folder.checkpoint_path(0)))[-1] == 3, "saved before it is reported"
    drive(make_conductor(tmp_path, **options))
    assert epochs(tmp_path) == [[1, 2, 3]]
    assert list(list_checkpoints(conductor.store.folder.checkpoint_path(0))) == [2, 3]


def test_a_trial_goes_on_from_no_later_epoch_than_it_has_reported(tmp_path: Path) -> None:
    """As when the study is restored from a copy that is older than the checkpoints."""
    conductor = make_conductor(tmp_path, num_samples=1, max_epochs=6, grace_period=6)
    start = conductor.next_trial()
    assert start is not None
    trial = SyntheticTrial(start)
    conductor.report(0, trial.step())
    for _ in range(4):
        trial.save(conductor.store.folder.checkpoint_path(0))
        trial.step()
    write_checkpoint(conductor.store.folder.checkpoint_path(0) / "epoch-000001.ckpt", {"epoch": 1})
    drive(make_conductor(tmp_path, num_samples=1, max_epochs=6, grace_period=6))
    assert epochs(tmp_path) == [[1, 2, 3, 4, 5, 6]]
    assert list(list_checkpoints(conductor.store.folder.checkpoint_path(0))) == [5, 6]


# ---- what a trial may do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (NonFiniteError("loss is nan"), TrialEnd.NON_FINITE),
        (MemoryError("no more"), TrialEnd.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("no more"), TrialEnd.OUT_OF_MEMORY),
        (OSError(errno.EIO, "a sector is gone"), TrialEnd.CRASHED),
        (ValueError("no such thing"), TrialEnd.CRASHED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_fault_is_retried_from_the_checkpoint_as_often_as_asked(
    tmp_path: Path, error: Exception, end: TrialEnd
) -> None:
    begun: list[int] = []

    class Faulty(SyntheticTrial):
        def step(self):
            if self.epoch == 1:
                begun.append(self.epoch)
                raise error
            return super().step()

    conductor = drive(make_conductor(tmp_path, num_samples=1, max_failures=3), Faulty)
    outcome = conductor.store.folder.read_trial(0).outcome
    assert outcome is not None
    assert (outcome.end, outcome.failures, outcome.epochs) == (end, 3, 1)
    assert begun == [1] * 4


def test_a_fault_that_passes_leaves_no_trace_but_its_count(tmp_path: Path) -> None:
    class Once(SyntheticTrial):
        failed = False

        def step(self):
            if self.epoch == 2 and not Once.failed:
                Once.failed = True
                raise NonFiniteError("a bit flipped")
            return super().step()

    conductor = drive(make_conductor(tmp_path, num_samples=1, max_epochs=3, grace_period=3), Once)
    outcome = conductor.store.folder.read_trial(0).outcome
    assert outcome is not None
    assert (outcome.end, outcome.failures) == (TrialEnd.COMPLETED, 1)


def test_a_trial_may_be_retried_a_thousand_times(tmp_path: Path) -> None:
    class Broken(SyntheticTrial):
        def __init__(self, start: Any):
            raise ValueError("cannot be made")

    conductor = make_conductor(tmp_path, num_samples=1, max_failures=400)
    conductor.store.study.restarted = lambda number, failures: None  # type: ignore[method-assign]
    drive(conductor, Broken)
    outcome = conductor.store.folder.read_trial(0).outcome
    assert outcome is not None
    assert outcome.failures == 400


def test_a_read_that_hangs_ends_in_this_process_too(tmp_path: Path) -> None:
    class Hanging(SyntheticTrial):
        def step(self):
            if self.start.number == 1:
                reading, _writing = os.pipe()
                os.read(reading, 1)  # nothing ever comes
            return super().step()

    conductor = drive(
        make_conductor(tmp_path, num_samples=2, max_failures=1, trial_timeout_seconds=1.0, max_epochs=1), Hanging
    )
    outcome = conductor.store.folder.read_trial(1).outcome
    assert outcome is not None
    assert (outcome.end, outcome.failures) == (TrialEnd.CRASHED, 1)
    assert outcome.reason == "TrialTimeoutError: no report for more than 1 s"


def test_a_deadline_ends_also_what_swallows_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.5)
    swallowed = 0

    def catching_everything() -> None:
        nonlocal swallowed
        while swallowed < 2:
            with contextlib.suppress(TrialTimeoutError):
                signal.pause()
            swallowed += 1
        signal.pause()

    with pytest.raises(TrialTimeoutError, match=r"no report for more than 0\.1 s"), deadline(0.1):
        catching_everything()
    assert swallowed == 2
    assert signal.getitimer(signal.ITIMER_REAL)[1] == 0.0, "it fires no more"


def test_a_deadline_that_passes_on_the_way_out_leaves_no_timer_and_no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes again and again, at whatever instruction of the leaving there is."""
    monkeypatch.setattr(module, "AGAIN_SECONDS", 1e-4)
    before = signal.getsignal(signal.SIGALRM)
    for _ in range(300):
        with contextlib.suppress(TrialTimeoutError), deadline(1e-4):
            signal.pause()
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 0.0
        assert signal.getsignal(signal.SIGALRM) is before


def test_a_deadline_gives_the_timer_back_and_is_none_where_there_are_no_signals() -> None:
    rung: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    before = signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        with deadline(500):
            assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 500
        assert 500 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
        with pytest.raises(TrialTimeoutError), deadline(0.01):
            time.sleep(30)
        assert 500 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
        with deadline(None):
            assert 500 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
        passed: list[bool] = []

        def elsewhere() -> None:
            with deadline(0.01):
                passed.append(True)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert passed == [True]
        assert rung == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, *before)
        signal.signal(signal.SIGALRM, handler)


# ---- what is not the trial's fault -----------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["save", "last save", "load", "step"])
def test_a_place_that_is_full_or_away_stops_the_search_and_leaves_its_trials_to_be_resumed(
    tmp_path: Path, moment: str
) -> None:
    options = {"num_samples": 3, "max_epochs": 3, "grace_period": 3, "concurrency": 2, "max_failures": 0}

    class NoRoom(SyntheticTrial):
        def save(self, folder):
            if (moment == "save" and self.epoch == 2) or (moment == "last save" and self.epoch == 3):
                raise CheckpointError(f"checkpoint {folder} cannot be written: No space left on device; make room")
            return super().save(folder)

        def step(self):
            if moment == "step" and self.epoch == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/x")
            if moment == "load" and self.epoch == 2:
                raise CheckpointError("checkpoints at s3://bucket cannot be read: no route to host")
            return super().step()

    with pytest.raises((CheckpointError, RunError)) as caught:
        drive(make_conductor(tmp_path, **options), NoRoom)
    assert "\n" not in str(caught.value)
    records = RunFolder(tmp_path).read_trials()
    assert [record.outcome for record in records] == [None, None]
    conductor = drive(make_conductor(tmp_path, **options))
    assert conductor.standing.counts[TrialEnd.COMPLETED] == 3
    assert epochs(tmp_path) == [[1, 2, 3]] * 3


# ---- everything fails alike ------------------------------------------------------------------------------------------

ACTOR = "The actor died unexpectedly before finishing this task. class_name: _Inner actor_id: {id} pid: {pid} ip: {ip}"


@pytest.mark.parametrize(
    "reason",
    [
        ACTOR,
        "RuntimeError: no device at 0x{id} in /tmp/session_{pid}/worker-{id}",
        "OSError: /data/{id}/normal_id_{pid}.wav is damaged at byte {pid}",
        "cannot allocate {pid} bytes",
    ],
)
def test_what_differs_from_trial_to_trial_does_not_make_another_failure(tmp_path: Path, reason: str) -> None:
    conductor = make_conductor(tmp_path, num_samples=20, max_failures=0)
    for index in range(5):
        start = conductor.next_trial()
        assert start is not None
        text = reason.format(id=f"{index * 7919:06x}ab{index}d", pid=1000 + index, ip=f"10.0.0.{index}")
        conductor.finish(start.number, conductor.failed(start.number, TrialEnd.CRASHED, text))
    assert "first 5 trials all failed in the same way" in str(conductor.stop_reason)


def test_words_are_not_taken_for_identities() -> None:
    assert failure_kind("a decade of faded facade") == "a decade of faded facade"
    assert failure_kind("size mismatch: 3 and 4") == failure_kind("size mismatch: 5 and 12")
    assert failure_kind("ValueError: bad width") != failure_kind("ValueError: bad depth")


def died(message: str) -> ActorDiedError:
    context = ActorDiedErrorContext(error_message=message, actor_id=os.urandom(16), pid=os.getpid(), class_name="Trial")
    return ActorDiedError(context)


LOST = "The actor is dead because its worker process has died. Worker exit type: {} Worker exit detail: it is gone"


@pytest.mark.parametrize(
    ("error", "end", "reason"),
    [
        (died(LOST.format("SYSTEM_ERROR")), TrialEnd.CRASHED, "the worker was lost (exit type SYSTEM_ERROR)"),
        (died("The actor died because its node has died."), TrialEnd.CRASHED, "the worker was lost with its node"),
        (died(LOST.format("NODE_OUT_OF_MEMORY")), TrialEnd.OUT_OF_MEMORY, "the worker was killed: its node ran low on"),
        (died("Task was killed due to the node running low on memory."), TrialEnd.OUT_OF_MEMORY, "the worker was kil"),
        (OutOfMemoryError("Task was killed"), TrialEnd.OUT_OF_MEMORY, "the worker was killed: its node ran low on mem"),
        (ActorUnavailableError("away", b"1" * 16), TrialEnd.CRASHED, "the worker was lost"),
        (ValueError("not\nin one line"), TrialEnd.CRASHED, "ValueError: not in one line"),
    ],
)
def test_a_lost_worker_is_said_in_one_sentence_that_is_the_same_each_time(
    error: Exception, end: TrialEnd, reason: str
) -> None:
    assert isinstance(error, Exception)
    failure = reason_of(error)
    assert failure[0] is end
    assert failure[1].startswith(reason)
    assert "actor_id" not in failure[1]


def test_a_worker_that_cannot_be_made_says_why() -> None:
    task = RayTaskError(
        "setup", "Traceback\n  File x\nImportError: no module named y", ImportError("no module named y")
    )
    assert "ImportError: no module named y" in reason_of(ActorDiedError(task))[1]


def test_trials_are_charged_with_a_worker_killed_for_want_of_memory_and_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trial 1 has lost its worker, trial 0's lives, and trial 2 waits for one."""
    conductor = make_conductor(tmp_path, concurrency=3)
    session = ray_tune._Session(conductor, conductor.store, conductor.options, [SlotKind({"CPU": 1.0}, 3, 0)], None)
    for trial_id in "abc":
        start = conductor.next_trial()
        assert start is not None
        session.begin(trial_id, start)
    session.placed[0].worker, session.placed[1].worker = "alive", "killed"
    killed = {"alive": None, "killed": (TrialEnd.OUT_OF_MEMORY, "its node ran low on memory")}
    monkeypatch.setattr(ray_tune, "kill_worker", killed.get)
    session.place_anew()
    assert [start.number for start in session.waiting] == [1, 0, 2]
    assert [conductor.running[number].failures for number in range(3)] == [0, 1, 0]
    assert session.placed == {}

    start = session.next_trial()
    assert start is not None
    session.begin("d", start)
    session.placed[start.number].worker = "alive"
    with pytest.raises(RunError, match="no worker was killed; continue with --resume"):
        session.place_anew()


def test_low_memory_is_found_in_what_ray_tune_makes_of_it() -> None:
    error = RuntimeError("Caught unexpected exception")
    assert not caused_by_low_memory(error)
    error.__cause__ = OutOfMemoryError("1 worker(s) were killed")
    assert caused_by_low_memory(error)


def test_a_full_disk_under_ray_itself_is_one_line() -> None:
    failure = ray_failure(ray.tune.TuneError("wrapped: [Errno 28] No space left on device: 'x'"), "/tmp/search-1")
    assert isinstance(failure, RunError)
    assert str(failure).startswith("Ray cannot write to /tmp/search-1: No space left on device; make room")
    other = ValueError("something else")
    assert ray_failure(other, "/tmp") is other


# ---- the ceiling on checkpoints --------------------------------------------------------------------------------------


class Fat(SyntheticTrial):
    """Saves a kilobyte an epoch, and remembers what was there at most."""

    root = Path()
    most: dict[str, int] = {}  # noqa: RUF012

    def save(self, folder: Path) -> Path:
        path = super().save(folder)
        path.write_bytes(path.read_bytes() + b"x" * (10_000 - path.stat().st_size))
        return path

    def load(self, folder: Path, at_most: int | None = None) -> int:
        self.epoch = max(epoch for epoch in list_checkpoints(folder) if at_most is None or epoch <= at_most)
        return self.epoch

    def step(self):
        stored = sum(path.stat().st_size for path in Fat.root.rglob("*.ckpt"))
        Fat.most["bytes"] = max(Fat.most.get("bytes", 0), stored)
        return super().step()


def stored(path: Path) -> dict[int, list[int]]:
    found = {int(folder.parent.name): list(list_checkpoints(folder)) for folder in path.glob("trials/*/checkpoints")}
    return {number: checkpoints for number, checkpoints in sorted(found.items()) if checkpoints}


@pytest.mark.parametrize("limit", [30_000, 60_000, None])
def test_the_ceiling_holds_for_what_runs_and_what_leads_together(tmp_path: Path, limit: int | None) -> None:
    Fat.root, Fat.most = tmp_path, {}
    options = {"num_samples": 8, "max_epochs": 4, "grace_period": 4, "concurrency": 2}
    conductor = drive(make_conductor(tmp_path, checkpoint_limit_bytes=limit, **options), Fat)
    leaders = conductor.standing.kept
    assert leaders[0] in stored(tmp_path), "the winner's stays"
    if limit is None:
        assert set(stored(tmp_path)) == set(leaders)
        assert Fat.most["bytes"] > 60_000
        return
    # One epoch of each running trial is written before the keeper looks.
    assert Fat.most["bytes"] <= limit + 2 * 10_000
    assert sum(len(each) for each in stored(tmp_path).values()) * 10_000 <= limit
    assert epochs(tmp_path) == [[1, 2, 3, 4]] * 8


def test_a_ceiling_that_running_trials_alone_pass_is_said_and_nothing_they_need_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Fat.root, Fat.most = tmp_path, {}
    drive(make_conductor(tmp_path, checkpoint_limit_bytes=15_000, num_samples=4, max_epochs=3, concurrency=2), Fat)
    assert caplog.text.count("more than --checkpoint-limit (14.6 KiB)") == 1
    assert all(record.outcome is not None for record in RunFolder(tmp_path).read_trials())


def test_there_is_a_ceiling_unless_another_is_asked_for() -> None:
    assert SearchOptions(space="x").checkpoint_limit_bytes == 10 * GIB


def test_what_killed_processes_left_is_swept_at_the_start(tmp_path: Path) -> None:
    options = {"num_samples": 10, "max_epochs": 2, "grace_period": 1}
    conductor = drive(make_conductor(tmp_path, **options))
    folder = conductor.store.folder
    loser = next(number for number in range(10) if number not in conductor.standing.kept)
    write_checkpoint(folder.checkpoint_path(loser) / "epoch-000001.ckpt", {"epoch": 1})
    more = make_conductor(tmp_path, **{**options, "num_samples": 11})
    start = more.next_trial()
    assert start is not None
    for name in (".epoch-000001.ckpt.4711.tmp", "epoch-000001.ckpt"):
        folder.checkpoint_path(start.number).mkdir(exist_ok=True)
        (folder.checkpoint_path(start.number) / name).write_bytes(b"x")
    before = stored(tmp_path)
    again = make_conductor(tmp_path, **{**options, "num_samples": 11})
    keeper = CheckpointKeeper(again.options, folder, again.store.study.run)
    keeper.sweep(again.running, again.standing)
    assert not folder.checkpoint_path(loser).exists()
    assert stored(tmp_path) == {number: each for number, each in before.items() if number != loser}
    assert [path.name for path in folder.checkpoint_path(start.number).iterdir()] == ["epoch-000001.ckpt"]


def test_sweeping_a_shared_storage_leaves_other_runs_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    store = tmp_path / "store"
    options = {"num_samples": 4, "max_epochs": 2, "grace_period": 1, "storage_path": str(store)}
    conductor = drive(make_conductor(tmp_path / "run", **options))
    (store / "other/00000").mkdir(parents=True)
    (store / "other/00000/epoch-000001.ckpt").write_bytes(b"x")
    (store / "run/00003").mkdir(exist_ok=True)
    (store / "run/00077").mkdir()
    (store / "run/notes.txt").write_text("mine")
    drive(make_conductor(tmp_path / "run", **options))
    leaders = {f"{number:05d}" for number in conductor.standing.kept}
    assert {path.name for path in (store / "run").iterdir() if path.is_dir()} <= leaders | {"00003"}
    assert (store / "other/00000/epoch-000001.ckpt").exists()
    assert (store / "run/notes.txt").exists()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_a_process_that_ray_cannot_do_without_is_missed_once_it_has_died(tmp_path: Path) -> None:
    for name in ("raylet", "dashboard"):
        shutil.copy(shutil.which("sleep") or "/bin/sleep", tmp_path / name)
    begun = [subprocess.Popen([str(tmp_path / name), "600"]) for name in ("raylet", "dashboard")]
    assert dead_parts() == []
    for process in begun:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # as Ray, which does not ask
    assert dead_parts() == ["raylet"]
    for process in begun:
        process.wait()
    assert dead_parts() == []
