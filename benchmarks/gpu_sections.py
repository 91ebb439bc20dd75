"""The sections of `benchmarks.gpu_session`: what each measures, with its results as rows, one at a time."""

import contextlib
import dataclasses
import random
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_cases import DATA, IDS, Case, cases, noise_train_clips, plans_by_part, timed_cases
from benchmarks.gpu_in_process import DEVICE, PHASE_2, ShortEpochs, empty_allocator, measured
from benchmarks.gpu_memory import row_of
from benchmarks.gpu_packing import competing, packed_rows
from benchmarks.throughput import CASES, Ours, Straightforward, noise_clips, seconds_of
from trainable.config import TrialConfig
from trainable.device._torch_private import allocator_events
from trainable.device.cap import allocator_cap_bytes, memory_in_use
from trainable.execution_plan import ExecutionPlan
from trainable.memory.planner import Planner
from trainable.memory.profile import DeviceProfile
from trainable.units import GIB, MIB

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
Left = Callable[[], float]
"""Seconds that a section still has; it starts nothing more when there are none."""

MOST_SHARE = 0.9
"""Cases that are predicted to need more than this share of the card are left out."""


def context(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """MiB that the driver has given out beyond the allocator: after the context, cuBLAS, cuDNN in each precision."""
    weights = {size: torch.randn(64, size, 1, 1) for size in (32, 64)}

    def outside(stage: str) -> Row:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return {"stage": stage, "mib": (total - free - torch.cuda.memory_reserved()) / MIB}

    yield outside("context")
    square = torch.randn(64, 64, device=DEVICE)
    yield outside("first kernel")
    square @ square
    yield outside("cuBLAS")
    image = torch.randn(64, 32, 32, 32, device=DEVICE, requires_grad=True)
    for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        with torch.autocast("cuda", dtype=dtype) if dtype else contextlib.nullcontext():
            wide = torch.nn.functional.conv2d(image, weights[32].to(DEVICE))
            depthwise = torch.randn(64, 1, 3, 3, device=DEVICE)
            torch.nn.functional.conv2d(wide, depthwise, padding=1, groups=64).sum().backward()
        yield outside(f"cuDNN {name}")
    del square, image, wide, depthwise
    seen = memory_in_use()
    yield {"stage": "of this process by NVML", "mib": None if seen.outside_bytes is None else seen.outside_bytes / MIB}


def table(profile: DeviceProfile, left: Left, wanted: Sequence[Case] | None = None) -> Iterator[Row]:
    """Prediction beside measurement for all cases, or those `wanted`; capped ones within their own prediction."""
    clips, planner = noise_train_clips(), Planner(DATA, budget_bytes=None, profile=profile)
    most = MOST_SHARE * torch.cuda.get_device_properties(DEVICE).total_memory
    slow_last = sorted(wanted or cases(), key=lambda case: "saver" in case.name or "micro" in case.name)
    for case in slow_last:
        said = planner.predict(case.config, case.plan)
        if left() < 0:
            return
        if said.predicted_bytes > most:
            continue
        cap = allocator_cap_bytes(said.predicted_bytes, profile.outside_bytes) if case.capped else None
        got = measured(case.config, case.plan, clips, cap_bytes=cap)
        yield {
            "case": case.name,
            "predicted_allocated_bytes": said.allocated_bytes,
            "predicted_reserved_bytes": said.reserved_bytes,
            **got,
            **_errors(said.allocated_bytes, said.reserved_bytes, got),
        }


def _errors(allocated_bytes: int, reserved_bytes: int, got: Row) -> Row:
    if "failed" in got:
        return {}
    return {
        "error": round(allocated_bytes / got["allocated_bytes"] - 1.0, 6),
        "reserved_error": round(reserved_bytes / got["reserved_bytes"] - 1.0, 6),
    }


TRACED = (
    *("recipe w1 plain", "recipe w4 plain", "recipe w4 amp", "recipe w4 saver", "part w4 both", "whole w4 p4 b16"),
    *("quarter w4 p16 b64", "codes k8192 d16 chunk16384", "quantizer euclidean rotation", "large w8 b128"),
)
"""Cases whose allocations are recorded one by one."""


def traces(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """What the allocator was asked for and what it asked of the driver, event by event."""
    clips, by_name = noise_train_clips(), {case.name: case for case in cases()}
    for name in TRACED:
        if left() < 0:
            return
        case = by_name[name]
        empty_allocator()
        with allocator_events(DEVICE.index) as events:
            got = measured(case.config, case.plan, clips)
        yield {"case": name, **got, "events": [[each["action"], each["addr"], each["size"]] for each in events]}


BUDGETS_BYTES = (720 * MIB, 1 * GIB, 2 * GIB, 8 * GIB)
KNOBS: dict[str, tuple[Any, ...]] = {
    "width": (0.5, 1.0, 2.0, 4.0, 8.0),
    "num_embeddings": (32, 128, 512, 8192),
    "codebooks": (1, 4),
    "latent_dim": (8, 24, 64, 128),
    "n_patches": (4, 8, 16, 32),
    "batch_size": (4, 16, 64),
    "texture_weight": (0.0, 3.0),
    "distance": ("euclidean", "cosine"),
    "code_gradient": ("straight_through", "rotation"),
    "allow_amp": (False, True),
}
PROMISES = 500


def promise(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """Random configurations planned for small budgets and capped at them: whether any runs out of memory."""
    clips, rng, done = noise_train_clips(), random.Random(0), 0
    while done < PROMISES:
        knobs = {name: rng.choice(values) for name, values in KNOBS.items()}
        config = TrialConfig.from_flat(knobs)
        for budget_bytes in BUDGETS_BYTES:
            planner = Planner(DATA, budget_bytes=budget_bytes, profile=profile)
            chosen = planner.plan(config)
            if not chosen.fits:
                continue
            if left() < 0:
                return
            cap = allocator_cap_bytes(budget_bytes, profile.outside_bytes)
            next_plan = _next_plan(planner, config)
            got = measured(config, chosen.plan, clips, cap_bytes=cap, next_plan=next_plan)
            said = {"predicted_bytes": chosen.predicted_bytes, "predicted_allocated_bytes": chosen.allocated_bytes}
            yield {"budget_mib": budget_bytes // MIB, **knobs, "plan": chosen.plan.describe(), **said, **got}
            done += 1


def _next_plan(planner: Planner, config: TrialConfig) -> Callable[[ExecutionPlan], ExecutionPlan | None]:
    return lambda plan: planner.next_smaller(config, plan)


FRESH = (
    *("recipe w1 plain", "recipe w16 amp", "quantizer euclidean rotation"),
    *("whole w4 p32 b64", "large w8 b128", "capped w8 p32 b64 whole"),
)


def driver(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """Fresh processes, whose memory the driver counts: allocator, context and libraries."""
    planner, by_name = Planner(DATA, budget_bytes=None, profile=profile), {case.name: case for case in cases()}
    empty_allocator()
    for name in FRESH:
        if left() > 0:
            yield row_of(by_name[name], planner, max(5.0, left()))


TRAININGS = {"float32": (), "mixed precision": ("--use-amp",), "smallest plan": ("--smallest-plan",)}


def train(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """``python -m trainable.train`` on the embedded machine: what a user sees."""
    command = [sys.executable, "-m", "trainable.train", "--device", "cuda", "--held-out"]
    for name, flags in TRAININGS.items():
        if left() < 0:
            return
        done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        epochs = [line for line in lines if line.startswith("epoch")]
        ends = [line for line in lines if line.startswith("held-out")] or lines[-1:]
        yield {"training": name, "last epoch": epochs[-1] if epochs else "", "held-out": ends[0] if ends else ""}


PACKED_EPOCHS = 10


def packing(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """Trials an hour with 1, 2, 4 and 8 on the card, and the memory of two that want more than their budgets."""
    empty_allocator()
    budget_bytes = int(MOST_SHARE * torch.cuda.get_device_properties(DEVICE).total_memory / 8)
    for row in packed_rows((1, 2, 4, 8), budget_bytes, "cuda", PACKED_EPOCHS):
        yield row
        if left() < 0:
            return
    if left() > 0:
        yield competing(4 * GIB)


REPEATS = 9


def times(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """Milliseconds of a step for one part of a plan at a time."""
    for case in timed_cases():
        if left() < 0:
            return
        seconds = _seconds_of_steps(case.config.replace(**PHASE_2), case.plan)
        yield {
            "case": case.name,
            "median_ms": 1e3 * statistics.median(seconds),
            "least_ms": 1e3 * min(seconds),
            "most_ms": 1e3 * max(seconds),
        }


def _seconds_of_steps(config: TrialConfig, plan: ExecutionPlan) -> list[float]:
    """Seconds of single steps, after some that are not counted."""
    empty_allocator()
    trainer = ShortEpochs(config, noise_train_clips(), IDS, plan=plan, device=DEVICE)
    trainer.steps = 4
    trainer.train_epoch()
    trainer.steps, seconds = 1, []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        trainer.train_epoch()  # ends with the losses on the host
        seconds.append(time.perf_counter() - begin)
    return seconds


THROUGHPUT_CLIPS = 512


def throughput(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """Clips a second in training beside the straightforward implementation, both on the card."""
    clips = noise_clips(THROUGHPUT_CLIPS)
    for name, knobs in CASES.items():
        if left() < 0:
            return
        empty_allocator()
        config = TrialConfig.from_flat(PHASE_2 | knobs)
        contenders = {
            "ours": Ours(config, clips, DEVICE),
            "straightforward, 8 worker processes": Straightforward(config, clips, workers=8, device=DEVICE),
        }
        rates = {who: THROUGHPUT_CLIPS / seconds for who, seconds in seconds_of(contenders, 3).items()}
        ours, theirs = rates.values()
        yield {
            "case": name,
            **{f"{who} clips/s": round(rate, 1) for who, rate in rates.items()},
            "ratio": ours / theirs,
        }


def agreement(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """How far trainings under plans that are equal on paper differ from the plain one after some steps."""
    config = TrialConfig.from_flat(PHASE_2 | {"n_patches": 8, "batch_size": 16})
    for mode in ("default", "no TF32", "deterministic", "both"):
        with _numerics(no_tf32=mode in ("no TF32", "both"), deterministic=mode in ("deterministic", "both")):
            reference: list[torch.Tensor] = []
            for name, plan in plans_by_part(16).items():
                if left() < 0:
                    return
                empty_allocator()
                trainer = ShortEpochs(config, noise_train_clips(), IDS, plan=plan, device=DEVICE)
                trainer.steps = 10
                trainer.train_epoch()
                loss = trainer.train_epoch().total
                weights = torch.cat([each.detach().flatten().double() for each in trainer.state.model.parameters()])
                reference = reference or [weights]  # of the plain plan, which comes first
                far = float((weights - reference[0]).norm() / reference[0].norm())
                yield {"mode": mode, "plan": name, "loss": loss, "distance_of_weights": far}


@contextlib.contextmanager
def _numerics(*, no_tf32: bool, deterministic: bool) -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before and not no_tf32
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
        torch.use_deterministic_algorithms(False)


def waits(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """Where a training step makes the host wait for the card, by plan: nowhere, if it stays ahead of its kernels.

    The last row waits on purpose.
    """
    config = TrialConfig.from_flat(PHASE_2 | {"n_patches": 8, "batch_size": 16})
    for name, plan in plans_by_part(16).items():
        if left() < 0:
            return
        empty_allocator()
        trainer = ShortEpochs(config, noise_train_clips(), IDS, plan=plan, device=DEVICE)
        trainer.train_epoch()  # makes what is made once: the codebook's start, moments, workspaces
        yield {"plan": name, "waits_at": waits_at(trainer.one_step)}
    yield {"plan": "a number read on purpose", "waits_at": waits_at(lambda: torch.zeros(1, device=DEVICE).item())}


def waits_at(action: Callable[[], object]) -> str:
    """The line of ours that first waits for the card, and its call; empty where none does."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        action()
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        where = [each for each in traceback.extract_tb(error.__traceback__) if str(ROOT) in each.filename][-1]
        return f"{Path(where.filename).relative_to(ROOT)}:{where.lineno}: {where.line}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def growth(profile: DeviceProfile, left: Left) -> Iterator[Row]:
    """Allocated bytes after 2, 10 and 50 epochs, which must be equal."""
    empty_allocator()
    config = TrialConfig.from_flat(PHASE_2 | {"n_patches": 8, "batch_size": 16})
    trainer = ShortEpochs(config, noise_train_clips(), IDS, plan=ExecutionPlan(micro_batch_clips=16), device=DEVICE)
    for epoch in range(1, 51):
        trainer.train_epoch()
        if epoch in (2, 10, 50):
            yield {"epochs": epoch, "allocated_bytes": torch.cuda.memory_allocated()}
        if left() < 0:
            return


@dataclasses.dataclass(frozen=True)
class Section:
    """A section, and the most seconds that it may take."""

    rows: Callable[[DeviceProfile, Left], Iterator[Row]]
    seconds: float


SECTIONS = {
    "context": Section(context, 20.0),
    "table": Section(table, 120.0),
    "traces": Section(traces, 25.0),
    "driver": Section(driver, 70.0),
    "train": Section(train, 50.0),
    "packing": Section(packing, 100.0),
    "times": Section(times, 40.0),
    "throughput": Section(throughput, 50.0),
    "agreement": Section(agreement, 20.0),
    "growth": Section(growth, 15.0),
    "waits": Section(waits, 15.0),
    "promise": Section(promise, 30.0),
}
"""In the order in which they run: the most important first."""
