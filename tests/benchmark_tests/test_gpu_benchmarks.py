"""The GPU benchmarks on a machine without one: refusal, arguments, and the processes of the packing on a CPU."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_memory, gpu_packing, gpu_session
from benchmarks.tables import read_table
from benchmarks.together import Barrier, together
from tests.trainable_tests.fake_cuda import fake_cuda
from trainable.errors import ConfigError
from trainable.host import available_cores
from trainable.units import GIB

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@no_gpu
@pytest.mark.parametrize("module", [gpu_memory, gpu_packing], ids=["gpu_memory", "gpu_packing"])
def test_without_a_gpu_one_line_says_so(module) -> None:
    with pytest.raises(ConfigError, match=r"needs a CUDA GPU.*nothing was measured"):
        module.main([])


@pytest.mark.parametrize("text", ["", "0", "two", "1,,2", "-1", "1;2"])
def test_counts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--counts"):
        gpu_packing.parse_counts(text)


def test_counts_are_sorted_and_one_at_a_time_is_always_measured() -> None:
    assert gpu_packing.parse_counts("8,2,2") == (1, 2, 8)
    assert gpu_packing.parse_counts("1,2,4,8") == gpu_packing.COUNTS


def test_trials_an_hour_are_counted_over_all_trials() -> None:
    one, four = gpu_packing.rows_of({1: 10.0, 4: 20.0}, epochs=gpu_packing.EPOCHS_OF_A_TRIAL)
    assert one["trials_an_hour"] == pytest.approx(360)
    assert four["trials_an_hour"] == pytest.approx(720)
    assert (one["ratio"], four["ratio"]) == (1.0, pytest.approx(2.0))


def test_a_row_is_on_disk_before_the_next_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends_at_four(count: int, *_: object) -> float:
        if count == 4:
            raise KeyboardInterrupt
        return 10.0

    monkeypatch.setattr(gpu_packing, "packed_seconds", ends_at_four)
    monkeypatch.setattr(gpu_packing.torch, "zeros", lambda *_, **__: None)
    path = tmp_path / "packing.csv"
    with fake_cuda(8 * GIB), pytest.raises(KeyboardInterrupt):
        gpu_packing.main(["--counts", "1,2,4", "--output", str(path)])
    assert [(row["trials"], float(row["ratio"])) for row in read_table(path)] == [("1", 1.0), ("2", 2.0)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "growht"], "--only names growht; the sections are context, table"),
        (["--only", "growth", "--cases", "recipe*"], "--cases chooses cases of the section table, which --only growth"),
        (["--cases", "nothing"], "--cases 'nothing' matches no case"),
    ],
)
def test_a_session_refuses_what_it_does_not_have(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        gpu_session.main(["--output", str(tmp_path / "out"), *words])
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def answers_at_once(word: str, barrier: Barrier) -> tuple[str, int]:
    barrier.wait()
    return word, torch.get_num_threads()


def dies(how: str, barrier: Barrier) -> None:
    if how == "killed":
        os._exit(9)
    if how == "killed while it waits":
        threading.Timer(0.3, os._exit, [9]).start()
    if how == "out of memory":
        raise torch.OutOfMemoryError("CUDA out of memory")
    barrier.wait()


def one_dies(how: str, path: str, barrier: Barrier) -> None:
    """The process that comes first dies, the other waits for it."""
    try:
        os.mkdir(path)
    except FileExistsError:
        time.sleep(2)  # so that the first one dies before both wait
        return dies("no", barrier)
    return dies(how, barrier)


@pytest.mark.slow
def test_processes_start_together_share_the_cores_and_all_return() -> None:
    results = together(answers_at_once, 2, "begun", between=lambda release: release())
    threads = max(1, available_cores() // 2)
    assert results == [("begun", threads), ("begun", threads)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("killed", "died without an error"),
        ("killed while it waits", "died without an error"),
        ("out of memory", "OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_one_that_dies_ends_the_waiting_of_all(how: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        together(one_dies, 2, how, str(tmp_path / "first"), between=lambda release: release())


@pytest.mark.slow
def test_one_that_sends_nothing_has_failed() -> None:
    with pytest.raises(ConfigError, match="sent nothing for"):
        together(answers_at_once, 1, "begun", between=lambda release: None, seconds=-1.0)
