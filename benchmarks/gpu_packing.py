"""Trials packed on one card: trials per hour against one at a time, and resident memory of two that compete.

    python -m benchmarks.gpu_packing
    python -m benchmarks.gpu_packing --counts 1,2,4 --budget 6GiB

Needs only torch. Each row is on disk as soon as it is measured. Each trial is a process with a memory cap as in a
search. All have the same configuration and the same budget, however many there are; they start together and train some
epochs after one that is not counted. `ratio` is trials per hour divided by those of one at a time in the same run. Two
competing trials want more memory than their budget: each trains with growing batches until its allocator refuses, and
the memory of both that the driver sees (context and libraries included) is compared with the sum of their budgets.
Nothing else may run on the card.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.gpu_cases import CLIPS, IDS, noise_train_clips
from benchmarks.gpu_memory import RESULTS
from benchmarks.tables import command_of, write_table
from benchmarks.together import Barrier, together
from trainable.commandline import Parser, add_flag, run
from trainable.config import TrialConfig
from trainable.device.cap import cap_process_memory
from trainable.device.out_of_memory import is_out_of_memory
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.profile import DeviceProfile
from trainable.training.trainer import Trainer
from trainable.units import format_bytes, parse_bytes

COUNTS = (1, 2, 4, 8)
EPOCHS_OF_A_TRIAL = 9
"""As in `ad_tuning`; trials per hour assume this many epochs per trial."""
SHARE = 0.9
"""Share of the card that the largest number of trials divides among themselves."""
MOST_WIDTH, MOST_CLIPS = 8.0, CLIPS
"""Budget of each of two competing trials, for the model and its batches."""


def packing_config() -> TrialConfig:
    """Small enough that one trial leaves most of a large card idle."""
    return TrialConfig.from_flat({"n_patches": 8, "batch_size": 16, "epochs": 1_000, "vq_only_share": 0.0})


def parse_counts(text: str) -> tuple[int, ...]:
    """Parses numbers of trials such as ``1,2,4,8`` and sorts them. Raises ConfigError for anything else."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--counts is {text!r}; it must be numbers of trials such as 1,2,4,8")
    return tuple(sorted({1, *(int(part) for part in parts)}))


def rows_of(seconds: dict[int, float], epochs: int) -> list[dict[str, Any]]:
    """Computes trials per hour for each number of trials from the seconds that all took for `epochs` epochs."""
    hourly = {count: 3600 * count * epochs / (EPOCHS_OF_A_TRIAL * taken) for count, taken in seconds.items()}
    return [
        {"trials": count, "seconds": taken, "trials_an_hour": hourly[count], "ratio": hourly[count] / hourly[1]}
        for count, taken in seconds.items()
    ]


def packed_trial(budget_bytes: int, device: str, epochs: int, barrier: Barrier) -> tuple[float, float]:
    """Child process: trains an epoch, waits for the others, trains the counted epochs; returns their start and end."""
    cap_process_memory(budget_bytes, device, DeviceProfile().outside_bytes)
    config = packing_config()
    plan = ExecutionPlan(micro_batch_clips=config.patch.batch_size)
    trainer = Trainer(config, noise_train_clips(), IDS, plan=plan, device=torch.device(device))
    trainer.train_epoch()
    _synchronize(device)
    barrier.wait()
    begin = time.monotonic()  # the same clock in all processes of a machine
    for _ in range(epochs):
        trainer.train_epoch()
    _synchronize(device)
    return begin, time.monotonic()


def competing_trial(budget_bytes: int, device: str, barrier: Barrier) -> tuple[bool, int]:
    """Child process: doubles its batches until its cap refuses one, then holds its memory while the driver is queried.

    Returns whether it was refused, and the bytes that its allocator reserved.
    """
    cap_process_memory(budget_bytes, device, DeviceProfile().outside_bytes)
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
    barrier.wait()  # both hold their reserved memory
    barrier.wait()  # the driver has been queried
    return refused, reserved


def packed_seconds(count: int, budget_bytes: int, device: str, epochs: int) -> float:
    """Seconds from the first start to the last end of `count` simultaneous trials."""
    spans = together(packed_trial, count, budget_bytes, device, epochs, between=lambda release: release())
    return float(max(end for _, end in spans) - min(begin for begin, _ in spans))


def packed_rows(counts: Sequence[int], budget_bytes: int, device: str, epochs: int) -> Iterator[dict[str, Any]]:
    """The row of each number of trials, as soon as it is measured; `counts` begins with 1."""
    seconds: dict[int, float] = {}
    for count in counts:
        seconds[count] = packed_seconds(count, budget_bytes, device, epochs)
        yield rows_of(seconds, epochs)[-1]


def competing(budget_bytes: int) -> dict[str, Any]:
    """Measures the memory that the driver sees of two trials that both want more than their budget."""
    before = torch.cuda.mem_get_info()[0]
    seen: list[int] = []

    def query(release: Callable[[], None]) -> None:
        release()
        seen.append(before - torch.cuda.mem_get_info()[0])
        release()

    results = together(competing_trial, 2, budget_bytes, "cuda", between=query)
    return {
        "budgets_bytes": 2 * budget_bytes,
        "driver_bytes": seen[0],
        "reserved_bytes": sum(reserved for _, reserved in results),
        "both_refused": all(refused for refused, _ in results),
        "within_budgets": seen[0] <= 2 * budget_bytes,
    }


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.gpu_packing", description=__doc__.split("\n")[0])
    add_flag(parser, "counts", default="1,2,4,8", metavar="LIST", help="trials at a time (default: 1,2,4,8)")
    add_flag(parser, "epochs", type=int, default=20, metavar="N", help="counted epochs of each trial (default: 20)")
    add_flag(
        parser,
        "budget",
        metavar="SIZE",
        help="budget of a trial (default: 90 %% of the card / largest count)",
    )
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
    torch.zeros(1, device="cuda")  # creates this process's own context before any measurement
    path = arguments.output or RESULTS / f"gpu_packing-{gpu.replace(' ', '-')}.csv"
    command, rows = command_of("gpu_packing", argv), list[dict[str, Any]]()
    print(f"{gpu}, {format_bytes(budget_bytes)} a trial, {CLIPS} clips, {arguments.epochs} epochs counted", flush=True)
    for row in packed_rows(counts, budget_bytes, "cuda", arguments.epochs):
        rows.append(row)
        write_table(path, rows, command, device="cuda")
        text = f"{row['trials']:2d} at a time: {row['trials_an_hour']:8.1f} trials per hour, {row['ratio']:.2f}x"
        print(text, flush=True)
    rivals = competing(budget_bytes)
    print(
        f"two competing: the driver sees {format_bytes(rivals['driver_bytes'])} of "
        f"{format_bytes(rivals['budgets_bytes'])}; both were refused more memory: {rivals['both_refused']}"
    )
    compete = ", ".join(f"{name} {value}" for name, value in rivals.items())
    write_table(path, rows, command, f"two competing: {compete}", device="cuda")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
