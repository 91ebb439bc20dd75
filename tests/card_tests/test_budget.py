"""A budget is kept by what the driver counts: on a card that computes nothing, but counts and refuses as one does."""

import json
import mmap
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.card_tests.conftest import Start
from trainable.device.cap import KERNELS_BYTES, NOT_COUNTED, NOT_EXPANDABLE
from trainable.units import MIB

TRIAL = "tests.card_tests.capped_trial"


def ended(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What a capped trial printed when it ended."""
    out, error = process.communicate()
    assert process.returncode == 0, error
    return json.loads(out.splitlines()[-1])


def test_the_driver_counts_what_is_reported_and_the_worker_keeps_context_and_libraries(start: Start) -> None:
    told = ended(start(TRIAL, "--budget-mib", "900", context_mib=600))
    assert told["end"] == "completed"
    assert told["expandable"]
    assert all(told["expandable"])
    for report in told["reports"]:
        assert report["cap_bytes"] == 300 * MIB - KERNELS_BYTES
        assert 600 * MIB + report["peak_bytes"] <= report["driver_bytes"] <= 900 * MIB
        assert report["events"] == []
    assert told["measured_outside_bytes"] == 600 * MIB
    assert told["left"] == {"allocated": 0, "reserved": 0, "outside": 600 * MIB}


def test_a_context_larger_than_planned_leads_to_a_smaller_plan_before_training(start: Start) -> None:
    told = ended(start(TRIAL, "--budget-mib", "640"))
    assert not any(report["events"] for report in told["reports"])
    between = (told["planned_bytes"] + told["least_bytes"]) // 2
    told = ended(start(TRIAL, "--budget-mib", "640", context_mib=640 - between // MIB - KERNELS_BYTES // MIB))
    first, second = told["reports"]
    assert "plan too large for the cap" in first["events"][0]
    assert second["events"] == []
    assert max(report["driver_bytes"] for report in told["reports"]) <= 640 * MIB


@pytest.mark.parametrize(("context_mib", "says"), [(620, "no plan fits the 640 MiB budget"), (700, "leaves nothing")])
def test_a_context_that_leaves_too_little_is_one_line(start: Start, context_mib: int, says: str) -> None:
    flags = ["--device", "cuda", "--gpu-memory-budget", "640MiB", "--epochs", "1", "--width", "0.25"]
    out, error = (process := start("trainable.train", *flags, context_mib=context_mib)).communicate()
    assert process.returncode == 2, out
    (line,) = [line for line in error.splitlines() if line.startswith("error:")]
    assert says in line
    assert "Traceback" not in error


def test_without_expandable_segments_it_goes_on_with_one_warning(start: Start) -> None:
    process = start(TRIAL, "--budget-mib", "900", no_vmm=True)
    out, error = process.communicate()
    assert process.returncode == 0, error
    told = json.loads(out.splitlines()[-1])
    assert told["end"] == "completed"
    assert not any(told["expandable"])
    assert error.count(NOT_EXPANDABLE) == 1
    assert NOT_COUNTED not in error


def test_what_a_neighbour_holds_is_no_part_of_the_card(start: Start) -> None:
    neighbour = start(TRIAL, "--budget-mib", "5000", "--wait", context_mib=3072, total_mib=24 * 1024)
    assert neighbour.stdout is not None
    assert neighbour.stdout.readline() == "ready\n", neighbour.communicate()[1]
    flags = ["--device", "cuda", "--gpu-memory-budget", "auto", "--epochs", "1", "--width", "0.25"]
    training = start("trainable.train", *flags, total_mib=24 * 1024)
    assert training.stdout is not None
    said = next(line for line in training.stdout if "whole card" in line)
    assert "21.0 GiB (a GPU of 24.0 GiB less the 3.00 GiB that other programs hold)" in said
    training.kill()
    neighbour.communicate("begin\nend\n")
    assert neighbour.returncode == 0


class Books:
    """What the card has given to each process, as the fake driver keeps it."""

    def __init__(self, path: Path):
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def bytes_of(self, pid: int) -> int:
        entries = struct.iter_unpack("iiq", self._map[: 1024 * struct.calcsize("iiq")])
        return sum(size for owner, _, size in entries if owner == pid)


def test_neighbours_are_safe_from_a_trial_that_takes_twice_its_budget(start: Start, tmp_path: Path) -> None:
    """Three trials train within their budgets on a card that four of them fill; the fourth alone runs out."""
    budget_mib = 700
    card = {"total_mib": 4 * budget_mib, "context_mib": 560}
    flags = [TRIAL, "--budget-mib", str(budget_mib), "--wait"]
    trials = [start(*flags, **card) for _ in range(3)] + [start(*flags, "--takes-mib", str(2 * budget_mib), **card)]
    for trial in trials:
        assert trial.stdout is not None
        assert trial.stdout.readline() == "ready\n", trial.communicate()[1]
    books = Books(tmp_path / "books")
    told = []
    for trial in trials:  # all at once
        assert trial.stdin is not None
        trial.stdin.write("begin\n")
        trial.stdin.flush()
    for trial in trials:
        assert trial.stdout is not None
        told.append(json.loads(trial.stdout.readline()))
        assert books.bytes_of(trial.pid) == 560 * MIB, "it holds its context alone, by the driver"
    for trial in trials:
        trial.communicate("end\n")
        assert trial.returncode == 0
    *neighbours, greedy = told
    for neighbour in neighbours:
        assert neighbour["end"] == "completed"
        for report in neighbour["reports"]:
            assert report["events"] == []
            assert 0 < report["driver_bytes"] <= budget_mib * MIB
    assert greedy["end"] == "out_of_memory"
    assert greedy["reports"] == []
