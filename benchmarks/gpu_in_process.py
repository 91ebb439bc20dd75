"""Many cases in one process on a GPU, each with an empty allocator, so its peaks are those of a fresh process."""

import gc
import itertools
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu_cases import IDS
from trainable.config import TrialConfig
from trainable.data.clips import TrainClips
from trainable.device._torch_private import clear_workspaces
from trainable.device.out_of_memory import is_out_of_memory
from trainable.execution_plan import ExecutionPlan
from trainable.training.batch import Batch
from trainable.training.phases import phase_at
from trainable.training.trainer import NextPlan, Trainer

STEPS = 2
"""Steps of a measured epoch: the second runs beside everything that the first left behind."""
EPOCHS = 2
PHASE_2 = {"epochs": 1_000, "vq_only_share": 0.0, "frozen_share": 0.0}
"""Knobs with which every measured epoch is in phase 2: heads on, the codebook learns."""
DEVICE = torch.device("cuda", 0)


class ShortEpochs(Trainer):
    """Trains the first steps of every epoch only: memory and time of a step do not depend on their number."""

    steps = STEPS

    def _batches(self) -> Iterator[tuple[Batch, int]]:
        yield from itertools.islice(super()._batches(), self.steps)

    def one_step(self) -> None:
        """The next epoch's first step alone: what runs for every batch, and nothing that runs once an epoch."""
        batch, _ = next(self._batches())
        self._step(batch, phase_at(self.config, self.epoch))


def empty_allocator(cap_bytes: int | None = None) -> None:
    """Returns all that earlier cases left, sets the cap of the next one (bytes of the allocator), and resets peaks."""
    gc.collect()
    torch.cuda.synchronize()
    clear_workspaces()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction(1.0 if cap_bytes is None else min(1.0, cap_bytes / total), DEVICE)
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.reset_accumulated_memory_stats()


def measured(
    config: TrialConfig,
    plan: ExecutionPlan,
    clips: TrainClips,
    *,
    cap_bytes: int | None = None,
    next_plan: NextPlan | None = None,
) -> dict[str, Any]:
    """Trains as a trial does (start of the codebook, steps, scoring pass); returns its peaks (bytes) and events.

    `retries` counts how often the allocator had to give back cached memory to stay within its cap. A training that
    runs out of memory to the end has ``failed``, the reason.
    """
    empty_allocator(cap_bytes)
    try:
        trainer = ShortEpochs(
            config.replace(**PHASE_2), clips, IDS, plan=plan, device=DEVICE, next_smaller_plan=next_plan
        )
        for _ in range(EPOCHS):
            trainer.train_epoch()
        trainer.encode(clips, with_errors=True)
        torch.cuda.synchronize()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"failed": " ".join(str(error).split())[:160]}
    seen = torch.cuda.memory_stats()
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "retries": seen["num_alloc_retries"],
        "events": len(trainer.events),
        "plan_after": trainer.plan.describe(),
    }
