"""Who is notified hears everything, in turn; a listener of one's own overrides what it needs."""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from search.engine.asha import Decision
from search.engine.listener import BaseListener, Listener, Listeners, make_listener, register_listener
from search.registry import LISTENERS
from tests.search_tests.synthetic import report_at
from trainable.config import TrialConfig
from trainable.errors import ConfigError
from trainable.record import EpochReport, TrialEnd, TrialOutcome, TrialStart

START = TrialStart(number=3, params={}, config=TrialConfig(), plan=None, predicted_bytes=0)
OUTCOME = TrialOutcome(end=TrialEnd.PRUNED, reason="weak", epochs=1, best_auc=0.5, final_auc=0.5)


class Heard(BaseListener):
    """Keeps all that it is told."""

    def __init__(self, heard: list[tuple[object, ...]], name: str):
        self.heard, self.name, self.closed = heard, name, 0

    def close(self) -> None:
        self.closed += 1

    def on_start(self, start: TrialStart, *, resumed: bool) -> None:
        self.heard.append((self.name, start, resumed))

    def on_report(self, number: int, report: EpochReport, decision: Decision) -> None:
        self.heard.append((self.name, number, report, decision))

    def on_end(self, start: TrialStart, outcome: TrialOutcome) -> None:
        self.heard.append((self.name, start, outcome))


def test_each_listener_hears_everything_in_turn() -> None:
    heard: list[tuple[object, ...]] = []
    both = Listeners([Heard(heard, "a"), BaseListener(), Heard(heard, "b")])
    report = report_at(1, 0.5)
    both.on_start(START, resumed=True)
    both.on_start(START, resumed=False)
    both.on_report(3, report, Decision.STOP)
    both.on_end(START, OUTCOME)
    events = [(START, True), (START, False), (3, report, Decision.STOP), (START, OUTCOME)]
    assert heard == [(name, *event) for event in events for name in "ab"]


def test_a_listener_is_closed_with_its_search_also_after_an_error() -> None:
    listener = Heard([], "a")
    with listener as entered:
        assert entered is listener
        assert listener.closed == 0
    with pytest.raises(KeyError), listener:
        raise KeyError
    assert listener.closed == 2


def test_a_registered_listener_is_made_for_the_folder_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LISTENERS, "_parts", {})
    folders: list[Path] = []

    def factory(folder: Path) -> AbstractContextManager[Listener]:
        folders.append(folder)
        return Heard([], "ours")

    register_listener("ours", factory)
    made = make_listener("ours", tmp_path)
    assert isinstance(made, Heard)
    assert folders == [tmp_path]
    with pytest.raises(ConfigError):
        register_listener("ours", lambda folder: Heard([], "other"))
    with pytest.raises(ConfigError):
        make_listener("theirs", tmp_path)
