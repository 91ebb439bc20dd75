"""Creates the trials that runners drive, all with the same data set, planner and device."""

from dataclasses import dataclass

from trainable.data.load import Dataset
from trainable.execution_plan import MemoryPlan
from trainable.memory.planner import Planner
from trainable.record import TrialStart
from trainable.trial import PlannedTrial, Trial


@dataclass(frozen=True)
class TrialFactory:
    """Turns the start of a trial into the object that trains it.

    It is sent to every node once (the features are arrays in Ray's object store, shared without a copy) and stays in
    each slot for the slot's lifetime.
    """

    dataset: Dataset
    planner: Planner
    """Gives the next smaller plan if memory runs out after all."""
    device: str
    budget_bytes: int | None
    """Cap on the device's allocator; None = no cap."""

    def __call__(self, start: TrialStart) -> Trial:
        """A trial at its first epoch.

        Raises
        ------
        BudgetError
            If no plan fits what the driver leaves of the budget in this process.
        RuntimeError
            If not even the weights fit.
        """
        from trainable.device.cap import cap_process_memory

        profile = self.planner.profile
        cap = cap_process_memory(self.budget_bytes, self.device, profile.outside_bytes, profile.amp_precision)
        assert start.plan is not None, "a trial that no plan fits is never started"
        memory = MemoryPlan(start.plan, start.predicted_bytes, allocated_bytes=start.predicted_allocated_bytes)
        return Trial(PlannedTrial(start.config, memory, self.planner, cap), self.dataset, device=self.device)
