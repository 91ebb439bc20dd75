"""Cost of a memory prediction for a new architecture and for other batch sizes, against torch's own tracker.

    python -m benchmarks.prediction --architectures 8 --output benchmarks/results/prediction.csv

CPU seconds of this process on one thread. `new architecture` plans for a width never traced before (every pass that the
planner needs to choose a plan), `other sizes` plans for the same width with other n_patches and batch sizes, and
`remembered` for the same configuration again. The alternative is torch's `MemTracker` under `FakeTensorMode`, on one
training step of the same model and batch under one plan. The step is of phase 1, because the tracker refuses a module
that is called twice, as the encoder is in phase 2.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import nn

from benchmarks.budget_sampler import DATA
from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_flag, run
from trainable.config import TrialConfig
from trainable.device._torch_private import FAKE_TENSOR_MODE, MEM_TRACKER
from trainable.execution_plan import ExecutionPlan
from trainable.memory.planner import Planner
from trainable.memory.trace import placeholder_batch
from trainable.model import vqvae
from trainable.model.geometry import geometry_of
from trainable.model.layers import Layers
from trainable.private_name import replaced
from trainable.training.phases import PhaseState
from trainable.training.state import TrainState
from trainable.training.step import train_step

BUDGET = 2 * 2**30
"""Bytes; narrow models fit with the first plan, wide ones make the planner try all."""


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def measured(width: float, planner: Planner) -> dict[str, float]:
    """CPU seconds of a width's first prediction and of the later ones."""
    config = TrialConfig.from_flat({"width": width, "n_patches": 8, "batch_size": 16})
    new = seconds(lambda: planner.plan(config))
    others = [
        replace(config, patch=replace(config.patch, n_patches=n_patches, batch_size=batch_size))
        for n_patches, batch_size in ((4, 16), (16, 16), (8, 4), (5, 7), (12, 32))
    ]
    other = median(seconds(lambda each=other: planner.plan(each)) for other in others)  # type: ignore[misc]
    again = seconds(lambda: planner.plan(config))
    return {"new architecture": new, "other sizes": other, "remembered": again, "MemTracker": tracked(config)}


def tracked(config: TrialConfig) -> float:
    """CPU seconds of torch's tracker on one step, for the same configuration."""
    # Imported here: loaded earlier, they would make the first prediction of a process look cheap.
    fake_tensors, mem_tracker = FAKE_TENSOR_MODE.get(), MEM_TRACKER.get()
    clips, plan = config.patch.batch_size, ExecutionPlan(micro_batch_clips=config.patch.batch_size)

    def work() -> None:
        # Layer by layer and in one call of the encoder, as on a GPU.
        by_layer = replaced(Layers, "forward", nn.Sequential.forward)
        with fake_tensors(), by_layer, replaced(vqvae, "PATCHES_AT_ONCE", sys.maxsize):
            model = vqvae.make_model(config, DATA.n_ids)
            optimizer = torch.optim.AdamW(model.parameters(), fused=True)
            state = TrainState(config, model, optimizer, torch.amp.GradScaler("cpu", enabled=False))
            geometry = geometry_of(config)
            frames_TF = torch.zeros(2 * geometry.patch_frames, geometry.patch_mels)
            batch = placeholder_batch(config, clips, config.patch.n_patches)
            tracker = mem_tracker()
            tracker.track_external(model, optimizer)
            with tracker:
                train_step(state, frames_TF, batch, plan, PhaseState(1, 1.0))
        assert tracker.get_tracker_snapshot("peak")

    return seconds(work)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.prediction", description=__doc__.split("\n")[0])
    add_flag(
        parser,
        "architectures",
        type=int,
        default=8,
        metavar="N",
        help="widths never traced before (default: 8)",
    )
    add_flag(parser, "output", metavar="FILE", help="write the table as CSV")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    planner = Planner(DATA, budget_bytes=BUDGET)
    first = measured(0.125, planner)
    rows = [measured(0.25 * (3 + index), planner) for index in range(arguments.architectures)]
    table = [
        {
            "question": name,
            "cpu_seconds": f"{median(row[name] for row in rows):.4f}",
            "slowest": f"{max(row[name] for row in rows):.4f}",
            "first_in_process": f"{first[name]:.4f}",
            "of_MemTracker": f"{median(row[name] / row['MemTracker'] for row in rows):.4f}",
        }
        for name in first
    ]
    for line in table:
        print(", ".join(f"{column} {value}" for column, value in line.items()))
    if arguments.output:
        write_table(arguments.output, table, command_of("prediction", argv), "one thread")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
