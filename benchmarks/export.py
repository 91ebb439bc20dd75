"""An exported detector beside the detector it was made of: the same scores, how large, how fast?

    python -m benchmarks.export runs/first/detector --clips 500 --output benchmarks/results/export.csv

Exports each detector into a temporary folder, makes sounds of its machine that no search has (16-bit `.wav`), and
scores every file with both. `median` and `largest` are differences of the two scores, `apart` is the number of clips
whose scores differ by more than 1e-4, and `codes` says how many code indices differ, of how many. Speeds are seconds of
sound per second of CPU time, from file to score, on one core.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import soundfile
import torch

from analysis.export.folder import export_detector
from analysis.export.scorer.detector import ExportedDetector
from analysis.export.scorer.stretches import stretches
from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_flag, run
from trainable.data.embedded import EmbeddedClip, embedded_sound
from trainable.data.readers import lengthen, read_recording
from trainable.detection.detector import Detector
from trainable.errors import ConfigError

TOLERANCE = 1e-4
FIRST_CLIP = 100_000
"""Numbers of embedded clips from here on belong to no data set."""
SAMPLE_RATE = 16_000
T = TypeVar("T")


def write_sounds(detector: Detector, count: int, folder: Path) -> list[Path]:
    """Normal and anomalous sounds of all ids in turn."""
    kinds: list[tuple[str, Literal[0, 1]]] = [(machine_id, label) for machine_id in detector.ids for label in (0, 1)]
    paths = []
    for index in range(count):
        machine_id, label = kinds[index % len(kinds)]
        clip = EmbeddedClip(machine_id, "test", label, FIRST_CLIP + index // len(kinds))
        sound = embedded_sound(detector.machine_type, clip)
        paths.append(folder / clip.name)
        soundfile.write(paths[-1], sound, SAMPLE_RATE, subtype="PCM_16")
    return paths


def timed(score: Callable[[Path], T], paths: Sequence[Path]) -> tuple[list[T], float]:
    """A result for each file, and the CPU time a file after the first."""
    score(paths[0])  # what is made at the first use
    begin = time.process_time()
    found = [score(path) for path in paths]
    return found, (time.process_time() - begin) / len(paths)


def codes_apart(detector: Detector, exported: ExportedDetector, paths: Sequence[Path]) -> tuple[int, int]:
    """How many code indices of the stretches' patches differ, and how many there are."""
    differing = total = 0
    for path in paths:
        features_TF = detector.norm.apply(lengthen(read_recording(path, detector.front_end, detector.axes)[0]))
        for begin, end in stretches(len(features_TF), detector.stretch_frames):
            for expected, found in _codes(detector, exported, features_TF[begin:end]):
                differing += int((expected != found).sum())
                total += expected.size
    return differing, total


def _codes(
    detector: Detector, exported: ExportedDetector, frames_TF: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Codes of one stretch by each model of both detectors."""
    offsets = np.array([0, len(frames_TF)])
    for member, other in zip(detector.members, exported.members, strict=True):
        starts_RP = other.windows.starts(len(frames_TF))
        heard = member.hear(torch.from_numpy(frames_TF), offsets, (detector.ids[0],), detector.windows)
        yield heard.codes.codes_BPHWM.numpy(), other.codes(frames_TF.astype(np.float32), starts_RP)


def measured(source: Path, clips: int) -> dict[str, object]:
    """A row of the table."""
    detector = Detector.load(source)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "exported"
        size_bytes = sum(path.stat().st_size for path in export_detector(source, folder))
        exported = ExportedDetector(folder)
        paths = write_sounds(detector, clips, Path(made))
        seconds = float(np.mean([soundfile.info(path).duration for path in paths]))
        expected, library_seconds = timed(lambda path: detector.score_file(path).score, paths)
        found, own_seconds = timed(lambda path: exported.score_file(path).score, paths)
        differing, codes = codes_apart(detector, exported, paths)
    gaps = np.abs(np.array(found, dtype=float) - np.array(expected, dtype=float))
    return {
        "pairs": sum(len(member.densities) for member in detector.members),
        "models": len(detector.members),
        "KiB": round(size_bytes / 1024),
        "clips": len(paths),
        "median": f"{np.median(gaps):.1e}",
        "largest": f"{gaps.max():.1e}",
        "apart": int((gaps > TOLERANCE).sum()),
        "codes": f"{differing} of {codes}",
        "times_real_time": round(seconds / own_seconds),
        "library": round(seconds / library_seconds),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.export", description=__doc__)
    parser.add_argument("detectors", metavar="DIR", nargs="+", help="folders of detectors of an embedded machine")
    add_flag(parser, "clips", type=int, default=500, metavar="N", help="sounds to score (500)")
    add_flag(parser, "output", metavar="FILE", help="where the table is stored (CSV)")
    arguments = parser.parse_args(argv)
    if arguments.clips < 1:
        raise ConfigError(f"--clips is {arguments.clips}; it must be at least 1")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    rows = []
    for detector in arguments.detectors:
        row = {"detector": Path(detector).name, **measured(Path(detector), arguments.clips)}
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        rows.append(row)
    if arguments.output:
        write_table(arguments.output, rows, command_of("export", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
