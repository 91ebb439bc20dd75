"""On a card, or one that computes nothing: memory does not grow, is what was predicted, and no step waits."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu_cases import chosen
from tests.card_tests.conftest import Card, Session, rows, small
from trainable.memory.profile import DeviceProfile

CASES = "recipe w4*,capped w4*"
"""Fourteen, eight of them capped at their own prediction: wide enough that no temporary of the start is their peak."""
TOLERANCE = 0.01


def test_as_many_bytes_are_allocated_after_50_epochs_as_after_2(session: Session) -> None:
    after = {row["epochs"]: row["allocated_bytes"] for row in small(session("--only", "growth"))["growth"]}
    assert list(after) == [2, 10, 50]
    assert after[2] == after[10] == after[50] > 0


def test_no_line_of_a_training_step_waits_for_the_card(session: Session) -> None:
    waits = {row["plan"]: row["waits_at"] for row in small(session("--only", "waits"))["waits"]}
    assert "item()" in waits.pop("a number read on purpose"), "a wait is seen where there is one"
    assert waits.keys() >= {"plain", "4 micro-batches", "host", "bfloat16", "float16"}
    assert set(waits.values()) == {""}, waits


def test_what_is_allocated_is_what_was_predicted(card: Card, session: Session, tmp_path: Path) -> None:
    """Without workspaces, which only a real card's cuDNN takes; capped cases keep within their prediction."""
    if card.is_real:
        pytest.skip(f"cuDNN takes workspaces on {card.gpu}; python -m benchmarks.gpu_memory measures them")
    profile = replace(DeviceProfile(), name="no workspaces", convolution_workspace_share=0.0)
    profile.save(tmp_path / "profile.json")
    out = session("--only", "table", "--cases", CASES, "--profile", str(tmp_path / "profile.json"))
    table = {row["case"]: row for row in rows(out, "table")}
    assert set(table) == {case.name for case in chosen(CASES)}
    failed = {name: row["failed"] for name, row in table.items() if row.get("failed")}
    assert failed == {}
    wrong = {name: row["error"] for name, row in table.items() if abs(float(row["error"])) > TOLERANCE}
    assert wrong == {}
    assert {row["events"] for row in table.values()} == {"0"}, "nothing ran out of memory on the way"


def test_the_allocators_events_are_recorded_for_the_time_of_a_case(session: Session) -> None:
    out = session("--only", "traces", "--seconds", "1")
    with gzip.open(out / "traces.json.gz", "rt", encoding="utf-8") as file:
        first = json.load(file)[0]
    assert first["case"] == "recipe w1 plain"
    allocated = sum(size for action, _, size in first["events"] if action == "alloc")
    assert allocated > first["allocated_bytes"] > 0
