"""What the allocator reserves: its rules by hand, and over whole trainings as a card's allocator was recorded."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_cases import DATA, cases
from trainable.memory.allocator import LARGE_UNIT_BYTES, FixedPool, Pool
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.units import MIB

GOLDEN = Path(__file__).parent / "golden"
Trainings = dict[str, dict[str, Any]]


def recorded(name: str) -> Trainings:
    """Every block over 1 MiB that trainings took (size) and freed (−1 − the number of the block), by case."""
    with gzip.open(GOLDEN / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        trainings: Trainings = json.load(file)
    return trainings


def test_the_smallest_free_block_that_is_large_enough_is_taken() -> None:
    pool = Pool(20 * MIB)
    first, gap, second, small_gap, last = (pool.allocate(size * MIB) for size in (4, 6, 2, 3, 5))
    assert pool.mapped_bytes == 20 * MIB
    pool.free(gap)
    pool.free(small_gap)
    assert pool.allocate(3 * MIB) == small_gap
    assert pool.allocate(2 * MIB) == gap, "what is left of a block stays free"
    assert pool.allocate(4 * MIB) == gap + 2 * MIB
    pool.free(first)
    pool.free(second)
    assert pool.allocate(5 * MIB) == 20 * MIB, "two free blocks are one only if they are neighbours"
    assert pool.mapped_bytes == 40 * MIB
    assert last == 15 * MIB


def test_neighbours_merge_and_the_range_grows_by_what_is_missing() -> None:
    pool = Pool(20 * MIB)
    addresses = [pool.allocate(10 * MIB) for _ in range(4)]
    pool.free(addresses[1])
    pool.free(addresses[3])
    pool.free(addresses[2])
    assert pool.allocate(35 * MIB) == 10 * MIB
    assert pool.mapped_bytes == 60 * MIB


def test_the_last_block_is_spared_for_what_only_it_can_hold() -> None:
    """The allocator counts the last block as large as the range can grow."""
    pool = Pool(20 * MIB)
    first, _ = pool.allocate(15 * MIB), pool.allocate(1 * MIB)
    pool.free(first)  # 4 MiB are free at the end
    assert pool.allocate(3 * MIB) == first


def test_a_cap_must_hold_the_request_rounded_up() -> None:
    pool = Pool(20 * MIB)
    pool.allocate(30 * MIB)  # 10 MiB stay free
    pool.allocate(25 * MIB)
    assert pool.mapped_bytes == 60 * MIB
    assert pool.needed_bytes == 40 * MIB + 26 * MIB


def test_fixed_segments_neither_grow_nor_merge() -> None:
    pool = FixedPool()
    first, second = pool.allocate(4 * MIB), pool.allocate(15 * MIB)
    assert pool.mapped_bytes == 20 * MIB, "requests below 10 MiB share a segment of 20 MiB"
    third = pool.allocate(11 * MIB)
    assert pool.mapped_bytes == 32 * MIB, "larger ones get one of their own, in units of 2 MiB"
    for block in (first, second, third):
        pool.free(block)
    pool.allocate(21 * MIB)
    assert pool.mapped_bytes == 54 * MIB
    assert pool.allocate(11 * MIB + 512) == third, "what is left of a block up to 1 MiB belongs to it"


@pytest.mark.parametrize("name", ["allocator_events", "allocator_events_h100"])
def test_recorded_events_reserve_what_the_card_reserved(name: str) -> None:
    for case, training in recorded(name).items():
        pool, live = Pool(LARGE_UNIT_BYTES), []
        for event in training["events"]:
            if event >= 0:
                live.append(pool.allocate(event))
            else:
                pool.free(live[-1 - event])
        assert pool.mapped_bytes == training["large_reserved_bytes"], case


def test_predictions_cover_what_the_card_reserved() -> None:
    """Recorded on a card that computes nothing, whose convolutions need no workspace."""
    profile = DeviceProfile(convolution_workspace_share=0.0, split_sums=0.0, margin_share=0.0)
    planner, by_name = Planner(DATA, budget_bytes=None, profile=profile), {case.name: case for case in cases()}
    for name, training in recorded("allocator_events").items():
        case, reserved_bytes = by_name[name], training["reserved_bytes"]
        said = planner.predict(case.config, case.plan)
        assert reserved_bytes <= said.reserved_bytes <= 1.15 * reserved_bytes + 2 * MIB, name
        assert said.allocated_bytes == pytest.approx(training["allocated_bytes"], rel=2e-3), name
