"""How many trials fit on the machines: budget ÷ GPU memory is the fraction of a GPU that a trial asks Ray for."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainable.errors import BudgetError, RunError
from trainable.units import MIB, format_bytes

GPU_MEMORY = "gpu_memory_mib"
"""Ray resource by which a node may declare the memory of each of its GPUs (MiB), instead of being asked."""
GRAIN = 10_000
"""Ray counts fractions of a resource in ten-thousandths."""


@dataclass(frozen=True)
class Node:
    """What a node offers."""

    node_id: str
    cpus: float
    gpus: int
    gpu_bytes: int
    """Memory of each of its GPUs; 0 without one."""
    labels: frozenset[str] = frozenset()
    """Names of its other resources, such as ``accelerator_type:H100``."""


@dataclass(frozen=True)
class SlotKind:
    """Slots that are alike: what each asks of Ray, and how many there are."""

    request: dict[str, float]
    count: int
    gpu_bytes: int


def slots_per_gpu(gpu_bytes: int, budget_bytes: int, reserve_bytes: int) -> int:
    """Trials whose budgets together stay within the card less the reserve (`DeviceProfile.reserve_bytes`).

    Raises
    ------
    BudgetError
        If not even one does.
    """
    slots = (gpu_bytes - reserve_bytes) // budget_bytes
    if slots < 1:
        raise BudgetError(
            f"a budget of {format_bytes(budget_bytes)} does not fit a GPU of {format_bytes(gpu_bytes)} less the "
            f"reserve of {format_bytes(reserve_bytes)}; give --gpu-memory-budget at most "
            f"{(gpu_bytes - reserve_bytes) // MIB}MiB"
        )
    return int(slots)


def fraction_of(slots: int) -> float:
    """Largest fraction that Ray can count of which `slots` make no more than one GPU."""
    return math.floor(GRAIN / slots) / GRAIN


def gpu_slots(nodes: Iterable[Node], budget_bytes: int | None, reserve_bytes: int) -> list[SlotKind]:
    """Kinds of slots of a cluster's GPU nodes, largest cards first.

    Without a budget a trial has a GPU of its own. Cards too small for the budget take no trials; if all are too small
    that is an error. Cards of different sizes need a resource that tells their nodes apart (Ray gives GPU nodes
    ``accelerator_type:…``).

    Raises
    ------
    BudgetError
        If no card is large enough.
    RunError
        If cards of different sizes cannot be told apart.
    """
    groups: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        if node.gpus:
            groups[node.gpu_bytes].append(node)
    usable = {
        size: group for size, group in groups.items() if budget_bytes is None or size - reserve_bytes >= budget_bytes
    }
    if not usable:
        largest = max(groups)
        assert budget_bytes is not None
        slots_per_gpu(largest, budget_bytes, reserve_bytes)  # raises
    kinds = []
    for size in sorted(usable, reverse=True):
        slots = 1 if budget_bytes is None else slots_per_gpu(size, budget_bytes, reserve_bytes)
        request = {"GPU": fraction_of(slots), "CPU": _cpu_share(usable[size], slots)}
        if len(groups) > 1:
            request[_distinguishing(usable[size], groups, size)] = 1 / GRAIN
        kinds.append(SlotKind(request, slots * sum(node.gpus for node in usable[size]), size))
    return kinds


def _cpu_share(nodes: list[Node], slots: int) -> float:
    """One core a trial, or an equal share where there are fewer cores than slots."""
    fewest = min(node.cpus / (node.gpus * slots) for node in nodes)
    return float(min(1.0, math.floor(fewest * 100) / 100))


def _distinguishing(nodes: list[Node], groups: Mapping[int, list[Node]], size: int) -> str:
    shared = frozenset.intersection(*(node.labels for node in nodes))
    others = frozenset(
        label for other, group in groups.items() if other != size for node in group for label in node.labels
    )
    candidates = sorted(shared - others)
    if not candidates:
        raise RunError(
            f"the cluster has GPUs of several sizes and the nodes with {format_bytes(size)} have no resource of their "
            "own; start them with one, for example ray start --resources '{\"gpu24\": 1}'"
        )
    return candidates[0]


def cpu_slots(cpus: float, concurrency: int | None) -> SlotKind:
    """Slots where there is no GPU: one a core, or as many as were asked for, sharing the cores."""
    count = concurrency or max(1, int(cpus))
    return SlotKind({"CPU": max(1 / GRAIN, min(1.0, math.floor(cpus / count * 100) / 100))}, count, 0)


def counts_now(kinds: Iterable[SlotKind], nodes: Iterable[Node]) -> list[int]:
    """How many slots of each kind the nodes offer that are there now."""
    there = list(nodes)
    counts = []
    for kind in kinds:
        if kind.gpu_bytes:
            gpus = sum(node.gpus for node in there if node.gpu_bytes == kind.gpu_bytes)
            counts.append(round(1 / kind.request["GPU"]) * gpus)
        else:
            counts.append(int(sum(node.cpus for node in there) / kind.request["CPU"]))
    return counts


def nodes_of(described: Iterable[Mapping[str, Any]], gpu_bytes: Mapping[str, int]) -> list[Node]:
    """Nodes as ``ray.nodes()`` describes them, with the GPU memory that was declared or asked for."""
    nodes = []
    for entry in described:
        if not entry.get("Alive", False):
            continue
        resources = entry["Resources"]
        gpus = int(resources.get("GPU", 0))
        node_id = entry["NodeID"]
        declared = int(resources.get(GPU_MEMORY, 0)) * MIB
        own = {"CPU", "GPU", "memory", "object_store_memory", GPU_MEMORY}
        labels = frozenset(name for name in resources if name not in own and not name.startswith("node:"))
        size = (declared or gpu_bytes[node_id]) if gpus else 0
        nodes.append(Node(node_id, float(resources.get("CPU", 0)), gpus, size, labels))
    return nodes
