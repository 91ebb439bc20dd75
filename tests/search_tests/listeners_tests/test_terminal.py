"""What the person at the terminal sees: the live table, plain lines where there is no terminal, or nothing."""

import io
import logging
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from search.engine.asha import Decision
from search.listeners.terminal import (
    SHOWN_TRIALS,
    TALL,
    Heartbeat,
    LiveView,
    PlainLines,
    headline,
    make_view,
    memory_text,
)
from tests.search_tests.listeners_tests.test_progress import ended, make, report, start
from trainable.record import TrialEnd

GIB = 2**30


def console(*, terminal: bool, width: int = 125) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=50, highlight=False, color_system=None
    )


def drawn(view: LiveView, width: int = 125) -> str:
    """The table as it stands now, without the terminal's control codes."""
    flat = console(terminal=False, width=width)
    flat.print(view._draw())
    return flat.file.getvalue()


def a_search():
    """Two trials run, one of them measured; one completed, one was pruned, one crashed, one was over the budget."""
    progress = make()
    for number, end in ((0, TrialEnd.COMPLETED), (1, TrialEnd.PRUNED), (2, TrialEnd.CRASHED)):
        progress.on_start(start(number), resumed=False)
        progress.on_report(number, report(1, 0.6 + 0.1 * number), Decision.CONTINUE)
        progress.on_end(start(number), ended(end, 1))
    progress.on_end(start(3), ended(TrialEnd.OVER_BUDGET, 0, None))
    progress.on_start(start(4, num_embeddings=64, learning_rate=0.0023456), resumed=False)
    progress.on_start(start(5, num_embeddings=32), resumed=False)
    progress.on_report(
        4, report(7, 0.752, phase=2, peak_bytes=2 * GIB, predicted_bytes=int(2.5 * GIB)), Decision.CONTINUE
    )
    return progress


def test_the_live_table_says_what_runs_how_well_and_how_long_still():
    progress = a_search()
    text = drawn(LiveView(console(terminal=True), progress))
    lines = text.splitlines()
    assert lines[0].strip() == "3 of 6 trials ended: 1 completed, 1 pruned, 1 failed; 1 over budget"
    assert lines[1] == "best so far: AUC 0.700, trial 0, completed"
    assert lines[2].startswith("0 s so far, about ")
    assert lines[2].rstrip().endswith("left")
    words = [" ".join(line.split()) for line in lines]
    assert words[3:7] == [
        "best trial epoch state AUC an epoch GPU memory used / predicted parameters",
        "0 1/9 completed 0.600 2 s –",
        "4 7/9 running 0.752 2 s 2.00 GiB / 2.50 GiB num_embeddings=64 learning_rate=0.00235",
        "1 1/9 pruned 0.700 2 s –",
    ]
    assert words[7] == "trial epoch phase AUC an epoch GPU memory used / predicted parameters"
    assert words[8] == "4 7/9 full loss 0.752 0.29 s 2.00 GiB / 2.50 GiB num_embeddings=64 learning_rate=0.00235"
    assert words[9] == "5 0/9 – – – 3.00 GiB num_embeddings=32"
    assert len(lines) == 10


def test_the_best_trials_stay_on_the_screen_when_the_search_ends():
    """Those that did not end are unfinished; no parameter is cut where there is no room beside the figures."""
    shown, progress = console(terminal=True, width=60), a_search()
    with LiveView(shown, progress):
        pass
    last = shown.file.getvalue().rpartition("best trial")[2]
    words = [" ".join(line.split()) for line in last.splitlines()]
    assert words[1:] == [
        "0 1/9 completed 0.600 –",
        "4 7/9 unfinished 0.752 2.00 GiB / 2.50 GiB",
        "num_embeddings=64 learning_rate=0.00235",
        "1 1/9 pruned 0.700 –",
    ]


def test_a_low_terminal_shows_running_trials_only():
    low = console(terminal=True)
    low.size = low.size.__class__(110, TALL - 1)
    assert "completed  0.600" not in drawn(LiveView(low, a_search()))


def test_used_is_what_the_driver_counts_where_it_tells():
    measured = report(1, 0.6, peak_bytes=GIB, driver_bytes=2 * GIB, predicted_bytes=3 * GIB)
    assert memory_text(start(0), measured) == "2.00 GiB / 3.00 GiB"
    assert memory_text(start(0), report(1, 0.6, peak_bytes=GIB, predicted_bytes=3 * GIB)) == "1.00 GiB / 3.00 GiB"


def test_the_time_of_an_epoch_is_as_predicted_until_it_is_measured():
    """With its prediction a search knows the time left before the first epoch has ended."""
    progress = make(num_samples=1)
    predicted = replace(start(0), predicted_epoch_seconds=3.14)
    progress.on_start(predicted, resumed=False)
    assert "  ~3.1 s  " in drawn(LiveView(console(terminal=True), progress))
    assert progress.seconds_left() == pytest.approx(3.14 * 7 / 3)
    told = console(terminal=False)
    view = PlainLines(told, progress)
    for listener in (progress, view):
        listener.on_report(0, report(1, 0.6), Decision.CONTINUE)
    assert "  2 s  " in drawn(LiveView(console(terminal=True), progress))
    for listener in (progress, view):
        listener.on_end(predicted, ended(TrialEnd.PRUNED, 1))
    assert "pruned after 1 epoch, AUC 0.700, 2 s an epoch (predicted ~3.1 s)" in told.file.getvalue()


def test_the_live_table_says_what_more_trials_are_expected_to_bring():
    progress = make()
    progress.expected_gain = lambda: 0.00417
    lines = drawn(LiveView(console(terminal=True), progress)).splitlines()
    assert lines[3] == "10 more trials are expected to raise the mean value of the best 8 by at most 0.0042"


def test_a_search_that_has_not_begun_has_no_table():
    lines = drawn(LiveView(console(terminal=True), make())).splitlines()
    assert lines == [
        "0 of 6 trials ended: 0 completed, 0 pruned, 0 failed",
        "no epoch has ended yet",
        "0 s so far",
    ]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_live_table_keeps_to_the_width_of_the_terminal_and_cuts_no_parameter(width):
    progress = a_search()
    many = {f"parameter_{index}": index / 7 for index in range(20)}
    progress.on_start(start(6, **many), resumed=False)
    lines = drawn(LiveView(console(terminal=True, width=width), progress), width).splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split() for line in lines]
    running = rows[next(index for index, row in enumerate(rows) if row[0] == "trial") :]
    assert [row[:2] for row in running if len(row) > 1 and "/9" in row[1]] == [["4", "7/9"], ["5", "0/9"], ["6", "0/9"]]
    assert any("2.00 GiB / 2.50 GiB" in line for line in lines)
    shown = " ".join(" ".join(row) for row in rows)
    assert all(f"{name}={value:.3g}" in shown for name, value in many.items())


def test_of_many_slots_the_first_are_shown_and_the_rest_counted():
    progress = make(num_samples=100)
    for number in range(SHOWN_TRIALS + 3):
        progress.on_start(start(number), resumed=False)
    lines = drawn(LiveView(console(terminal=True), progress)).splitlines()
    assert lines[-1] == "and 3 more"
    assert len(lines) == 3 + 1 + SHOWN_TRIALS + 1


def test_the_live_table_keeps_to_the_height_of_the_terminal():
    progress = make(num_samples=100)
    for number in range(9):
        progress.on_start(start(number, **{f"parameter_{index}": 0.5 for index in range(6)}), resumed=False)
    low = console(terminal=True, width=80)
    low.size = low.size.__class__(80, 15)
    lines = drawn(LiveView(low, progress), 80).splitlines()
    assert len(lines) <= 15
    assert lines[-1] == "and 6 more"  # three lines a trial


def test_failures_and_recoveries_stay_on_the_screen_above_the_live_table():
    shown = console(terminal=True)
    progress = a_search()
    with LiveView(shown, progress) as view:
        view.on_report(4, report(8, 0.7, events=("epoch 8: out of memory, micro-batch 8 → 4",)), Decision.CONTINUE)
        view.on_end(start(4), ended(TrialEnd.CRASHED, 8, reason="ValueError: [bold]no[/bold]"))
        view.on_end(start(5), ended(TrialEnd.PRUNED, 1, reason="not among the best"))
    text = shown.file.getvalue()
    assert "trial 4: epoch 8: out of memory, micro-batch 8 → 4" in text
    assert "trial 4 crashed after 8 epochs, AUC 0.700: ValueError: [bold]no[/bold]" in text
    assert "not among the best" not in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_log_lines_go_above_the_live_table_and_into_a_file_where_stderr_is_one(monkeypatch):
    root = logging.getLogger()
    for stderr, redirected in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stderr)
        handler = logging.StreamHandler()
        root.addHandler(handler)
        try:
            shown = console(terminal=True)
            with LiveView(shown, make()):
                logging.getLogger("search").warning("look here")
            assert ("look here" in shown.file.getvalue()) is redirected
            assert ("look here" in stderr.getvalue()) is not redirected
            assert sys.stderr is stderr
            assert handler.stream is stderr
        finally:
            root.removeHandler(handler)


def test_plain_lines_tell_bests_endings_and_recoveries():
    progress, told = make(), console(terminal=False, width=20)
    view = PlainLines(told, progress)
    epochs = (report(1, 0.6), report(2, 0.5), report(3, 0.7, events=("recovered [1]",)))
    for listener in (progress, view):
        listener.on_start(start(0), resumed=True)
    for epoch in epochs:
        for listener in (progress, view):
            listener.on_report(0, epoch, Decision.CONTINUE)
    for listener in (progress, view):
        listener.on_end(start(0), ended(TrialEnd.OUT_OF_MEMORY, 3, 0.7, "no plan fits"))
    lines = told.file.getvalue().splitlines()
    assert lines[:4] == [
        "trial 0 resumes from its checkpoint",
        "highest so far: AUC 0.600, trial 0 after 1 epoch; it may fall",
        "trial 0: recovered [1]",
        "highest so far: AUC 0.700, trial 0 after 3 epochs; it may fall",
    ]
    assert lines[4].startswith("trial 0 out_of_memory after 3 epochs, AUC 0.700, 2 s an epoch: no plan fits | ")
    assert lines[4].endswith(headline(progress))
    assert len(lines) == 5


def test_plain_lines_tell_the_first_completed_trial_however_low():
    progress, told = make(), console(terminal=False)
    view = PlainLines(told, progress)
    for number, end, auc in ((0, TrialEnd.PRUNED, 0.8), (1, TrialEnd.COMPLETED, 0.7), (2, TrialEnd.COMPLETED, 0.6)):
        for listener in (progress, view):
            listener.on_start(start(number), resumed=False)
            listener.on_report(number, report(1, auc), Decision.CONTINUE)
        for listener in (progress, view):
            listener.on_end(start(number), ended(end, 1, auc))
    lines = [line for line in told.file.getvalue().splitlines() if "so far" in line]
    assert lines == [
        "highest so far: AUC 0.800, trial 0 after 1 epoch; it may fall",
        "best so far: AUC 0.700, trial 1, completed",
    ]
    assert headline(progress).split(", ")[3] == "best AUC 0.700 (trial 1)"


def test_the_view_suits_where_the_output_goes():
    assert isinstance(make_view(console(terminal=True), make(), quiet=False), LiveView)
    assert isinstance(make_view(console(terminal=False), make(), quiet=False), PlainLines)
    for terminal in (True, False):
        quiet = make_view(console(terminal=terminal), make(), quiet=True)
        assert isinstance(quiet, Heartbeat)


def test_a_quiet_search_says_once_an_hour_that_it_lives():
    seconds = iter([0.0, 600.0, 3600.0, 3600.0, 7000.0])
    told, progress = console(terminal=False), a_search()
    view = Heartbeat(told, progress, clock=lambda: next(seconds))
    for epoch in (1, 2, 3):
        view.on_report(4, report(epoch, 0.7), Decision.CONTINUE)
    assert told.file.getvalue().count("\n") == 1
    assert told.file.getvalue().strip().endswith(headline(progress))
