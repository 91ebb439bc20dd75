"""Result tables: small CSV files that record the command and the machine that made them."""

import csv
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trainable.host import available_cores


def command_of(benchmark: str, argv: Sequence[str] | None) -> str:
    """The command line of a benchmark's `main`."""
    return shlex.join(["python", "-m", f"benchmarks.{benchmark}", *(sys.argv[1:] if argv is None else argv)])


def machine(device: str) -> str:
    """Cores, GPU if one was used, and the versions that the results depend on."""
    used = device.startswith("cuda")
    gpu = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}" if used else "no GPU used"
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    versions += [f"{name} {sys.modules[name].__version__}" for name in ("optuna", "ray") if name in sys.modules]
    return f"{available_cores()} CPU cores, {gpu}; {', '.join(versions)}"


def write_table(
    path: str | Path, rows: Sequence[Mapping[str, Any]], command: str, *remarks: str, device: str = "cpu"
) -> None:
    """Writes rows, whose columns may differ, under lines that begin with ``#``: command, machine, `remarks`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"# {line}\n" for line in (command, machine(device), *remarks))
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def tell_table(rows: Sequence[Mapping[str, Any]], path: str | None, command: str) -> None:
    """Prints rows, one a line, and writes them where a path is given."""
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if path:
        write_table(path, rows, command)


def read_table(path: str | Path) -> list[dict[str, str]]:
    """Reads the rows of a table, without its ``#`` lines. Raises OSError if it cannot be read."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))
