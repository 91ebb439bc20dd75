"""Slots from budgets and cards: what Ray is asked for never adds up to more than a card less its reserve."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.runners.packing import (
    GRAIN,
    GpuMemory,
    Node,
    countable,
    counts_now,
    cpu_slots,
    fraction_of,
    gpu_slots,
    nodes_of,
    slots_per_gpu,
)
from trainable.device.budget import Card
from trainable.errors import BudgetError, RunError
from trainable.memory.profile import DeviceProfile
from trainable.units import GIB, MIB

RESERVE_BYTES = DeviceProfile().reserve_bytes


@given(
    gpu_bytes=st.integers(GIB, 200 * GIB),
    taken_bytes=st.integers(0, 8 * GIB),
    budget_bytes=st.integers(64 * MIB, 200 * GIB),
)
def test_budgets_of_a_card_never_exceed_it_less_the_reserve_and_other_programs(gpu_bytes, taken_bytes, budget_bytes):
    card = Card(gpu_bytes, RESERVE_BYTES, taken_bytes)
    left = gpu_bytes - max(RESERVE_BYTES, taken_bytes)
    if budget_bytes > card.usable_bytes:
        with pytest.raises(BudgetError, match="at most"):
            slots_per_gpu(card, budget_bytes)
        return
    slots = slots_per_gpu(card, budget_bytes)
    assert slots >= 1
    assert slots * budget_bytes <= left
    assert (slots + 1) * budget_bytes > left - MIB


@given(slots=st.integers(1, 10_000))
def test_ray_lets_exactly_so_many_slots_onto_a_card(slots):
    """Exactly: with one too many the budgets of a card would exceed it."""
    counted = countable(slots)
    units = round(fraction_of(counted) * GRAIN)
    assert GRAIN // units == counted <= slots
    assert counted == slots or slots > 100


def test_each_size_of_card_is_packed_by_its_own_size():
    nodes = [
        Node("a", 16, 2, 24 * GIB, frozenset({"accelerator_type:RTX"})),
        Node("b", 64, 8, 80 * GIB, frozenset({"accelerator_type:H100"})),
        Node("c", 64, 0, 0),
    ]
    large, small = gpu_slots(nodes, 8 * GIB, RESERVE_BYTES)
    assert (large.threads, small.threads) == (1, 4), "64 cores of 72 slots, 16 of 4"
    assert (large.count, large.gpu_bytes) == (72, 80 * GIB)
    assert large.request["GPU"] == pytest.approx(1 / 9, abs=1e-4)
    assert large.request["accelerator_type:H100"] == 1 / GRAIN
    assert (small.count, small.gpu_bytes) == (4, 24 * GIB)
    assert small.request["accelerator_type:RTX"] == 1 / GRAIN
    assert large.request["CPU"] * 72 <= 64
    assert [kind.gpu_bytes for kind in gpu_slots(nodes, 40 * GIB, RESERVE_BYTES)] == [80 * GIB]
    with pytest.raises(BudgetError, match=r"79\.5 GiB|81408MiB"):
        gpu_slots(nodes, 100 * GIB, RESERVE_BYTES)
    assert [(kind.request["GPU"], kind.count) for kind in gpu_slots(nodes[:1], None, RESERVE_BYTES)] == [(1.0, 2)]


def test_cards_of_several_sizes_that_nothing_tells_apart_are_refused():
    nodes = [Node("a", 8, 1, 24 * GIB), Node("b", 8, 1, 80 * GIB)]
    with pytest.raises(RunError, match="--resources"):
        gpu_slots(nodes, 8 * GIB, RESERVE_BYTES)


def test_nodes_declare_the_memory_of_their_cards_or_are_asked():
    described = [
        {"Alive": True, "NodeID": "x", "Resources": {"CPU": 8.0, "GPU": 2.0, "gpu_memory_mib": 24576.0, "gpu24": 1.0}},
        {"Alive": True, "NodeID": "y", "Resources": {"CPU": 8.0, "GPU": 1.0, "node:1.2.3.4": 1.0}},
        {"Alive": False, "NodeID": "z", "Resources": {"GPU": 8.0}},
    ]
    first, second = nodes_of(described, {"y": GpuMemory(80 * GIB, taken_bytes=GIB)})
    assert (first.gpu_bytes, first.gpus, first.labels) == (24 * GIB, 2, frozenset({"gpu24"}))
    assert (second.gpu_bytes, second.taken_bytes, second.labels) == (80 * GIB, GIB, frozenset())


def test_what_other_programs_hold_of_a_card_has_no_slots():
    node = Node("a", 16, 1, 24 * GIB, taken_bytes=15 * GIB)
    assert [kind.count for kind in gpu_slots([node], 4 * GIB, RESERVE_BYTES)] == [2]
    with pytest.raises(BudgetError, match=r"24\.0 GiB less the 15\.0 GiB that other programs hold; .* at most 9216MiB"):
        gpu_slots([node], 10 * GIB, RESERVE_BYTES)


def test_without_a_gpu_trials_share_the_cores():
    assert cpu_slots(2.0, None).count == 2
    assert [cpu_slots(16.0, concurrency).threads for concurrency in (None, 3, 40)] == [1, 5, 1]
    shared = cpu_slots(2.0, 4)
    assert shared.count * shared.request["CPU"] <= 2.0


def test_cards_of_one_kind_that_differ_by_some_megabytes_are_alike():
    """24,564 and 24,576 MiB of the same accelerator: no label tells them apart, and none is needed."""
    label = frozenset({"accelerator_type:RTX"})
    nodes = [Node("a", 8, 1, 24_564 * MIB, label), Node("b", 4, 1, 24_576 * MIB, label)]
    (kind,) = gpu_slots(nodes, 5 * GIB, RESERVE_BYTES)
    assert (kind.count, kind.per_gpu, kind.gpu_bytes) == (8, 4, 24_564 * MIB)
    assert kind.request == {"GPU": 0.25, "CPU": 1.0}
    assert counts_now([kind], nodes[:1]) == [4]


def test_accelerators_of_one_size_have_a_kind_each_beside_a_smaller_card():
    nodes = [
        Node("a", 16, 1, 80 * GIB, frozenset({"accelerator_type:H100"})),
        Node("b", 16, 2, 80 * GIB, frozenset({"accelerator_type:A100"})),
        Node("c", 16, 1, 24 * GIB, frozenset({"accelerator_type:A10"})),
        Node("d", 16, 1, 8 * GIB, frozenset({"accelerator_type:T4"})),
    ]
    kinds = gpu_slots(nodes, 8 * GIB, RESERVE_BYTES)
    labels = [next(name for name in kind.request if ":" in name).partition(":")[2] for kind in kinds]
    assert list(zip(labels, (kind.count for kind in kinds), strict=True)) == [("A100", 18), ("H100", 9), ("A10", 2)]
    assert counts_now(kinds, nodes[1:]) == [18, 0, 2]
    assert [(kind.count, kind.request["GPU"]) for kind in gpu_slots(nodes[:2], 8 * GIB, RESERVE_BYTES)] == [
        (27, 0.1111)
    ]
    same = [Node("a", 4, 1, 80 * GIB, frozenset({"x"})), Node("b", 4, 1, 24 * GIB, frozenset({"x"}))]
    assert [kind.count for kind in gpu_slots(same, None, RESERVE_BYTES)] == [2], "a whole card each: all are alike"


def test_cores_are_shared_and_never_asked_for_as_none():
    (kind,) = gpu_slots([Node("a", 4, 1, 80 * GIB)], 128 * MIB, RESERVE_BYTES)
    assert 0 < kind.request["CPU"] * kind.count <= 4
    (bare,) = gpu_slots([Node("a", 0, 1, 80 * GIB)], 8 * GIB, RESERVE_BYTES)
    assert "CPU" not in bare.request
    many = cpu_slots(2.0, 150)
    assert 0 < many.count * many.request["CPU"] <= 2.0
    assert counts_now([many], [Node("a", 2.0, 0, 0)]) == [150]
