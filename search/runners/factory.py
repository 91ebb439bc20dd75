"""Makes the trials that runners drive: one data set, one planner, one device, whatever the configuration."""

from dataclasses import dataclass
from typing import Any

from trainable.config import TrialConfig
from trainable.data.load import Dataset
from trainable.execution_plan import ExecutionPlan
from trainable.record import TrialStart
from trainable.trial import Trial, default_plan


@dataclass(frozen=True)
class TrialFactory:
    """Turns the start of a trial into the object that trains it.

    It travels to every node once (the features are arrays in Ray's object store, shared without a copy) and stands in
    each slot as long as the slot lives.
    """

    dataset: Dataset
    planner: Any
    """`trainable.memory.planner.Planner`: knows the next smaller plan when memory runs out after all."""
    device: str
    budget_bytes: int | None
    """Cap on the device's allocator; None caps nothing."""

    def __call__(self, start: TrialStart) -> Trial:
        """A trial at its first epoch.

        Raises
        ------
        RuntimeError
            If not even the weights fit.
        """
        from trainable.device.cap import cap_process_memory

        cap_process_memory(self.budget_bytes, self.device, self.planner.profile.outside_bytes)
        config = TrialConfig.from_flat(start.config)
        return Trial(
            config,
            self.dataset,
            plan=default_plan(config) if start.plan is None else ExecutionPlan.from_dict(start.plan),
            device=self.device,
            predicted_bytes=start.predicted_bytes,
            predicted_allocated_bytes=start.predicted_allocated_bytes,
            next_smaller_plan=lambda plan: self.planner.next_smaller(config, plan),
            predict=lambda plan: self.planner.predict(config, plan).predicted_bytes,
            predict_allocated=lambda plan: self.planner.predict(config, plan).allocated_bytes,
        )
