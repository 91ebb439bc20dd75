"""Predicted and measured peak memory on a GPU, each configuration and plan in a fresh process. Needs only torch.

    python -m benchmarks.gpu_memory                      # all cases, up to most of the card
    python -m benchmarks.gpu_memory --time-limit 540     # what fits in nine minutes …
    python -m benchmarks.gpu_memory --resume             # … and the rest
    python -m benchmarks.gpu_memory --cases 'recipe*'    # some, by name
    python -m benchmarks.gpu_memory --resume --profile-output benchmarks/results/gpu_profile.json
    python -m benchmarks.gpu_packing                     # packed trials per hour; see there

Every process trains as a trial does (start of the codebook, steps of phase 2, a scoring pass) on noise. It measures
``max_memory_allocated``, ``max_memory_reserved``, and the driver's view: free memory before the process minus free
memory at its end, so nothing else may run on the card. `error` is predicted ÷ measured − 1 for the allocator's memory,
without margin; `covered` says whether the whole prediction with its margin is at least what the driver saw. Cases whose
names begin with "capped" run within their own prediction: one that runs out of memory was wrongly planned to fit. Each
row is written as soon as it is measured, so an interruption loses at most one case.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.gpu_cases import CLIPS, DATA, FRAMES, IDS, Case, cases, chosen, noise_train_clips
from benchmarks.gpu_fit import calibrated
from trainable.commandline import Parser, add_flag, run
from trainable.config import TrialConfig
from trainable.device.cap import cap_process_memory, pin_settings
from trainable.device.out_of_memory import is_out_of_memory
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.training.trainer import Trainer
from trainable.units import format_bytes

RESULTS = Path("benchmarks/results")
MANY_EPOCHS = 1_000
"""So many that every measured epoch is in phase 2: heads, and the codebook's update."""
CASE_SECONDS = 300.0
"""A case that takes longer has failed."""
COLUMNS = (
    *("case", "profile", "width", "latent_dim", "num_embeddings", "batch_size", "n_patches", "plan"),
    *("predicted_allocated_bytes", "predicted_reserved_bytes", "predicted_bytes"),
    *("allocated_bytes", "reserved_bytes", "driver_bytes", "step_seconds", "error", "covered"),
    *("failed", "out_of_memory"),
)
_NUMBERS = {"step_seconds": float, "error": float, "width": float}
_TEXTS = ("case", "profile", "plan", "failed")


def measure(case: Case, cap_bytes: int | None, profile: DeviceProfile, device: str = "cuda") -> dict[str, Any]:
    """Trains briefly in this process and returns its peaks (bytes) and the time of a step (seconds).

    Running out of memory is a result too: ``{"error": …, "out_of_memory": True}``.
    """
    cap_process_memory(cap_bytes, device, profile.outside_bytes)
    clips = noise_train_clips()
    config = case.config.replace(epochs=MANY_EPOCHS, vq_only_share=0.0, frozen_share=0.0)
    try:
        trainer = Trainer(config, clips, IDS, plan=case.plan, device=torch.device(device))
        trainer.train_epoch()
        _synchronize(device)
        begin = time.perf_counter()
        losses = trainer.train_epoch()
        _synchronize(device)
        seconds = (time.perf_counter() - begin) / -(-CLIPS // config.patch.batch_size)
        trainer.encode(clips, with_errors=True)
        _synchronize(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", "out_of_memory": True}
    values = {"phase": losses.phase.phase, "step_seconds": seconds}
    if device != "cpu":
        values |= {
            "allocated_bytes": torch.cuda.max_memory_allocated(),
            "reserved_bytes": torch.cuda.max_memory_reserved(),
            "free_bytes": torch.cuda.mem_get_info()[0],
        }
    return values


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def in_fresh_process(case: Case, cap_bytes: int | None, profile: DeviceProfile, seconds: float) -> dict[str, Any]:
    """Runs `measure` in its own process; returns ``{"error": …}`` if that fails or takes too long."""
    request = {"config": case.config.flat(), "plan": case.plan.to_dict(), "cap_bytes": cap_bytes}
    request["profile"] = profile.to_dict()
    command = [sys.executable, "-m", "benchmarks.gpu_memory", "--one", json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {seconds:.0f} s"}
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    values: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return values


def row_of(case: Case, planner: Planner, seconds: float) -> dict[str, Any]:
    """Builds one row of the table."""
    config, prediction = case.config, planner.predict(case.config, case.plan)
    before = torch.cuda.mem_get_info()[0]
    measured = in_fresh_process(case, prediction.predicted_bytes if case.capped else None, planner.profile, seconds)
    row = {
        "case": case.name,
        "profile": planner.profile.name,
        "width": config.model.width,
        "latent_dim": config.model.latent_dim,
        "num_embeddings": config.quantizer.num_embeddings,
        "batch_size": config.patch.batch_size,
        "n_patches": config.patch.n_patches,
        "plan": case.plan.describe(),
        "predicted_allocated_bytes": prediction.allocated_bytes,
        "predicted_reserved_bytes": prediction.reserved_bytes,
        "predicted_bytes": prediction.predicted_bytes,
    }
    if "error" in measured:
        return row | {"failed": measured["error"], "out_of_memory": bool(measured.get("out_of_memory"))}
    driver = before - measured["free_bytes"]
    return row | {
        "allocated_bytes": measured["allocated_bytes"],
        "reserved_bytes": measured["reserved_bytes"],
        "driver_bytes": driver,
        "step_seconds": measured["step_seconds"],
        "error": prediction.allocated_bytes / measured["allocated_bytes"] - 1.0,
        "covered": prediction.predicted_bytes >= driver,
    }


class Table:
    """The CSV file, written one row at a time; `rows` is its content."""

    def __init__(self, path: Path, *, resume: bool):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [_read(row) for row in csv.DictReader(file) if row.get("predicted_bytes")]
            if self.rows and not resume:
                raise ConfigError(
                    f"{path} holds {len(self.rows)} rows already; continue with --resume, or name another --output"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(self.rows, "w")

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row and forces it to disk."""
        self.rows.append(row)
        self._write([row], "a")

    def holds(self, case: Case, profile: DeviceProfile) -> bool:
        """Whether a case was measured; for a capped one, with the profile that set its cap."""
        return any(
            row["case"] == case.name and (not case.capped or row["profile"] == profile.name) for row in self.rows
        )

    def _write(self, rows: Sequence[Mapping[str, Any]], mode: str) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())


def _read(row: Mapping[str, str]) -> dict[str, Any]:
    """Parses a row of the file, without its empty cells."""
    values: dict[str, Any] = {}
    for name, text in row.items():
        if not text or name is None:
            continue
        if name in _TEXTS:
            values[name] = text
        elif text in ("True", "False"):
            values[name] = text == "True"
        else:
            values[name] = _NUMBERS.get(name, int)(text)
    return values


def build_parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.gpu_memory", description=__doc__.split("\n")[0])
    add_flag(parser, "cases", metavar="NAMES", help="such as 'recipe*,part w1*' (default: all)")
    add_flag(parser, "resume", action="store_true", help="skip the cases that the file holds already")
    add_flag(parser, "time_limit", type=float, metavar="SECONDS", help="start no case after it; stop the last one then")
    add_flag(parser, "profile", metavar="FILE", help="device profile to predict with (default: the built-in one)")
    add_flag(parser, "profile_output", metavar="FILE", help="write the profile that is fitted to the file's rows")
    add_flag(parser, "output", metavar="FILE", help="CSV (default: benchmarks/results/gpu_memory-GPU.csv)")
    add_flag(parser, "most", type=float, default=0.9, metavar="SHARE", help="of the card for a case (default: 0.9)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    begun = time.monotonic()
    wanted = chosen(arguments.cases)
    if not torch.cuda.is_available():
        raise ConfigError("benchmarks.gpu_memory needs a CUDA GPU, and torch sees none here; nothing was measured")
    if arguments.one is not None:
        request = json.loads(arguments.one)
        case = Case("one", TrialConfig.from_flat(request["config"]), ExecutionPlan.from_dict(request["plan"]))
        print(json.dumps(measure(case, request["cap_bytes"], DeviceProfile.from_dict(request["profile"]))))
        return 0
    pin_settings(os.environ)
    gpu, total_bytes = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    torch.zeros(1, device="cuda")  # creates this process's own context before any measurement
    profile = DeviceProfile.load(Path(arguments.profile)) if arguments.profile else DeviceProfile()
    planner = Planner(DATA, budget_bytes=None, profile=profile)
    path = Path(arguments.output or RESULTS / f"gpu_memory-{gpu.replace(' ', '-')}.csv")
    table = Table(path, resume=arguments.resume)
    path.with_suffix(".json").write_text(json.dumps(versions(gpu, total_bytes), indent=1) + "\n", encoding="utf-8")
    measure_all(
        wanted, table, planner, most_bytes=int(arguments.most * total_bytes), limit=arguments.time_limit, begun=begun
    )
    report(table, gpu, profile)
    good = [row for row in table.rows if "failed" not in row]
    if arguments.profile_output and good:
        by_name = {case.name: case for case in cases()}
        calibrated(good, by_name, profile, name=gpu, total_bytes=total_bytes).save(Path(arguments.profile_output))
    return 0


def measure_all(
    wanted: Sequence[Case], table: Table, planner: Planner, *, most_bytes: int, limit: float | None, begun: float
) -> None:
    """Measures the cases that the table lacks, until `limit` seconds after `begun`."""
    for case in wanted:
        if table.holds(case, planner.profile):
            continue
        if planner.predict(case.config, case.plan).predicted_bytes > most_bytes:
            print(f"{case.name}: predicted to need more than {format_bytes(most_bytes)}; left out", flush=True)
            continue
        left = float("inf") if limit is None else limit - (time.monotonic() - begun)
        row = row_of(case, planner, min(CASE_SECONDS, left)) if left > 0 else None
        if row is None or ("no result within" in row.get("failed", "") and left < CASE_SECONDS):
            print(f"the time limit was reached at {case.name}; continue with --resume", flush=True)
            return
        table.add(row)
        text = row.get("failed") or f"measured {format_bytes(row['allocated_bytes'])}, error {row['error']:+.1%}"
        print(f"{case.name}: {text}", flush=True)


def report(table: Table, gpu: str, profile: DeviceProfile) -> None:
    """Summarises the rows. Raises ConfigError if nothing was measured."""
    good = [row for row in table.rows if "failed" not in row]
    if not good:
        raise ConfigError(f"no case was measured; {table.path} says why")
    errors = [abs(row["error"]) for row in good]
    capped = [row for row in table.rows if row["case"].startswith("capped") and row["profile"] == profile.name]
    print(
        f"{len(good)} of {len(table.rows)} cases on {gpu}: median error {median(errors):.1%}, worst {max(errors):.1%}, "
        f"{sum(not row['covered'] for row in good)} under-predicted with the margin; of {len(capped)} planned to fit "
        f"under the profile {profile.name!r}, {sum(bool(row.get('out_of_memory')) for row in capped)} ran out of memory"
    )


def versions(gpu: str, total_bytes: int) -> dict[str, Any]:
    """The hardware and software that a table was measured on."""
    return {
        "gpu": gpu,
        "total_bytes": total_bytes,
        "driver": driver_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "clips": CLIPS,
        "frames_of_a_clip": FRAMES,
    }


def driver_version(proc: Path = Path("/proc/driver/nvidia/version")) -> str:
    """Version of NVIDIA's driver; empty if nvidia-smi does not report it."""
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired):
            answer = None
        if answer is not None and answer.returncode == 0 and answer.stdout.strip():
            return answer.stdout.strip().splitlines()[0]
    try:
        return proc.read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return ""


if __name__ == "__main__":
    sys.exit(run(main))
