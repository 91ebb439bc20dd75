"""What the memory planner says, as the search asks it: of parameters, often, and with an answer that is remembered."""

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
"""Points of a border that are kept for each kind of configuration."""


def unplanned(config: TrialConfig) -> MemoryPlan:
    """Without a planner everything runs with the whole batch at once."""
    return MemoryPlan.whole_batch(config.patch.batch_size)


class _Border:
    """Sizes between those known to fit and those known not to; only the outermost of each are kept."""

    def __init__(self) -> None:
        self._fit: list[tuple[int, ...]] = []
        self._unfit: list[tuple[int, ...]] = []

    def says(self, sizes: tuple[int, ...]) -> bool | None:
        """Whether these sizes fit, None where that does not follow from what is known."""
        if any(_within(sizes, known) for known in self._fit):
            return True
        return False if any(_within(known, sizes) for known in self._unfit) else None

    def learn(self, sizes: tuple[int, ...], fits: bool) -> None:
        """What the planner said."""
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
    """Which configurations of a space fit the budget, and by which plan; answers are remembered.

    Parameters
    ----------
    epochs
        Of a trial that is not stopped, which decides the phases that it has; None = as many as the space suggests.
    budget_bytes
        None: everything fits.
    plans
        The memory planner: answers for a configuration (`trainable.memory.planner.Planner.plan`).
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
        """By parameters."""
        self._choices: OrderedDict[MemoryKey, MemoryPlan] = OrderedDict()
        self._borders: dict[Hashable, _Border] = {}
        """By what of a configuration is no size."""
        self.draws_asked = 0
        """Different parameters asked about; of most the answer follows from that for others."""
        self.smallest_bytes = 2**62
        """Fewest bytes that any configuration asked about would need."""

    def plan(self, config: TrialConfig) -> MemoryPlan:
        """The plan for a configuration; the planner is asked once for all that need the same memory."""
        key = memory_key(config)
        choice = self._choices.get(key)
        if choice is None:
            choice = self._plans(config)
            _remember(self._choices, key, choice)
            self.smallest_bytes = min(self.smallest_bytes, choice.predicted_bytes)
            self._borders.setdefault(key.rest, _Border()).learn(key.sizes, choice.fits)
        return choice

    def fits(self, params: Mapping[str, Any]) -> bool:
        """Whether a plan fits; everything does where there is no budget, and then nobody is asked.

        Of two configurations that differ in sizes alone, the larger one fits only if the smaller one does: most
        answers need no question to the planner.
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
        """Refuses a budget that none of the candidates fits; asks no further once one does.

        Raises
        ------
        BudgetError
            Naming the smallest budget that would do.
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
    """A size that `parse_bytes` reads back as no less."""
    return f"{-(-size_bytes // MIB)}MiB"
