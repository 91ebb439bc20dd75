"""What a search would run (``--dry-run``): its size, the machines' slots, and the memory of its first proposals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console

from search.engine.asha import Asha
from search.engine.space_draws import draw
from search.options import SearchOptions
from search.plan import Timed, print_plans, print_share
from spaces.space import Space
from trainable.units import counted, duration_text, format_bytes

if TYPE_CHECKING:
    from trainable.memory.planner import Planner

SAMPLED = 16
"""Proposals that are planned."""
SHOWN = 3


def print_dry_run(
    console: Console,
    options: SearchOptions,
    space: Space,
    planner: "Planner",
    *,
    initial: Sequence[dict[str, Any]],
    workers: int,
    device: str,
) -> None:
    """Prints what a search would run.

    Parameters
    ----------
    initial
        Parameters that the search proposes first. Uniform draws, as the sampler begins with, follow them.
    workers
        Trials at a time.
    """
    for line in _size(options, space, len(initial), workers, device):
        console.print(line, soft_wrap=True)
    proposals = [*initial, *draw(space, SAMPLED, options.seed)][:SAMPLED]
    timed = Timed(planner, device)
    planned = [timed.planned(params, space.config(params, epochs=options.max_epochs)) for params in proposals]
    print_share(console, "the first proposals", [item.choice for item in planned], planner)
    largest = max((item.choice.predicted_bytes for item in planned if item.choice.fits), default=None)
    if largest is not None:
        console.print(
            f"estimated memory of {counted(workers, 'trial')} at a time: up to {format_bytes(workers * largest)}"
        )
    print_plans(console, planned[:SHOWN])
    console.print("a dry run: no trial was started and no run's folder written; leave out --dry-run to search")


def _size(options: SearchOptions, space: Space, initial: int, workers: int, device: str) -> list[str]:
    asha = Asha(
        grace_period=options.grace_period,
        reduction_factor=options.reduction_factor,
        max_epochs=options.max_epochs,
        longest_warmup=space.longest_warmup,
    )
    rungs = ", ".join(map(str, asha.rung_epochs))
    stops = (
        f"the best 1/{options.reduction_factor} continue after epoch {rungs}"
        if rungs
        else "none is stopped before that"
    )
    budget = "no budget" if options.budget_bytes is None else f"{format_bytes(options.budget_bytes)} each"
    limit = options.time_limit_seconds
    before = f"first {initial} that did well before, then " if initial else ""
    return [
        f"space {space.name}: {counted(options.num_samples, 'trial')} of up to {counted(options.max_epochs, 'epoch')}, "
        f"{options.num_samples * options.max_epochs:,} in all at most; {stops}",
        f"{workers} at a time on {device}, {budget}; "
        + ("no time limit" if limit is None else f"until {duration_text(limit)} have passed"),
        f"proposals: {before}those of sampler {options.sampler}",
    ]
