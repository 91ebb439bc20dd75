"""Slots from budgets and cards: what Ray is asked for never adds up to more than a card less its reserve."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.packing import GRAIN, Node, cpu_slots, fraction_of, gpu_slots, nodes_of, slots_per_gpu
from trainable.errors import BudgetError, RunError
from trainable.memory.profile import DeviceProfile
from trainable.units import GIB, MIB

RESERVE_BYTES = DeviceProfile().reserve_bytes


@given(gpu_bytes=st.integers(GIB, 200 * GIB), budget_bytes=st.integers(64 * MIB, 200 * GIB))
def test_budgets_of_a_card_never_exceed_it_less_the_reserve(gpu_bytes, budget_bytes):
    if budget_bytes > gpu_bytes - RESERVE_BYTES:
        with pytest.raises(BudgetError, match="at most"):
            slots_per_gpu(gpu_bytes, budget_bytes, RESERVE_BYTES)
        return
    slots = slots_per_gpu(gpu_bytes, budget_bytes, RESERVE_BYTES)
    assert slots >= 1
    assert slots * budget_bytes <= gpu_bytes - RESERVE_BYTES
    assert (slots + 1) * budget_bytes > gpu_bytes - RESERVE_BYTES


@given(slots=st.integers(1, 5000))
def test_fractions_that_ray_counts_make_exactly_so_many_slots(slots):
    units = round(fraction_of(slots) * GRAIN)
    assert units * slots <= GRAIN
    assert GRAIN // units >= slots


def test_each_size_of_card_is_packed_by_its_own_size():
    nodes = [
        Node("a", 16, 2, 24 * GIB, frozenset({"accelerator_type:RTX"})),
        Node("b", 64, 8, 80 * GIB, frozenset({"accelerator_type:H100"})),
        Node("c", 64, 0, 0),
    ]
    large, small = gpu_slots(nodes, 8 * GIB, RESERVE_BYTES)
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
    first, second = nodes_of(described, {"y": 80 * GIB})
    assert (first.gpu_bytes, first.gpus, first.labels) == (24 * GIB, 2, frozenset({"gpu24"}))
    assert (second.gpu_bytes, second.labels) == (80 * GIB, frozenset())


def test_without_a_gpu_trials_share_the_cores():
    assert cpu_slots(2.0, None).count == 2
    shared = cpu_slots(2.0, 4)
    assert shared.count * shared.request["CPU"] <= 2.0
