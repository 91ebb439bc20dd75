"""Which GPU memory budget finishes a search soonest: ``--gpu-memory-budget auto``.

A small budget packs many trials onto a card, but its plans are slower, and some proposals have none. The model:

- A trial alone takes max(device, host) seconds an epoch (`trainable.timing`): its kernels run, or wait to be launched.
- n trials at a time finish min(n / alone, 1 / device, cores / host) epochs a second, with means over the proposals: the
  most that n slots, the card and the cores can do (bounds of Denning and Buzen, "The Operational Analysis of Queueing
  Network Models", 1978). So trials wait for launches until the card is full, and then share it.
- The micro-batches of a smaller plan add launches; recomputation, and features on the host, take both times as much
  longer as the planner estimates (`Planner.relative_time`).

Speeds are compared on the proposals that a budget allows, with what one trial at a time reaches under the whole card's
plans. A budget that excludes more than `MOST_EXCLUDED` of the proposals beyond those the whole card excludes is never
chosen: it would finish soonest by leaving the large ones out.

Limits: proposals are uniform draws, which a sampler's later ones are not. Trials that share a card are taken not to
slow each other down before it is full: of 2, 4 and 8 small trials on an H100 the model says 2, 4 and 4.7 times as many
an hour, where 1.8, 3.5 and 4.9 were measured. The host's memory, some GiB a process on a GPU, is not counted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, TypeVar

from search.runners.packing import GRAIN, countable, slots_per_gpu
from trainable.config import TrialConfig
from trainable.device.budget import Card
from trainable.execution_plan import ExecutionPlan, MemoryPlan
from trainable.units import MIB, counted, format_bytes

if TYPE_CHECKING:
    from trainable.memory.planner import Planner
    from trainable.timing.speed import Seconds

SLOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Trials a card that are tried; each gives a budget, that share of the card."""
MOST_EXCLUDED = 0.05
"""Share of the proposals that a chosen budget may exclude beyond those that the whole card excludes."""
NO_FASTER = 1.02
"""Of budgets whose speeds differ by less than this factor the largest is chosen: its plans are the simplest."""
KERNEL_SECONDS = 6e-6
"""The least that a kernel occupies a card that processes share, however little it computes: what makes the model agree
with the eight trials at a time of benchmarks/results/h100/packing.csv."""
SAMPLE = 96
"""Proposals that are planned to choose a budget."""
DRAWS, STRATA = 2048, 24
"""Uniform draws that a sample is taken from, and the parts that these are divided into (`sample`)."""
Drawn = TypeVar("Drawn")


TimeOf = Callable[[TrialConfig, ExecutionPlan], "Seconds"]
"""Predicted seconds of an epoch under a plan."""


@dataclass(frozen=True)
class Machine:
    """What a search's trials run on, for each card."""

    card: Card
    """The smallest one."""
    cores: float | None = None
    """CPU cores for the trials of a card; None = one for each."""
    most_slots: int = SLOTS[-1]
    """Trials that the search has for a card at a time."""

    def slots(self, budget_bytes: int) -> int:
        """Trials at a time on the card. Raises BudgetError if it is too small for one."""
        fitting = slots_per_gpu(self.card, budget_bytes)
        return min(self.most_slots, countable(min(GRAIN, fitting)))

    def budgets(self) -> list[int]:
        """Budgets in bytes that hold 1, 2, 3 … trials on the card, the largest first."""
        return [self.card.usable_bytes // slots // MIB * MIB for slots in SLOTS if slots <= self.most_slots]


@dataclass(frozen=True)
class Outlook:
    """What a search may expect of a budget."""

    budget_bytes: int
    whole: float
    """Share of the proposals that are trained as without a budget."""
    smaller: float
    """Share that a smaller plan makes fit."""
    slots: int | None = None
    """Trials at a time on a card; None where no card is known."""
    speedup: float | None = None
    """Trials an hour on a card, relative to one at a time with the whole card."""
    at_its_best: bool = False
    """Whether more trials on the card would not finish sooner: it is full, or the cores are."""

    @property
    def excluded(self) -> float:
        """Share of the proposals that no plan makes fit."""
        return max(0.0, 1.0 - self.whole - self.smaller)

    def __str__(self) -> str:
        slots = [] if self.slots is None else [f"{counted(self.slots, 'trial')} a card"]
        shares = [
            f"{self.whole:.0%} of proposals unsplit",
            f"{self.smaller:.0%} by a smaller plan",
            f"{self.excluded:.0%} not at all",
        ]
        speed = [] if self.speedup is None else [f"{self.speedup:.1f} × as many trials an hour as one at a time"]
        return f"budget {format_bytes(self.budget_bytes)}: {', '.join([*slots, *shares, *speed])}"


class Outlooks:
    """Plans the same proposals under one budget after another.

    Parameters
    ----------
    planner
        Without a budget.
    machine, time_of
        What the trials run on, and the seconds of an epoch there; None = shares alone.
    """

    def __init__(
        self,
        configs: Sequence[TrialConfig],
        planner: "Planner",
        machine: Machine | None = None,
        time_of: TimeOf | None = None,
    ):
        self._configs, self._planner, self._machine, self._time_of = configs, planner, machine, time_of
        self._unlimited = [planner.plan(config) for config in configs]
        self._whole_card = None if machine is None or time_of is None else self.plans(machine.card.usable_bytes)

    def plans(self, budget_bytes: int | None, larger: Sequence[MemoryPlan] | None = None) -> list[MemoryPlan]:
        """The plan of every configuration under a budget; None = no budget.

        Parameters
        ----------
        larger
            The plans under a larger budget, which stay where they fit, and where nothing does.
        """
        if budget_bytes is None:
            return self._unlimited
        planner = self._planner.within(budget_bytes)
        return [
            choice if not choice.fits or choice.predicted_bytes <= budget_bytes else planner.plan(config)
            for config, choice in zip(self._configs, larger or self._unlimited, strict=True)
        ]

    def under(self, budgets: Iterable[int]) -> Iterator[Outlook]:
        """What to expect of each budget, the largest first. Raises BudgetError if the card is too small for one."""
        plans: list[MemoryPlan] | None = None
        for budget_bytes in budgets:
            plans = self.plans(budget_bytes, plans)
            yield self.outlook(budget_bytes, plans)

    def outlook(self, budget_bytes: int, plans: Sequence[MemoryPlan]) -> Outlook:
        """What to expect of a budget with these plans. Raises BudgetError if the card is too small for it."""
        fits = [index for index, choice in enumerate(plans) if choice.fits]
        whole = [index for index in fits if plans[index].plan == self._unlimited[index].plan]
        shares = Outlook(budget_bytes, len(whole) / len(plans), (len(fits) - len(whole)) / len(plans))
        if self._machine is None:
            return shares
        slots = self._machine.slots(budget_bytes)
        if self._whole_card is None or not fits:
            return replace(shares, slots=slots)
        rate = self._rate(fits, plans)
        alone = self._rate(fits, self._whole_card).of(1)
        full = rate.of(slots + 1) <= rate.of(slots)
        return replace(shares, slots=slots, speedup=rate.of(slots) / alone, at_its_best=full)

    def _rate(self, indices: Iterable[int], plans: Sequence[MemoryPlan]) -> "_Rate":
        assert self._time_of is not None
        assert self._machine is not None
        seconds = [self._time_of(self._configs[index], plans[index].plan) for index in indices]
        return _Rate(
            alone=fmean(each.alone for each in seconds),
            device=fmean(each.device for each in seconds),
            host=fmean(each.host for each in seconds),
            cores=self._machine.cores,
        )


@dataclass(frozen=True)
class _Rate:
    """Mean seconds of an epoch of some trials."""

    alone: float
    device: float
    host: float
    cores: float | None

    def of(self, slots: int) -> float:
        """Epochs a second on a card with that many trials at a time."""
        limits = [slots / self.alone, 1 / self.device]
        return min(limits if self.cores is None else [*limits, self.cores / self.host])


def choose(outlooks: Sequence[Outlook]) -> Outlook:
    """Of outlooks, the largest budget first, the one that finishes the search soonest."""
    allowed = [each for each in outlooks if each.excluded <= outlooks[0].excluded + MOST_EXCLUDED]
    soonest = max(each.speedup or 0.0 for each in allowed)
    return next(each for each in allowed if (each.speedup or 0.0) * NO_FASTER >= soonest)


def tried(configs: Sequence[TrialConfig], planner: "Planner", machine: Machine, time_of: TimeOf) -> list[Outlook]:
    """Outlooks of budgets that hold more and more trials on a card, until a smaller one cannot be better."""
    first, *smaller = machine.budgets()
    budgets = [first, *(each for each in smaller if each > planner.profile.outside_bytes)]
    outlooks: list[Outlook] = []
    for outlook in Outlooks(configs, planner, machine, time_of).under(budgets):
        outlooks.append(outlook)
        if outlook.at_its_best or outlook.excluded > outlooks[0].excluded + MOST_EXCLUDED:
            break
    return outlooks


def time_on(planner: "Planner", device: str) -> TimeOf:
    """Predicted seconds of an epoch on a device, for any plan."""
    # Imported here, as is what plans: a command's --help needs no torch.
    from trainable.timing.speed import Seconds, Speed
    from trainable.timing.work import epoch_work

    speed = Speed.of(planner.profile, device)

    def time_of(config: TrialConfig, plan: ExecutionPlan) -> Seconds:
        # Counting recomputation would take a run of the step for each kind of it.
        plain = replace(plan, recompute_encoder=False, recompute_decoder=False, data_placement="device")
        longer = planner.relative_time(config, plan) / planner.relative_time(config, plain)
        work = epoch_work(config, planner.data, plain)
        seconds = speed.seconds(work)
        return Seconds((seconds.device + work.launches * KERNEL_SECONDS) * longer, seconds.host * longer)

    return time_of


def sample(
    draws: Sequence[Drawn], config_of: Callable[[Drawn], TrialConfig], *, n_ids: int, count: int
) -> list[tuple[Drawn, TrialConfig]]:
    """Draws that stand for all of them and have few architectures, since a new one takes most of a prediction's time.

    The draws are ordered by architecture and cut into `STRATA` equal parts, each of which gives neighbours from a
    random place: a stratified sample, in which architectures are as frequent as among the draws. It is the same every
    time.

    Parameters
    ----------
    n_ids
        Machine ids of the data.
    """
    from trainable.memory.predict import architecture_of

    pairs = [(draw, config_of(draw)) for draw in draws]
    ordered = sorted(pairs, key=lambda pair: repr(architecture_of(pair[1], n_ids)))
    strata, places = min(count, STRATA), Random(0)
    chosen: list[tuple[Drawn, TrialConfig]] = []
    for turn in range(strata):
        neighbours = count * (turn + 1) // strata - count * turn // strata
        begin, end = (each * len(ordered) // strata for each in (turn, turn + 1))
        place = places.randint(begin, end - neighbours)
        chosen += ordered[place : place + neighbours]
    return chosen
