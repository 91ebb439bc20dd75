"""The chunked quantizer against the naive one-hot form and `vector-quantize-pytorch`: time and peak memory.

    python -m benchmarks.quantizer --output benchmarks/results/quantizer.csv
    python -m benchmarks.quantizer --quick

Measures forward and backward of N rows of width 64, code statistics included. Every measurement runs in its own
process; `extra_bytes` is the rise of the process's peak resident memory after its inputs were made, so a library's
internal allocations count too. `time_ratio` and `memory_ratio` are those of the naive form divided by ours (above 1:
ours is better). On a GPU (``--device cuda``) memory is the allocator's peak.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_flag, run
from trainable.errors import ConfigError
from trainable.model.quantizer import code_statistics, quantize

WIDTH = 64
CHUNK_ROWS = 16_384
FORMS = ("ours", "naive", "vector-quantize-pytorch")
Step = Callable[[], Any]


def ours(rows_ND: Tensor, codebook_KD: Tensor, chunk_rows: int) -> Step:
    def step() -> None:
        quantized = quantize(rows_ND, codebook_KD, chunk_rows=chunk_rows)
        with torch.no_grad():
            code_statistics(rows_ND, quantized.codes_NM[:, 0], codebook_KD.shape[0])
        (quantized.vectors_ND.sum() + quantized.commitment_loss).backward()

    return step


def naive(rows_ND: Tensor, codebook_KD: Tensor) -> Step:
    """The usual form: all distances, a one-hot matrix, products with it (van den Oord et al. 2017)."""

    def step() -> None:
        distances_NK = rows_ND.square().sum(1, keepdim=True) + codebook_KD.square().sum(1) - 2 * rows_ND @ codebook_KD.T
        one_hot_NK = F.one_hot(distances_NK.argmin(1), codebook_KD.shape[0]).to(rows_ND.dtype)
        chosen_ND = one_hot_NK @ codebook_KD
        commitment = F.mse_loss(rows_ND, chosen_ND)
        vectors_ND = rows_ND + (chosen_ND - rows_ND).detach()
        with torch.no_grad():
            one_hot_NK.sum(0)
            one_hot_NK.T @ rows_ND
        (vectors_ND.sum() + commitment).backward()

    return step


def packaged(rows_ND: Tensor, codebook_KD: Tensor) -> Step:
    """`vector-quantize-pytorch`, EMA codebook, in training."""
    from vector_quantize_pytorch import VectorQuantize

    layer = VectorQuantize(dim=WIDTH, codebook_size=codebook_KD.shape[0], threshold_ema_dead_code=0).to(rows_ND.device)

    def step() -> None:
        vectors, _, commitment = layer(rows_ND[None])
        (vectors.sum() + commitment.sum()).backward()

    return step


def measure(form: str, n_rows: int, n_codes: int, chunk_rows: int, device: str, threads: int) -> dict[str, float]:
    """Seconds of the fastest of three steps, and peak bytes beyond the inputs."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    rows_ND = torch.randn(n_rows, WIDTH, generator=generator).to(device).requires_grad_()
    codebook_KD = torch.randn(n_codes, WIDTH, generator=generator).to(device)
    if form == "ours":
        step = ours(rows_ND, codebook_KD, chunk_rows)
    else:
        step = naive(rows_ND, codebook_KD) if form == "naive" else packaged(rows_ND, codebook_KD)
    # A first step on few rows keeps the libraries' one-off setup out of the measurement.
    small = rows_ND[:256].detach().requires_grad_()
    warm = {"ours": lambda: ours(small, codebook_KD, 256)(), "naive": naive(small, codebook_KD)}.get(form)
    (warm or packaged(small, codebook_KD))()
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else _peak_resident_bytes()
    seconds = []
    for _ in range(3):
        rows_ND.grad = None
        begin = time.perf_counter()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    peak = torch.cuda.max_memory_allocated() if cuda else _peak_resident_bytes()
    return {"seconds": min(seconds), "extra_bytes": peak - before}


def _peak_resident_bytes() -> int:
    """Peak resident memory of this process; the kernel counts it in KiB (on macOS in bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_fresh_process(case: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.quantizer", "--one", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return {"failed": f"exit {done.returncode}: {lines[-1] if lines else 'no message'}"}
    values: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return values


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.quantizer", description=__doc__)
    add_flag(parser, "quick", action="store_true", help="two sizes instead of all")
    add_flag(parser, "device", default="cpu", help="cpu or cuda")
    add_flag(parser, "threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    add_flag(
        parser,
        "most",
        default=4.0,
        type=float,
        metavar="GIB",
        help="skip larger N × K matrices (default: 4)",
    )
    add_flag(parser, "output", metavar="FILE", help="write the table as CSV")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one is not None:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return 0
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"--device {arguments.device}: torch sees no GPU here")
    sizes = (
        [(16_384, 512), (65_536, 512)]
        if arguments.quick
        else [(n_rows, n_codes) for n_rows in (16_384, 65_536, 262_144) for n_codes in (128, 512, 2048, 8192)]
    )
    rows = []
    for n_rows, n_codes in sizes:
        row: dict[str, Any] = {"rows": n_rows, "codes": n_codes, "chunk_rows": CHUNK_ROWS}
        for form in FORMS:
            if form != "ours" and n_rows * n_codes * 4 > arguments.most * 2**30:
                row[f"{form} failed"] = f"skipped: an N × K matrix of {n_rows * n_codes * 4 / 2**30:.1f} GiB"
                continue
            case = {"form": form, "n_rows": n_rows, "n_codes": n_codes, "chunk_rows": CHUNK_ROWS}
            measured = in_fresh_process(case | {"device": arguments.device, "threads": arguments.threads})
            row |= {f"{form} {name}": value for name, value in measured.items()}
        for other in FORMS[1:]:
            if f"{other} seconds" in row:
                row[f"{other} time_ratio"] = round(row[f"{other} seconds"] / row["ours seconds"], 3)
                row[f"{other} memory_ratio"] = round(row[f"{other} extra_bytes"] / max(1, row["ours extra_bytes"]), 3)
        rows.append(row)
        print(
            ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()
            ),
            flush=True,
        )
    if arguments.output:
        write_table(
            arguments.output,
            rows,
            command_of("quantizer", argv),
            f"{arguments.threads} threads",
            device=arguments.device,
        )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
