"""Predicted and measured peak memory on a GPU, each configuration and plan in a fresh process. Needs only torch.

    python -m benchmarks.gpu_memory                      # 64 configurations × plans, up to most of the card
    python -m benchmarks.gpu_memory --profile-output benchmarks/results/gpu_profile.json
    python -m benchmarks.gpu_packing                     # trials an hour, packed; see there

Every process trains as a trial does (start of the codebook, two steps with heads, a scoring pass) on noise. Measured
are ``max_memory_allocated``, ``max_memory_reserved``, and what the driver sees: free memory before the process minus
free memory at its end, so nothing else may run on the card. `error` is predicted ÷ measured − 1 of what the allocator
holds, without margin; `covered` says whether the whole prediction, margin included, is at least what the driver saw.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from trainable.commandline import add_flag, run
from trainable.config import TrialConfig
from trainable.data.clips import Split, TrainClips
from trainable.errors import ConfigError
from trainable.memory.cap import pin_settings
from trainable.memory.planner import Planner
from trainable.memory.predict import DataSizes
from trainable.memory.profile import DeviceProfile, MeasuredPeak
from trainable.plan import ExecutionPlan
from trainable.training.trainer import Trainer
from trainable.units import MIB, format_bytes

CLIPS, FRAMES, IDS = 256, 313, ("00", "02", "04", "06")
DATA = DataSizes(train_frames=CLIPS * FRAMES, test_frames=0, train_clips=CLIPS, test_clips=0, n_ids=len(IDS))
RESULTS = Path("benchmarks/results")


def cases() -> Iterator[tuple[str, TrialConfig, ExecutionPlan]]:
    """Name, configuration and plan; the recipe's claim (16 clips of 16 patches) among them, for several widths."""
    for width, n_patches, batch in product((1.0, 4.0), (4, 16, 32), (16, 64)):
        config = TrialConfig.from_flat({"width": width, "n_patches": n_patches, "batch_size": batch})
        yield "whole", config, ExecutionPlan(micro_batch_clips=batch)
        yield (
            "quarter, recomputed",
            config,
            ExecutionPlan(micro_batch_clips=batch // 4, recompute_encoder=True, recompute_decoder=True),
        )
    for width in (1.0, 2.0, 4.0, 8.0, 16.0):
        config = TrialConfig.from_flat({"width": width, "n_patches": 16, "batch_size": 16})
        yield "recipe, plain", config, ExecutionPlan(micro_batch_clips=16)
        yield "recipe, recomputed encoder", config, ExecutionPlan(micro_batch_clips=16, recompute_encoder=True)
        yield "recipe, recomputed decoder", config, ExecutionPlan(micro_batch_clips=16, recompute_decoder=True)
        yield "recipe, AMP", config, ExecutionPlan(micro_batch_clips=16, precision="amp_bfloat16")
        yield (
            "recipe, memory saver",
            config,
            ExecutionPlan(
                micro_batch_clips=1,
                recompute_encoder=True,
                recompute_decoder=True,
                quantizer_chunk_rows=1_024,
                data_placement="host",
                precision="amp_bfloat16",
            ),
        )
    for width, batch in ((4.0, 128), (8.0, 64), (8.0, 128), (16.0, 64), (16.0, 96), (16.0, 128)):
        config = TrialConfig.from_flat({"width": width, "n_patches": 32, "batch_size": batch})
        yield "large", config, ExecutionPlan(micro_batch_clips=batch)
    for codes, latent_dim, chunk in product((64, 1024, 8192), (16, 256), (1_024, 16_384)):
        config = TrialConfig.from_flat({"num_embeddings": codes, "latent_dim": latent_dim, "n_patches": 16})
        yield "codes", config, ExecutionPlan(micro_batch_clips=16, quantizer_chunk_rows=chunk)
    for distance, gradient in product(("euclidean", "cosine"), ("straight_through", "rotation")):
        config = TrialConfig.from_flat({"distance": distance, "code_gradient": gradient, "codebook_dim": 16})
        yield "quantizer", config, ExecutionPlan(micro_batch_clips=16, precision="amp_float16")


def noise_train_clips() -> TrainClips:
    """`CLIPS` clips of noise; memory and speed do not depend on what they hold."""
    rng = np.random.default_rng(0)
    return TrainClips(
        rng.standard_normal((CLIPS * FRAMES, 64), dtype=np.float32),
        np.arange(CLIPS + 1, dtype=np.int64) * FRAMES,
        tuple(IDS[index % len(IDS)] for index in range(CLIPS)),
        tuple(f"normal_{index:04d}.wav" for index in range(CLIPS)),
        Split.TRAIN,
    )


def measure(config: TrialConfig, plan: ExecutionPlan) -> dict[str, Any]:
    """Trains for a moment in this process and gives its peaks (bytes) and the time of a step (seconds)."""
    device = torch.device("cuda")
    torch.backends.cudnn.benchmark = False
    clips = noise_train_clips()
    config = config.replace(epochs=1, vq_only_share=0.0, frozen_share=0.0)
    trainer = Trainer(config, clips, IDS, plan=plan, device=device)
    trainer.train_epoch()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    trainer.train_epoch()
    torch.cuda.synchronize()
    steps = -(-CLIPS // config.patch.batch_size)
    seconds = (time.perf_counter() - begin) / steps
    trainer.encode(clips, with_errors=True)
    torch.cuda.synchronize()
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(),
        "reserved_bytes": torch.cuda.max_memory_reserved(),
        "step_seconds": seconds,
        "free_bytes": torch.cuda.mem_get_info()[0],
    }


def in_fresh_process(config: TrialConfig, plan: ExecutionPlan) -> dict[str, Any]:
    """What `measure` gives in a process of its own; ``{"error": …}`` if that ends badly."""
    case = json.dumps({"config": config.flat(), "plan": plan.to_dict()})
    command = [sys.executable, "-m", "benchmarks.gpu_memory", "--one", case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    values: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return values


def row_of(name: str, config: TrialConfig, plan: ExecutionPlan, planner: Planner) -> dict[str, Any]:
    """One line of the table."""
    prediction = planner.predict(config, plan)
    before = torch.cuda.mem_get_info()[0]
    measured = in_fresh_process(config, plan)
    row = {
        "case": name,
        "width": config.model.width,
        "latent_dim": config.model.latent_dim,
        "num_embeddings": config.quantizer.num_embeddings,
        "batch_size": config.patch.batch_size,
        "n_patches": config.patch.n_patches,
        "plan": plan.describe(),
        "predicted_allocated_bytes": prediction.allocated_bytes,
        "predicted_bytes": prediction.predicted_bytes,
    }
    if "error" in measured:
        return row | {"failed": measured["error"]}
    driver = before - measured["free_bytes"]
    return row | {
        "allocated_bytes": measured["allocated_bytes"],
        "reserved_bytes": measured["reserved_bytes"],
        "driver_bytes": driver,
        "step_seconds": measured["step_seconds"],
        "error": prediction.allocated_bytes / measured["allocated_bytes"] - 1.0,
        "covered": prediction.predicted_bytes >= driver,
    }


def calibrated(rows: Sequence[dict[str, Any]], profile: DeviceProfile, name: str, total_bytes: int) -> DeviceProfile:
    """A profile of this card: what was outside the allocator at most, and a margin that covers every peak."""
    outside = max(row["driver_bytes"] - row["reserved_bytes"] for row in rows)
    fragmentation = max(row["reserved_bytes"] / row["allocated_bytes"] for row in rows) - 1.0
    large = [row for row in rows if row["allocated_bytes"] > 256 * MIB]
    if large:
        # Below that the units in which the allocator reserves memory, which are counted apart, are most of it.
        fragmentation = max(row["reserved_bytes"] / row["allocated_bytes"] for row in large) - 1.0
    peaks = [
        MeasuredPeak(predicted_bytes=row["predicted_allocated_bytes"], measured_bytes=row["allocated_bytes"])
        for row in rows
    ]
    measured = replace(
        profile,
        name=name,
        total_bytes=total_bytes,
        context_bytes=max(0, outside - profile.library_bytes),
        fragmentation_share=max(0.0, fragmentation),
    )
    return measured.recalibrated(peaks)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_memory", description=__doc__)
    add_flag(parser, "profile", metavar="FILE", help="device profile to predict with (default: the built-in one)")
    add_flag(parser, "profile_output", metavar="FILE", help="write the profile that these measurements give")
    add_flag(parser, "output", metavar="FILE", help="CSV (default: benchmarks/results/gpu_memory-GPU.csv)")
    add_flag(parser, "most", type=float, default=0.9, metavar="SHARE", help="of the card a case may need (0.9)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise ConfigError("benchmarks.gpu_memory needs a CUDA GPU, and torch sees none here; nothing was measured")
    if arguments.one is not None:
        case = json.loads(arguments.one)
        print(json.dumps(measure(TrialConfig.from_flat(case["config"]), ExecutionPlan.from_dict(case["plan"]))))
        return 0
    pin_settings(os.environ)
    gpu, total_bytes = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    torch.zeros(1, device="cuda")  # this process's own context stands before any is measured
    profile = DeviceProfile.load(Path(arguments.profile)) if arguments.profile else DeviceProfile()
    planner = Planner(DATA, budget_bytes=None, profile=profile)
    rows = []
    for name, config, plan in cases():
        if planner.predict(config, plan).predicted_bytes > arguments.most * total_bytes:
            print(
                f"{name}: {plan.describe()} is predicted to need more than {arguments.most:.0%} of the card; left out"
            )
            continue
        rows.append(row_of(name, config, plan, planner))
        last = rows[-1]
        text = last.get("failed") or f"measured {format_bytes(last['allocated_bytes'])}, error {last['error']:+.1%}"
        print(f"{name}: width {config.model.width:g}, {plan.describe()}: {text}", flush=True)
    _write(rows, Path(arguments.output or RESULTS / f"gpu_memory-{gpu.replace(' ', '-')}.csv"), gpu, total_bytes)
    good = [row for row in rows if "failed" not in row]
    if not good:
        raise ConfigError("every case failed; the table says why")
    errors = [abs(row["error"]) for row in good]
    print(
        f"{len(good)} of {len(rows)} cases on {gpu}: median error {median(errors):.1%}, worst {max(errors):.1%}, "
        f"{sum(not row['covered'] for row in good)} under-predicted with the margin"
    )
    if arguments.profile_output:
        calibrated(good, profile, gpu, total_bytes).save(Path(arguments.profile_output))
    return 0


def _write(rows: Sequence[dict[str, Any]], path: Path, gpu: str, total_bytes: int) -> None:
    """The table, and beside it a JSON file that says on what it was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    versions = {
        "gpu": gpu,
        "total_bytes": total_bytes,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "clips": CLIPS,
        "frames_of_a_clip": FRAMES,
    }
    path.with_suffix(".json").write_text(json.dumps(versions, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(run(main))
