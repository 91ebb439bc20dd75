"""The budget of a search in bytes, once its machines are known: the size or share asked for, or the soonest (auto)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console

from search.budget import DRAWS, SAMPLE, Machine, sample
from search.budget_table import show_soonest
from search.engine.space_draws import draw
from search.options import SearchOptions
from search.request import Request
from spaces.space import Space
from trainable.device.budget import AUTO, Budget, Card
from trainable.device.cap import card_of
from trainable.host import available_cores
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.record import RunManifest
from trainable.units import format_bytes

if TYPE_CHECKING:
    from search.runners.ray_session import RaySession

SEED = 0
"""Of the proposals that budgets are compared on: the same choice every time."""


def with_budget(
    request: Request, space: Space, planner: Planner, device: str, ray: "RaySession | None", console: Console
) -> Request:
    """The request with its budget in bytes; says how the words of the command line were understood.

    A resumed run keeps its budget unless other words are given, whatever they would mean on today's cards. Where trials
    run on a CPU, auto is no budget; in this process, where they take turns, it is the whole card.

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
    if request.resumed is not None and _is_own(asked, request.resumed):
        kept = request.resumed.options.get("budget_bytes")
        if request.budget is not None and asked.is_auto and not request.quiet:
            console.print(f"the run keeps its budget: {format_bytes(kept) if kept else 'none'}", soft_wrap=True)
        return _within(request, kept)
    cards = [] if device == "cpu" and asked.is_auto else _cards(device, ray, planner.profile)
    if asked.is_auto and cards and ray is not None:
        budget_bytes = _soonest(request, space, planner, _machine(request.options, ray, cards), console)
        return _within(request, budget_bytes)
    fixed = asked.on(cards)
    if fixed.said and not request.quiet:
        console.print(fixed.said, soft_wrap=True)
    return _within(request, fixed.size_bytes)


def _is_own(asked: Budget, run: RunManifest) -> bool:
    """Whether a budget asked for is the one that a run has, by its words or by its size."""
    by_words = asked.is_auto or asked.text == run.options.get("budget_words")
    return by_words or asked.size_bytes == run.options.get("budget_bytes")


def _within(request: Request, budget_bytes: int | None) -> Request:
    return replace(request, options=replace(request.options, budget_bytes=budget_bytes))


def _cards(device: str, ray: "RaySession | None", profile: DeviceProfile) -> list[Card]:
    """The cards of the trials; where these run on a CPU, the one that the profile was measured on, if any.

    A card that holds no trial at all, such as one for a display, is none of them unless all are so small.
    """
    if device == "cpu":
        cards = [] if profile.total_bytes is None else [Card(profile.total_bytes, profile.reserve_bytes)]
    elif ray is None:
        cards = [card_of(device, profile.reserve_bytes)]
    else:
        cards = [node.card(profile.reserve_bytes) for node in ray.nodes if node.gpus]
    return [card for card in cards if card.usable_bytes > profile.outside_bytes] or cards


def _machine(options: SearchOptions, ray: "RaySession", cards: Sequence[Card]) -> Machine:
    """What trials run on; of cards of several sizes the smallest."""
    nodes = [node for node in ray.nodes if node.gpus]
    # Ray on this machine may have been told of more cores, for as many trials as were asked for.
    most_cores = math.inf if options.address else available_cores()
    trials = options.concurrency or options.num_samples
    return Machine(
        card=min(cards, key=lambda card: card.usable_bytes),
        cores=min(min(node.cpus, most_cores) / node.gpus for node in nodes) or 1.0,
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
