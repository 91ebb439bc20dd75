"""The gauges of a search: what they say at each of its turns."""

import pytest

from search.engine.asha import Decision
from search.listeners import prometheus as ray_metrics
from search.listeners.prometheus import METRICS, RayMetrics
from tests.search_tests.listeners_tests.test_progress import ended, make, report, start
from trainable.record import TrialEnd


class Gauge:
    """Keeps what the real one would export."""

    def __init__(self, name, description, tag_keys):
        self.name, self.keys, self.values = name, set(tag_keys), {}
        assert description

    def set(self, value, tags):
        assert set(tags) == self.keys, "Ray refuses other tags than declared"
        assert tags["run"] == "first"
        self.values[tuple(value for key, value in sorted(tags.items()) if key != "run")] = value


@pytest.fixture
def search(monkeypatch):
    monkeypatch.setattr(ray_metrics, "Gauge", Gauge)
    progress = make()
    metrics = RayMetrics("first", progress)

    def tell(event, *arguments, **options):
        for listener in (progress, metrics):
            getattr(listener, event)(*arguments, **options)

    return tell, {name: metrics._gauges[name].values for name in METRICS}


def test_states_slots_and_best(search):
    tell, gauges = search
    assert gauges["search_best_auc"] == {}
    for number in (0, 1):
        tell("on_start", start(number), resumed=False)
    assert gauges["search_predicted_bytes"] == {("0",): 3 * 2**30, ("1",): 3 * 2**30}
    tell("on_report", 1, report(1, 0.7, peak_bytes=5, driver_bytes=7, predicted_bytes=6), Decision.CONTINUE)
    assert gauges["search_best_auc"] == {}  # none has completed: it may fall, and need not win
    assert gauges["search_used_bytes"] == {("0",): 0, ("1",): 5}
    assert gauges["search_driver_bytes"] == {("0",): 0, ("1",): 7}
    assert gauges["search_predicted_bytes"][("1",)] == 6
    assert gauges["search_trials"][("running",)] == 2
    tell("on_end", start(0), ended(TrialEnd.PRUNED, 1))
    assert gauges["search_trials"][("running",)] == 1
    assert gauges["search_trials"][("pruned",)] == 1
    assert gauges["search_predicted_bytes"][("0",)] == 0
    tell("on_end", start(1), ended(TrialEnd.COMPLETED, 9, 0.7))
    assert gauges["search_best_auc"] == {(): 0.7}
    assert set(gauges["search_trials"]) == {("running",), *((end.value,) for end in TrialEnd)}


def test_a_free_slot_is_taken_again_and_its_neighbour_keeps_its_number(search):
    tell, gauges = search
    for number in (0, 1):
        tell("on_start", start(number), resumed=False)
    tell("on_end", start(0), ended(TrialEnd.COMPLETED, 9))
    tell("on_start", start(2), resumed=False)
    tell("on_report", 2, report(1, 0.5, peak_bytes=7), Decision.CONTINUE)
    assert gauges["search_used_bytes"] == {("0",): 7, ("1",): 0}


def test_a_proposal_that_never_had_a_slot_is_counted(search):
    tell, gauges = search
    tell("on_end", start(0), ended(TrialEnd.OVER_BUDGET, 0, None))
    assert gauges["search_trials"][("over_budget",)] == 1
    assert gauges["search_used_bytes"] == {}


def test_after_a_resume_the_best_is_known_at_once(monkeypatch):
    monkeypatch.setattr(ray_metrics, "Gauge", Gauge)
    progress = make()
    progress.resume_from({**dict.fromkeys(TrialEnd, 0), TrialEnd.COMPLETED: 2}, (0.9, 1))
    metrics = RayMetrics("first", progress)
    progress.on_start(start(2), resumed=True)
    metrics.on_start(start(2), resumed=True)
    assert metrics._gauges["search_best_auc"].values == {(): 0.9}
    assert metrics._gauges["search_trials"].values[("completed",)] == 2


def test_a_name_that_ray_does_not_take_is_escaped(monkeypatch):
    monkeypatch.setattr(ray_metrics, "Gauge", Gauge)
    assert RayMetrics("r\N{REPLACEMENT CHARACTER}n é", make())._tags == {"run": r"r\ufffdn \xe9"}
