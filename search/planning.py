"""What the memory planner says, as the search asks it: of parameters, often, and with an answer that is remembered."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from spaces.space import Space
from trainable.config import TrialConfig
from trainable.errors import BudgetError
from trainable.plan import ExecutionPlan
from trainable.units import MIB, format_bytes

REMEMBERED = 8192


@dataclass(frozen=True)
class Choice:
    """The plan for some parameters, or that there is none."""

    plan: ExecutionPlan
    """The chosen plan; the smallest one where none fits."""
    predicted_bytes: int
    fits: bool
    reason: str = ""
    """Why it does not fit."""
    allocated_bytes: int = 0
    """What of the predicted bytes PyTorch's allocator holds, without margin."""


class Plans(Protocol):
    """Answers for a configuration; `planner_plans` makes one of the memory planner."""

    def __call__(self, config: TrialConfig) -> Choice: ...


def unplanned(config: TrialConfig) -> Choice:
    """Without a planner everything runs with the whole batch at once."""
    return Choice(ExecutionPlan(micro_batch_clips=config.patch.batch_size), 0, True)


def planner_plans(planner: Any) -> Plans:
    """The memory planner (`trainable.memory.planner.Planner`) as the search asks it."""
    from trainable.memory.planner import DoesNotFit

    def ask(config: TrialConfig) -> Choice:
        answer = planner.plan(config)
        if isinstance(answer, DoesNotFit):
            return Choice(
                answer.smallest_plan,
                answer.smallest_bytes,
                False,
                answer.reason,
                answer.prediction.allocated_bytes,
            )
        return Choice(answer.plan, answer.predicted_bytes, True, allocated_bytes=answer.prediction.allocated_bytes)

    return ask


class Planning:
    """Plans of parameters of a space, remembered; a seed does not change memory.

    Parameters
    ----------
    epochs
        Of a trial that is not stopped, which decides the phases that it has; None = as many as the space suggests.
    budget_bytes
        None: everything fits.
    """

    def __init__(
        self,
        space: Space,
        *,
        budget_bytes: int | None,
        plans: Callable[[TrialConfig], Choice] = unplanned,
        epochs: int | None = None,
    ):
        self.budget_bytes = budget_bytes
        self._epochs = epochs or space.search.max_epochs
        self._space = space
        self._plans = plans
        self._remembered: OrderedDict[tuple[tuple[str, Any], ...], Choice] = OrderedDict()
        self.draws_asked = 0
        self.smallest_bytes = 2**62
        """Fewest bytes that any configuration asked about would need."""

    def choose(self, params: Mapping[str, Any]) -> Choice:
        key = tuple(sorted(params.items()))
        choice = self._remembered.get(key)
        if choice is None:
            choice = self._plans(self._space.config(params, epochs=self._epochs))
            self._remembered[key] = choice
            self.draws_asked += 1
            self.smallest_bytes = min(self.smallest_bytes, choice.predicted_bytes)
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return choice

    def fits(self, params: Mapping[str, Any]) -> bool:
        """Whether a plan fits; everything does where there is no budget, and then nobody is asked."""
        return self.budget_bytes is None or self.choose(params).fits

    def require(self, candidates: Iterable[Mapping[str, Any]]) -> None:
        """Refuses a budget that none of the candidates fits; asks no further once one does.

        Raises
        ------
        BudgetError
            Naming the smallest budget that would do.
        """
        if self.budget_bytes is None:
            return
        smallest: Choice | None = None
        for params in candidates:
            choice = self.choose(params)
            if choice.fits:
                return
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
