"""The budget of a search in bytes, once its machines are known: the size or share asked for, or the soonest (auto)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from search.budget import DRAWS, SAMPLE, Machine, sample
from search.budget_table import show_soonest
from search.plan import draw
from search.request import Request, SearchOptions
from spaces.space import Space
from trainable.device.budget import AUTO, Budget, Card
from trainable.device.cap import card_bytes
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile

if TYPE_CHECKING:
    from search.runners.ray_session import RaySession

SEED = 0
"""Of the proposals that budgets are compared on: the same choice every time."""


def with_budget(
    request: Request, space: Space, planner: Planner, device: str, ray: "RaySession | None", console: Console
) -> Request:
    """The request with its budget in bytes; says how the words of the command line were understood.

    A resumed run keeps its budget unless a size or a share is given. Where trials run on a CPU, auto is no budget; in
    this process, where they take turns, it is the whole card.

    Parameters
    ----------
    planner
        Without a budget.

    Raises
    ------
    ConfigError
        For a share without a card.
    BudgetError
        If the card is smaller than what any process takes.
    """
    asked = request.budget or Budget.read(AUTO)
    if request.resumed is not None and asked.is_auto:
        return request
    cards = [] if device == "cpu" and asked.is_auto else _cards(device, ray, planner.profile)
    if asked.is_auto and cards and ray is not None:
        budget_bytes = _soonest(request, space, planner, _machine(request.options, ray, cards), console)
        return _within(request, budget_bytes)
    fixed = asked.on(cards)
    if fixed.said and not request.quiet:
        console.print(fixed.said, soft_wrap=True)
    return _within(request, fixed.size_bytes)


def _within(request: Request, budget_bytes: int | None) -> Request:
    return replace(request, options=replace(request.options, budget_bytes=budget_bytes))


def _cards(device: str, ray: "RaySession | None", profile: DeviceProfile) -> list[Card]:
    """The cards of the trials; where these run on a CPU, the one that the profile was measured on, if any."""
    if device == "cpu":
        sizes = [] if profile.total_bytes is None else [profile.total_bytes]
    else:
        sizes = [card_bytes(device)] if ray is None else [node.gpu_bytes for node in ray.nodes if node.gpus]
    return [Card(size_bytes, profile.reserve_bytes) for size_bytes in sizes]


def _machine(options: SearchOptions, ray: "RaySession", cards: Sequence[Card]) -> Machine:
    """What trials run on; of cards of several sizes the smallest."""
    nodes = [node for node in ray.nodes if node.gpus]
    trials = options.concurrency or options.num_samples
    return Machine(
        card=min(cards, key=lambda card: card.total_bytes),
        cores=max(1.0, min(node.cpus / node.gpus for node in nodes)),
        most_slots=-(-trials // sum(node.gpus for node in nodes)),
    )


def _soonest(request: Request, space: Space, planner: Planner, machine: Machine, console: Console) -> int:
    """Bytes of the budget that finishes the search soonest; prints what was compared."""
    sampled = sample(
        draw(space, DRAWS, SEED),
        lambda params: space.config(params, epochs=request.options.max_epochs),
        n_ids=planner.data.n_ids,
        count=SAMPLE,
    )
    shown = Console(quiet=True) if request.quiet else console
    return show_soonest(shown, [config for _, config in sampled], planner, machine).budget_bytes
