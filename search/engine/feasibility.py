"""Asks the memory planner whether parameters fit the budget, and caches its answers."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from spaces.space import Space
from trainable.config import TrialConfig
from trainable.errors import BudgetError
from trainable.execution_plan import MemoryPlan
from trainable.memory.key import MemoryKey, memory_key
from trainable.units import MIB, format_bytes

REMEMBERED = 8192
BORDER = 64
"""Points kept on each side of a border."""


def unplanned(config: TrialConfig) -> MemoryPlan:
    """The plan used without a planner: the whole batch at once."""
    return MemoryPlan.whole_batch(config.patch.batch_size)


class _Border:
    """The largest sizes known to fit and the smallest known not to."""

    def __init__(self) -> None:
        self._fit: list[tuple[int, ...]] = []
        self._unfit: list[tuple[int, ...]] = []

    def says(self, sizes: tuple[int, ...]) -> bool | None:
        """Whether these sizes fit; None if the known sizes do not decide it."""
        if any(_within(sizes, known) for known in self._fit):
            return True
        return False if any(_within(known, sizes) for known in self._unfit) else None

    def learn(self, sizes: tuple[int, ...], fits: bool) -> None:
        """Adds an answer of the planner."""
        if fits:
            self._fit = [*[known for known in self._fit if not _within(known, sizes)][-BORDER:], sizes]
        else:
            self._unfit = [*[known for known in self._unfit if not _within(sizes, known)][-BORDER:], sizes]


def _within(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return all(one <= other for one, other in zip(small, large, strict=True))


def _remember(table: OrderedDict[Any, Any], key: Hashable, value: object) -> None:
    table[key] = value
    if len(table) > REMEMBERED:
        table.popitem(last=False)


class Feasibility:
    """Which configurations of a space fit the budget, and with which plan; answers are cached.

    Parameters
    ----------
    epochs
        Epochs of a trial that is not stopped, which determine its phases; None = the space's default.
    budget_bytes
        None: everything fits.
    plans
        The memory planner (`trainable.memory.planner.Planner.plan`).
    """

    def __init__(
        self,
        space: Space,
        *,
        budget_bytes: int | None,
        plans: Callable[[TrialConfig], MemoryPlan] = unplanned,
        epochs: int | None = None,
    ):
        self.budget_bytes = budget_bytes
        self._epochs = epochs or space.search.max_epochs
        self._space = space
        self._plans = plans
        self._answers: OrderedDict[Hashable, bool] = OrderedDict()
        """Whether parameters fit, by their sorted items."""
        self._choices: OrderedDict[MemoryKey, MemoryPlan] = OrderedDict()
        self._borders: dict[Hashable, _Border] = {}
        """Borders by the part of a configuration's memory key that is not a size (`MemoryKey.rest`)."""
        self.draws_asked = 0
        """Distinct parameters checked; most answers follow from earlier ones without the planner."""
        self.smallest_bytes = 2**62
        """Smallest prediction of the planner so far."""

    def plan(self, config: TrialConfig) -> MemoryPlan:
        """The plan for a configuration; configurations that need the same memory share one call of the planner."""
        key = memory_key(config)
        choice = self._choices.get(key)
        if choice is None:
            choice = self._plans(config)
            _remember(self._choices, key, choice)
            self.smallest_bytes = min(self.smallest_bytes, choice.predicted_bytes)
            self._borders.setdefault(key.rest, _Border()).learn(key.sizes, choice.fits)
        return choice

    def fits(self, params: Mapping[str, Any]) -> bool:
        """Whether any plan fits; without a budget always True, without asking the planner.

        If two configurations differ only in sizes, the larger one fits only if the smaller one does, so most answers
        need no call of the planner.
        """
        if self.budget_bytes is None:
            return True
        params_key = tuple(sorted(params.items()))
        known = self._answers.get(params_key)
        if known is None:
            config = self._space.config(params, epochs=self._epochs)
            key = memory_key(config)
            border = self._borders.get(key.rest)
            known = None if border is None else border.says(key.sizes)
            if known is None:
                known = self.plan(config).fits
            self.draws_asked += 1
            _remember(self._answers, params_key, known)
        return known

    def require(self, candidates: Iterable[Mapping[str, Any]]) -> None:
        """Checks that at least one candidate fits the budget; stops at the first that does.

        Raises
        ------
        BudgetError
            If none fits; the message names the smallest budget that would suffice.
        """
        if self.budget_bytes is None:
            return
        smallest: MemoryPlan | None = None
        for params in candidates:
            if self.fits(params):
                return
            choice = self.plan(self._space.config(params, epochs=self._epochs))
            if smallest is None or choice.predicted_bytes < smallest.predicted_bytes:
                smallest = choice
        assert smallest is not None
        raise BudgetError(
            f"nothing in space {self._space.name!r} fits {format_bytes(self.budget_bytes)}: the smallest of its "
            f"configurations tried needs {format_bytes(smallest.predicted_bytes)} with the plan "
            f"({smallest.plan.describe()}); give --gpu-memory-budget at least {_rounded_up(smallest.predicted_bytes)}"
        )


def _rounded_up(size_bytes: int) -> str:
    """The size in MiB, rounded up, in a form that `parse_bytes` reads."""
    return f"{-(-size_bytes // MIB)}MiB"
