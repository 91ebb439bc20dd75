"""Compares budgets for a reader (`search.budget`): a table, and the one that finishes a search soonest."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from search.budget import Machine, Outlook, choose, time_on, tried
from trainable.config import TrialConfig
from trainable.units import format_bytes

if TYPE_CHECKING:
    from trainable.memory.planner import Planner

COLUMNS = ("budget", "trials a card", "unsplit", "smaller plan", "not at all", "trials an hour")


def show_soonest(console: Console, configs: Sequence[TrialConfig], planner: "Planner", machine: Machine) -> Outlook:
    """The budget that finishes a search of such configurations soonest; prints what was compared.

    Parameters
    ----------
    planner
        Without a budget.
    """
    cores = "" if machine.cores is None else f" and {machine.cores:.3g} CPU cores"
    console.print(f"looking for the budget that finishes soonest on {machine.card}{cores}", soft_wrap=True)
    outlooks = tried(configs, planner, machine, time_on(planner, "cuda"))
    chosen = choose(outlooks)
    print_outlooks(console, outlooks, chosen)
    console.print(str(chosen), soft_wrap=True)
    return chosen


def print_outlooks(console: Console, outlooks: Sequence[Outlook], chosen: Outlook | None = None) -> None:
    """Prints a row for each budget; where a card is not known, without trials a card and an hour."""
    known = [index for index, cell in enumerate(_cells(outlooks[0])) if cell]
    table = Table(box=None, pad_edge=False)
    for index in known:
        table.add_column(COLUMNS[index], justify="right")
    table.add_column("")
    for outlook in outlooks:
        cells = _cells(outlook)
        mark, style = ("←", "bold") if outlook is chosen else ("", None)
        table.add_row(*(cells[index] for index in known), mark, style=style)
    console.print(table)


def _cells(outlook: Outlook) -> list[str]:
    """Texts of the columns, empty where nothing is known."""
    return [
        format_bytes(outlook.budget_bytes),
        "" if outlook.slots is None else str(outlook.slots),
        *(f"{share:.0%}" for share in (outlook.whole, outlook.smaller, outlook.excluded)),
        "" if outlook.speedup is None else f"{outlook.speedup:.1f} ×",
    ]
