"""Work on many recordings: in order, few results at a time, and a line where it takes long."""

import io
import threading
import time

import pytest
import torch

import trainable.data.parallel as parallel
from trainable.data.parallel import in_parallel, one_torch_thread, without_progress


def test_results_come_in_order_whatever_takes_longest() -> None:
    def work(item: int) -> int:
        time.sleep(0.02 * (item % 5 == 0))
        return item * item

    assert list(in_parallel(work, range(60), "done")) == [item * item for item in range(60)]
    assert list(in_parallel(work, [], "done")) == []


def test_few_results_wait_for_whoever_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "available_cores", lambda: 5)
    begun: list[int] = []
    results = in_parallel(begun.append, range(1_000), "done")
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 5 * parallel._WAITING + 1
    results.close()
    assert threading.active_count() < 10


def test_what_fails_ends_the_work_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "available_cores", lambda: 5)
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(in_parallel(work, range(1_000), "done"))
    assert len(begun) < 100


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "log"])
def test_long_work_says_how_far_it_is_and_short_work_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    list(in_parallel(str, range(100), "recordings read"))
    assert stream.getvalue() == ""
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    list(in_parallel(str, range(100), "recordings read"))
    said = stream.getvalue()
    assert "of 100 recordings read, 1 a second, " in said
    if stream.isatty():
        assert "\n" not in said
        assert said.endswith("\r\033[K")
    else:
        assert len(said.splitlines()) == 10
        assert "\r" not in said


def test_quiet_work_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(parallel, "_LINE_S", 0.0)
    with without_progress():
        list(in_parallel(str, range(100), "recordings read"))
    assert capsys.readouterr().err == ""
    list(in_parallel(str, range(100), "recordings read"))
    assert "recordings read" in capsys.readouterr().err


@pytest.mark.parametrize("threads", [1, 3])
def test_torch_has_its_threads_again(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with one_torch_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
