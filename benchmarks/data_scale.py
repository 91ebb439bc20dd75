"""Reading thousands of recordings: time and memory, without and with the cache, beside a plain loop of one thread.

    python -m benchmarks.data_scale
    python -m benchmarks.data_scale --recordings 1000 10000 100000 --seconds 10 10 1 \\
        --output benchmarks/results/data_scale.csv

Writes made-up recordings in DCASE's layout (16 kHz, 16 bits) into a temporary folder, and makes a data set of them
four times, each in a process of its own: *plain loop* takes soundfile and this project's log-mel in one thread, keeps
all features in a list, and normalises and splits them with NumPy; *first run* is `load_dataset` with an empty cache;
*next run* is the same again; *pseudo run* too, with pseudo-anomalies beside the labels. The project also hashes and
checks each recording, which the loop does not.

``peak_mib`` is the largest resident memory over what the process held before its first recording, and ``of_features``
its share of the size of the features that it ends with: float32 in the loop, half precision in the project. The files
were written just before, so that most are read from memory and not from the disk. The loop's memory is mostly holes:
the spectra that each recording frees lie between features that stay.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_flag, run
from trainable.config import DataConfig, FrontEndConfig
from trainable.data.frontend import log_mel
from trainable.data.layout import find_files
from trainable.data.load import load_dataset
from trainable.data.readers import lengthen
from trainable.errors import ConfigError, RunError

MACHINE_TYPE = "fan"
IDS = ("00", "02", "04", "06")
FEWEST, MOST = 80, 500_000
"""Recordings: each id needs two normal and two anomalous ones to test, and no two begin at one place of the noise."""
PARTS = ("train",) * 8 + ("test",) * 2
NOISE_SECONDS = 60
PLAIN, PSEUDO = "plain loop", "pseudo run"
WAYS = (PLAIN, "first run", "next run", PSEUDO)


@dataclass(frozen=True)
class Measured:
    """One reading of all recordings."""

    way: str
    recordings: int
    seconds_each: float
    features_mib: float
    seconds: float
    cpu_seconds: float
    recordings_a_second: float
    peak_mib: float
    of_features: float


def write_recordings(root: Path, recordings: int, seconds: float) -> None:
    """Stretches of one noise with a tone, each another: eight of ten to train on, the others normal and anomalous."""
    rng = np.random.default_rng(0)
    rate, length = FrontEndConfig().sample_rate, round(FrontEndConfig().sample_rate * seconds)
    noise = rng.integers(-2_000, 2_000, NOISE_SECONDS * rate + length, dtype=np.int16)
    tone = (1_000 * np.sin(2 * np.pi * 300 / rate * np.arange(length))).astype(np.int16)
    for part in set(PARTS):
        (root / MACHINE_TYPE / part).mkdir(parents=True)
    for number, begin in enumerate(rng.choice(NOISE_SECONDS * rate, recordings, replace=False).tolist()):
        turn, machine_id = divmod(number, len(IDS))
        part = PARTS[turn % len(PARTS)]
        word = "anomaly" if turn % len(PARTS) == len(PARTS) - 1 else "normal"
        name = f"{word}_id_{IDS[machine_id]}_{number:08d}.wav"
        soundfile.write(root / MACHINE_TYPE / part / name, noise[begin : begin + length] + tone, rate)


def plain_loop(config: DataConfig) -> int:
    """A data set as a script would make it: its bytes."""
    torch.set_num_threads(1)
    files = find_files(Path(str(config.data_root)), MACHINE_TYPE, labelled=True)
    parts = []
    for clips in (files.train, files.test):
        features = []
        for clip in clips:
            samples, _ = soundfile.read(clip.path, dtype="float32")
            features.append(lengthen(log_mel(torch.from_numpy(samples), config.front_end).numpy()))
        parts.append(features)
    train, test = (np.concatenate(features) for features in parts)
    mean_F, std_F = train.mean(axis=0), train.std(axis=0)
    sets = [(each - mean_F) / std_F for each in (train, test)]
    return sum(each.nbytes for each in sets)


def this_project(config: DataConfig, cache: Path) -> int:
    """A data set of this project: its bytes."""
    dataset = load_dataset(config, cache_dir=cache)
    return sum(clips.frames_TF.nbytes for clips in (dataset.train, *dataset.evaluated))


def measure(way: str, root: Path, recordings: int, seconds_each: float) -> Measured:
    """Makes the data set once, in this process, which has made none before."""
    objective = "both" if way == PSEUDO else "labels"
    config = DataConfig.from_dict({"data_root": str(root), "machine_type": MACHINE_TYPE, "objective": objective})
    log_mel(torch.zeros(config.front_end.sample_rate), config.front_end)  # torch loads what it needs
    before = _peak_bytes()
    begin, cpu_begin = time.perf_counter(), time.process_time()
    features = plain_loop(config) if way == PLAIN else this_project(config, root / "cache")
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    peak = _peak_bytes() - before
    return Measured(
        way=way,
        recordings=recordings,
        seconds_each=seconds_each,
        features_mib=round(features / 2**20, 1),
        seconds=round(seconds, 3),
        cpu_seconds=round(cpu_seconds, 3),
        recordings_a_second=round(recordings / seconds),
        peak_mib=round(peak / 2**20, 1),
        of_features=round(peak / features, 2),
    )


def _peak_bytes() -> int:
    """Largest resident memory of this process so far (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def in_fresh_process(way: str, root: Path, recordings: int, seconds_each: float) -> Measured:
    case = json.dumps({"way": way, "root": str(root), "recordings": recordings, "seconds_each": seconds_each})
    command = [sys.executable, "-m", "benchmarks.data_scale", "--one", case]
    here = Path(__file__).parents[1]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=here)
    if done.returncode:
        raise RunError(f"{way}: exit status {done.returncode}; its message is above")
    return Measured(**json.loads(done.stdout.strip().splitlines()[-1]))


def compare(recordings: int, seconds_each: float, folder: str | None) -> list[dict[str, Any]]:
    """Rows of the table, one for each way; `times_as_fast` as the plain loop."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=None if folder is None else Path(folder).absolute()) as root:
        write_recordings(Path(root), recordings, seconds_each)
        for way in WAYS:
            row = asdict(in_fresh_process(way, Path(root), recordings, seconds_each))
            row["times_as_fast"] = round((rows or [row])[0]["seconds"] / row["seconds"], 2)
            rows.append(row)
            print(
                f"{recordings:,} of {seconds_each:g} s, {way:10s}: {row['seconds']:7.1f} s (CPU "
                f"{row['cpu_seconds']:7.1f}), {row['recordings_a_second']:5d} a second, {row['times_as_fast']:5.2f} "
                f"times as fast, peak {row['peak_mib']:8.1f} MiB = {row['of_features']:.2f} of the features",
                flush=True,
            )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.data_scale", description=__doc__.split("\n")[0])
    add_flag(parser, "recordings", type=int, nargs="+", default=[1_000], metavar="N", help="how many (1000)")
    add_flag(
        parser, "seconds", type=float, nargs="+", default=[10.0], metavar="S", help="length: one, or of each N (10)"
    )
    add_flag(parser, "folder", metavar="DIR", help="where a temporary folder is made (default: the system's)")
    add_flag(parser, "output", metavar="FILE", help="write the table as CSV")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one is not None:
        case = json.loads(arguments.one)
        print(json.dumps(asdict(measure(**case | {"root": Path(case["root"])}))))
        return 0
    sizes, lengths = arguments.recordings, arguments.seconds
    if min(sizes) < FEWEST or max(sizes) > MOST:
        raise ConfigError(f"--recordings is {' '.join(map(str, sizes))}; {FEWEST} … {MOST:,} are accepted")
    if len(lengths) not in (1, len(sizes)) or min(lengths) <= 0:
        raise ConfigError("--seconds needs one positive length, or one for each number of recordings")
    lengths = lengths * (len(sizes) // len(lengths))
    rows: list[dict[str, Any]] = []
    for size, length in zip(sizes, lengths, strict=True):
        rows += compare(size, length, arguments.folder)
        if arguments.output:
            write_table(arguments.output, rows, command_of("data_scale", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
