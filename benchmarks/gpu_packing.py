"""Trials packed on one card: trials an hour beside one at a time, and resident memory of two that compete.

    python -m benchmarks.gpu_packing
    python -m benchmarks.gpu_packing --counts 1,2,4 --budget 6GiB

Needs only torch. Each trial is a process of its own that is capped as in a search, holds the same configuration and the
same budget however many there are, and trains some epochs after one that is not counted; all begin together. `ratio`
is trials an hour divided by those of one at a time in the same run. Two competing trials want more memory than their
budget: each trains with batches that grow until its allocator refuses, and what the driver sees of both together
(context and libraries included) is set against the sum of their budgets. Nothing else may run on the card.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.gpu_cases import CLIPS, IDS, noise_train_clips
from benchmarks.gpu_memory import RESULTS
from benchmarks.tables import command_of, write_table
from benchmarks.together import Meeting, together
from trainable.commandline import add_flag, run
from trainable.config import TrialConfig
from trainable.device.cap import cap_process_memory
from trainable.device.out_of_memory import is_out_of_memory
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.training.trainer import Trainer
from trainable.units import format_bytes, parse_bytes

COUNTS = (1, 2, 4, 8)
EPOCHS_OF_A_TRIAL = 9
"""As in `ad_tuning`; trials an hour are those of so many epochs."""
SHARE = 0.9
"""Of the card, which the largest number of trials divides among itself."""
MOST_WIDTH, MOST_CLIPS = 8.0, CLIPS
"""Of the model and the batches with which two trials compete."""


def packing_config() -> TrialConfig:
    """Small enough that one trial leaves most of a large card idle."""
    return TrialConfig.from_flat({"n_patches": 8, "batch_size": 16, "epochs": 1_000, "vq_only_share": 0.0})


def parse_counts(text: str) -> tuple[int, ...]:
    """``1,2,4,8`` → numbers of trials, ascending. Raises ConfigError for anything else."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--counts is {text!r}; it must be numbers of trials such as 1,2,4,8")
    return tuple(sorted({1, *(int(part) for part in parts)}))


def rows_of(seconds: dict[int, float], epochs: int) -> list[dict[str, Any]]:
    """Trials an hour of each number of trials, from the seconds that `epochs` epochs of all of them took."""
    hourly = {count: 3600 * count * epochs / (EPOCHS_OF_A_TRIAL * taken) for count, taken in seconds.items()}
    return [
        {"trials": count, "seconds": taken, "trials_an_hour": hourly[count], "ratio": hourly[count] / hourly[1]}
        for count, taken in seconds.items()
    ]


def packed_trial(budget_bytes: int, device: str, epochs: int, meeting: Meeting) -> tuple[float, float]:
    """A process: trains an epoch, waits for the others, trains the epochs that count; when it began and ended them."""
    cap_process_memory(budget_bytes, device)
    config = packing_config()
    plan = ExecutionPlan(micro_batch_clips=config.patch.batch_size)
    trainer = Trainer(config, noise_train_clips(), IDS, plan=plan, device=torch.device(device))
    trainer.train_epoch()
    _synchronize(device)
    meeting.wait()
    begin = time.monotonic()  # the same clock in all processes of a machine
    for _ in range(epochs):
        trainer.train_epoch()
    _synchronize(device)
    return begin, time.monotonic()


def competing_trial(budget_bytes: int, device: str, meeting: Meeting) -> tuple[bool, int]:
    """A process: doubles its batches until its cap refuses one, then holds what it has while the driver is asked.

    Whether it was refused, and what its allocator reserved (bytes).
    """
    cap_process_memory(budget_bytes, device)
    clips, refused, batch = noise_train_clips(), False, 4
    while not refused and batch <= MOST_CLIPS:
        config = packing_config().replace(batch_size=batch, n_patches=32, width=MOST_WIDTH)
        plan = ExecutionPlan(micro_batch_clips=batch)
        try:
            Trainer(config, clips, IDS, plan=plan, device=torch.device(device)).train_epoch()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            refused = True
        batch *= 2
    reserved = torch.cuda.max_memory_reserved()
    meeting.wait()  # both hold what they reserved
    meeting.wait()  # the driver has been asked
    return refused, reserved


def packed_seconds(count: int, budget_bytes: int, device: str, epochs: int) -> float:
    """From the first beginning to the last ending of `count` trials at once."""
    told = together(packed_trial, count, budget_bytes, device, epochs, between=lambda meet: meet())
    return float(max(end for _, end in told) - min(begin for begin, _ in told))


def competing(budget_bytes: int) -> dict[str, Any]:
    """What the driver sees of two trials that both want more than their budget."""
    before = torch.cuda.mem_get_info()[0]
    seen: list[int] = []

    def ask(meet: Callable[[], None]) -> None:
        meet()
        seen.append(before - torch.cuda.mem_get_info()[0])
        meet()

    told = together(competing_trial, 2, budget_bytes, "cuda", between=ask)
    return {
        "budgets_bytes": 2 * budget_bytes,
        "driver_bytes": seen[0],
        "reserved_bytes": sum(reserved for _, reserved in told),
        "both_refused": all(refused for refused, _ in told),
        "within_budgets": seen[0] <= 2 * budget_bytes,
    }


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_packing", description=__doc__.split("\n")[0])
    add_flag(parser, "counts", default="1,2,4,8", metavar="LIST", help="trials at a time (1,2,4,8)")
    add_flag(parser, "epochs", type=int, default=20, metavar="N", help="that count, of each trial (20)")
    add_flag(parser, "budget", metavar="SIZE", help="of a trial (default: 90 %% of the card by the largest count)")
    add_flag(parser, "output", metavar="FILE", help="CSV (default: benchmarks/results/gpu_packing-GPU.csv)")
    arguments = parser.parse_args(argv)
    counts = parse_counts(arguments.counts)
    if arguments.epochs < 1:
        raise ConfigError(f"--epochs is {arguments.epochs}; it must be at least 1")
    given_bytes = None if arguments.budget is None else parse_bytes(arguments.budget)
    if not torch.cuda.is_available():
        raise ConfigError("benchmarks.gpu_packing needs a CUDA GPU, and torch sees none here; nothing was measured")
    gpu, total_bytes = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    budget_bytes = given_bytes or int(SHARE * total_bytes / counts[-1])
    torch.zeros(1, device="cuda")  # this process's own context stands before anything is measured
    seconds = {count: packed_seconds(count, budget_bytes, "cuda", arguments.epochs) for count in counts}
    rows = rows_of(seconds, arguments.epochs)
    print(f"{gpu}, {format_bytes(budget_bytes)} a trial, {CLIPS} clips, {arguments.epochs} epochs counted")
    for row in rows:
        print(f"{row['trials']:2d} at a time: {row['trials_an_hour']:8.1f} trials an hour, {row['ratio']:.2f}x")
    rivals = competing(budget_bytes)
    print(
        f"two that compete: the driver sees {format_bytes(rivals['driver_bytes'])} of "
        f"{format_bytes(rivals['budgets_bytes'])}; both were refused more: {rivals['both_refused']}"
    )
    path = arguments.output or RESULTS / f"gpu_packing-{gpu.replace(' ', '-')}.csv"
    compete = ", ".join(f"{name} {value}" for name, value in rivals.items())
    write_table(path, rows, command_of("gpu_packing", argv), f"two that compete: {compete}", device="cuda")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
