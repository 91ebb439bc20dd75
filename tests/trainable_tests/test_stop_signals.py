"""Signals that ask a command to end are raised once, wherever they arrive, and are not lost."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from trainable import stop_signals
from trainable.stop_signals import SIGNALS, Stopped, stopped


@pytest.fixture(autouse=True)
def as_from_a_shell() -> Iterator[None]:
    """What starts the tests may ignore some of the signals, as nohup does."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_is_raised_with_its_word_and_status(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as caught, stop_signals.raised():
        os.kill(os.getpid(), number)
    assert caught.value.cause == ("Ctrl-C" if number is signal.SIGINT else number.name)
    assert caught.value.exit_status == 128 + number
    assert signal.getsignal(number) is before


def test_a_second_signal_does_not_disturb_the_clean_up_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned = []
    with stop_signals.raised():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except Stopped:
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned.append("the first")
        monkeypatch.setattr(stop_signals, "CLEAN_UP_SECONDS", 0.0)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
    assert cleaned == ["the first"]


def test_a_signal_that_the_shell_ignores_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_signals.raised():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_a_library_swallows_is_on_record() -> None:
    seen: list[KeyboardInterrupt] = []
    with stop_signals.raised(), stop_signals.recorded(seen.append):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            swallowed = error
    assert seen == [swallowed]
    assert stopped(seen[0]).signal is signal.SIGTERM


def test_handlers_that_a_library_replaces_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals.kept():
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_has_no_signals_and_needs_none() -> None:
    done = []

    def work() -> None:
        with stop_signals.raised(), stop_signals.recorded(done.append), stop_signals.kept():
            done.append(None)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [None]


def test_a_library_that_raises_an_interrupt_of_its_own_does_not_hide_the_signal() -> None:
    def interrupted() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None

    with stop_signals.raised(), pytest.raises(KeyboardInterrupt) as caught:
        interrupted()
    assert stopped(caught.value).signal is signal.SIGTERM
