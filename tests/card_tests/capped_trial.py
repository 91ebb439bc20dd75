"""Trains one capped trial and prints, as JSON, its reports, the driver's count afterwards and how it ended."""

import argparse
import json
import sys
from typing import Any

import torch

from tests.fixtures_data import make_tiny_dataset
from trainable.config import TrialConfig
from trainable.device.cap import cap_process_memory, gpu_name, measured_outside_bytes, memory_in_use
from trainable.device.out_of_memory import is_out_of_memory
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.trial import PlannedTrial, Trial
from trainable.units import MIB

CONFIG = TrialConfig.from_flat(
    {"epochs": 2, "width": 0.25, "n_patches": 2, "num_embeddings": 16, "latent_dim": 8, "head_hidden": 32}
)
BLOCK_BYTES = 16 * MIB


def take(size_bytes: int) -> None:
    """Holds so much for a moment."""
    blocks = [torch.empty(BLOCK_BYTES, dtype=torch.uint8, device="cuda") for _ in range(-(-size_bytes // BLOCK_BYTES))]
    del blocks


def greedy(trial: Trial, size_bytes: int) -> None:
    """Makes every step of a trial take so much first, under whatever plan."""
    step = trial.trainer._step

    def taking(*arguments: Any) -> Any:
        take(size_bytes)
        return step(*arguments)

    trial.trainer._step = taking  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget-mib", type=int, required=True)
    parser.add_argument("--takes-mib", type=int, default=0)
    parser.add_argument("--wait", action="store_true", help="begin to train at a line of input, end at the next")
    arguments = parser.parse_args()
    budget_bytes = arguments.budget_mib * MIB
    gpu_name("cuda")
    profile = DeviceProfile()
    cap = cap_process_memory(budget_bytes, "cuda", profile.outside_bytes)
    dataset = make_tiny_dataset()
    planner = Planner.for_dataset(dataset, budget_bytes=budget_bytes, profile=profile)
    memory = planner.plan(CONFIG)
    sizes = [planner.predict(CONFIG, plan).predicted_bytes for plan in planner.candidates(CONFIG)]
    trial = Trial(PlannedTrial(CONFIG, memory, planner, cap), dataset, device="cuda")
    if arguments.takes_mib:
        greedy(trial, arguments.takes_mib * MIB)
    if arguments.wait:
        print("ready", flush=True)
        sys.stdin.readline()
    reports, end = [], "completed"
    while not trial.done and end == "completed":
        try:
            reports.append(trial.step().to_dict())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            end = "out_of_memory"
    expandable = [segment["is_expandable"] for segment in torch.cuda.memory_snapshot()]
    trial.release()
    del trial
    left = memory_in_use()
    answer = {
        "end": end,
        "planned_bytes": memory.predicted_bytes - profile.outside_bytes,
        "least_bytes": min(sizes) - profile.outside_bytes,
        "reports": reports,
        "expandable": expandable,
        "measured_outside_bytes": measured_outside_bytes(),
        "left": {"allocated": left.allocated_bytes, "reserved": left.reserved_bytes, "outside": left.outside_bytes},
    }
    print(json.dumps(answer), flush=True)
    if arguments.wait:
        sys.stdin.readline()
    return 0


if __name__ == "__main__":
    sys.exit(main())
