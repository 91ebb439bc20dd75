"""How many trials fit on the machines: a trial requests budget ÷ GPU memory of a GPU from Ray."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainable.device.budget import Card
from trainable.errors import BudgetError, RunError
from trainable.units import MIB, format_bytes

GPU_MEMORY = "gpu_memory_mib"
"""Ray resource with which a node may declare the memory of each of its GPUs (MiB); otherwise it is queried."""
GRAIN = 10_000
"""Ray counts fractions of a resource in ten-thousandths."""


@dataclass(frozen=True)
class GpuMemory:
    """Memory of each GPU of a node."""

    total_bytes: int
    taken_bytes: int = 0
    """What other programs hold of it."""


@dataclass(frozen=True)
class Node:
    """Resources of a node."""

    node_id: str
    cpus: float
    gpus: int
    gpu_bytes: int
    """Memory of each of its GPUs; 0 without one."""
    labels: frozenset[str] = frozenset()
    """Names of its other resources, such as ``accelerator_type:H100``."""
    taken_bytes: int = 0
    """What other programs hold of each of its GPUs."""

    def card(self, reserve_bytes: int) -> Card:
        """One of its GPUs."""
        return Card(self.gpu_bytes, reserve_bytes, self.taken_bytes)


@dataclass(frozen=True)
class SlotKind:
    """Identical slots: the Ray resources that each requests, and their number."""

    request: dict[str, float]
    count: int
    gpu_bytes: int
    """Memory of the smallest of its GPUs; 0 without a GPU."""
    per_gpu: int = 0
    """Slots per GPU."""
    node_ids: frozenset[str] = frozenset()
    """Nodes whose GPUs have these slots; empty without a GPU."""
    threads: int = 1
    """CPU threads that each may compute with: its share of the cores of the node with the fewest."""


def slots_per_gpu(card: Card, budget_bytes: int) -> int:
    """Number of trials whose budgets fit a GPU. Raises BudgetError if not even one does."""
    slots = card.usable_bytes // budget_bytes
    if slots < 1:
        raise BudgetError(
            f"a budget of {format_bytes(budget_bytes)} does not fit {card.limits}; give --gpu-memory-budget at most "
            f"{card.usable_bytes // MIB}MiB"
        )
    return slots


def countable(slots: int) -> int:
    """The largest number up to `slots` for which Ray places exactly that many trials on a GPU.

    Ray counts in ten-thousandths: 1/150 becomes 0.0066, of which 151 fit, one more than the GPU has memory for.
    """
    while GRAIN // (GRAIN // slots) != slots:
        slots -= 1
    return slots


def fraction_of(slots: int) -> float:
    """Largest fraction that Ray can represent of which `slots` fit one GPU."""
    return (GRAIN // slots) / GRAIN


def gpu_slots(nodes: Iterable[Node], budget_bytes: int | None, reserve_bytes: int) -> list[SlotKind]:
    """Kinds of slots of a cluster's GPU nodes, those with the most slots per GPU first.

    Without a budget each trial has a whole GPU. GPUs too small for the budget get no trials. GPUs of different sizes
    are one kind if they hold the same number of trials; otherwise their nodes need a resource that distinguishes them
    (Ray gives GPU nodes ``accelerator_type:…``), and each such resource is a separate kind.

    Raises
    ------
    BudgetError
        If no GPU is large enough.
    RunError
        If GPUs that hold different numbers of trials cannot be distinguished.
    """
    groups: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        if node.gpus:
            groups[_slots_of(node, budget_bytes, reserve_bytes)].append(node)
    if set(groups) == {0}:
        assert budget_bytes is not None
        cards = [node.card(reserve_bytes) for node in groups[0]]
        slots_per_gpu(max(cards, key=lambda card: card.usable_bytes), budget_bytes)  # raises
    kinds = []
    for slots in sorted(groups, reverse=True):
        if slots == 0:
            continue
        others = [node for other, group in groups.items() if other != slots for node in group]
        for label, mine in _distinguished(groups[slots], others):
            request = {"GPU": fraction_of(slots), **_cpu_share(mine, slots)}
            if label is not None:
                request[label] = 1 / GRAIN
            kinds.append(
                SlotKind(
                    request,
                    count=slots * sum(node.gpus for node in mine),
                    gpu_bytes=min(node.gpu_bytes for node in mine),
                    per_gpu=slots,
                    node_ids=frozenset(node.node_id for node in mine),
                    threads=max(1, min(int(node.cpus / (node.gpus * slots)) for node in mine)),
                )
            )
    return kinds


def _slots_of(node: Node, budget_bytes: int | None, reserve_bytes: int) -> int:
    """Slots per GPU of a node; 0 if the budget is too large for it."""
    if budget_bytes is None:
        return 1
    card = node.card(reserve_bytes)
    if card.usable_bytes < budget_bytes:
        return 0
    return countable(min(GRAIN, slots_per_gpu(card, budget_bytes)))


def _cpu_share(nodes: list[Node], slots: int) -> dict[str, float]:
    """One core per trial, or an equal share if there are fewer cores than slots; empty for nodes without cores."""
    fewest = min(node.cpus / (node.gpus * slots) for node in nodes)
    share = min(GRAIN, math.floor(fewest * GRAIN))
    return {"CPU": share / GRAIN} if share else {}


def _distinguished(nodes: list[Node], others: list[Node]) -> Iterator[tuple[str | None, list[Node]]]:
    """Resources that only `nodes` have, not `others`, each with its nodes; None if there are no others."""
    if not others:
        yield None, nodes
        return
    theirs = frozenset(label for node in others for label in node.labels)
    rest = list(nodes)
    while rest:
        having = {label: [node for node in rest if label in node.labels] for node in rest for label in node.labels}
        candidates = sorted((-len(mine), label) for label, mine in having.items() if label not in theirs)
        if not candidates:
            sizes = ", ".join(sorted({format_bytes(node.gpu_bytes) for node in rest}))
            raise RunError(
                f"the cluster has GPUs that hold different numbers of trials, and nodes with {sizes} have no resource "
                "that distinguishes them; start them with one, for example ray start --resources '{\"gpu24\": 1}'"
            )
        label = candidates[0][1]
        yield label, having[label]
        rest = [node for node in rest if label not in node.labels]


def cpu_slots(cpus: float, concurrency: int | None) -> SlotKind:
    """Slots without a GPU: one per core, or `concurrency` many that share the cores."""
    count = concurrency or max(1, int(cpus))
    share = max(1, min(GRAIN, math.floor(cpus / count * GRAIN)))
    return SlotKind({"CPU": share / GRAIN}, count, 0, threads=max(1, int(cpus / count)))


def counts_now(kinds: Iterable[SlotKind], nodes: Iterable[Node]) -> list[int]:
    """How many slots of each kind the current nodes offer."""
    there = list(nodes)
    counts = []
    for kind in kinds:
        if kind.node_ids:
            counts.append(kind.per_gpu * sum(node.gpus for node in there if node.node_id in kind.node_ids))
        else:
            units = sum(math.floor(node.cpus * GRAIN) // round(kind.request["CPU"] * GRAIN) for node in there)
            counts.append(min(kind.count, units))
    return counts


def nodes_of(described: Iterable[Mapping[str, Any]], asked: Mapping[str, GpuMemory]) -> list[Node]:
    """Nodes from the output of ``ray.nodes()``, with the GPU memory that each declared or was asked for."""
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
        memory = GpuMemory(declared)
        if gpus and not declared:
            memory = asked.get(node_id, memory)
        cpus = float(resources.get("CPU", 0))
        nodes.append(Node(node_id, cpus, gpus, memory.total_bytes, labels, memory.taken_bytes))
    return nodes
