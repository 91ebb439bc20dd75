"""One machine's recordings in other formats and layouts: the same halves, and the same detector within noise?

    python -m benchmarks.formats --data-root data --machine-type fan

Converts `.wav` recordings in DCASE's layout to FLAC, to precomputed features, to a flat folder with a table, and to
MIMII's folders, in a temporary folder. Of each form it trains one configuration with several seeds. A row says whether
every recording is in the split that it has as `.wav`, and gives the held-out AUC: the mean over seeds, and the mean
difference from `.wav` with its 95 % interval (Student's t, paired by seed). MIMII's layout has no parts, so that other
clips test there; it has no difference.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.differences import difference
from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_data_flags, add_flag, add_knob_flags, data_config, given_knobs, run
from trainable.config import DataConfig, TrialConfig
from trainable.data.clips import Split
from trainable.data.layout import ClipFile, find_files
from trainable.data.load import Dataset, load_dataset
from trainable.data.readers import read_recording
from trainable.data.split import recording_of
from trainable.data.table import Row
from trainable.data.table import write_table as write_recordings
from trainable.errors import ConfigError
from trainable.trial import PlannedTrial, Trial


def as_flac(clip: ClipFile, root: Path, data: DataConfig) -> None:
    samples, rate = soundfile.read(clip.path, dtype="int16")
    soundfile.write(_place(clip, root, data, ".flac"), samples, rate)


def as_features(clip: ClipFile, root: Path, data: DataConfig) -> None:
    np.save(_place(clip, root, data, ".npy"), read_recording(clip.path, data.front_end)[0])


def as_mimii(clip: ClipFile, root: Path, data: DataConfig) -> None:
    kind = root / data.machine_type / f"id_{clip.machine_id}" / ("abnormal" if clip.label else "normal")
    kind.mkdir(parents=True, exist_ok=True)
    shutil.copy(clip.path, kind / f"{clip.part}_{clip.path.name}")


def _place(clip: ClipFile, root: Path, data: DataConfig, suffix: str) -> Path:
    path = root / data.machine_type / clip.part / clip.path.with_suffix(suffix).name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


FORMS: Mapping[str, Callable[[ClipFile, Path, DataConfig], None]] = {
    "flac": as_flac,
    "npy": as_features,
    "mimii": as_mimii,
}


def forms(data: DataConfig, folder: Path) -> dict[str, DataConfig]:
    """Makes every form below a folder: name → how it is read."""
    assert data.data_root is not None
    files = find_files(Path(data.data_root), data.machine_type, labelled=True)
    clips = [*files.train, *files.test]
    made = {"wav": data}
    for name, convert in FORMS.items():
        for clip in clips:
            convert(clip, folder / name, data)
        made[name] = replace(data, data_root=str(folder / name))
    write_recordings(
        folder / "table.csv", (Row(str(clip.path), clip.label, clip.machine_id, clip.part) for clip in clips)
    )
    made["table"] = replace(data, data_root=None, recordings=str(folder / "table.csv"))
    return made


def splits(dataset: Dataset) -> dict[str, str]:
    """Each recording's split, by the end of its name that all forms share."""
    parts = (dataset.train, dataset.validation, dataset.held_out)
    return {recording_of(name)[-20:]: part.split.value for part in parts for name in part.names}


def held_out_aucs(dataset: Dataset, config: TrialConfig, seeds: int) -> list[float]:
    """One AUC per seed."""
    aucs = []
    for seed in range(seeds):
        trial = Trial(PlannedTrial.whole_batch(config.replace(seed=seed)), dataset)
        while not trial.done:
            trial.trainer.train_epoch()
        aucs.append(trial.evaluate(Split.HELD_OUT).auc)
        trial.release()
    return aucs


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m benchmarks.formats", description=__doc__)
    add_flag(parser, "seeds", type=int, default=3, metavar="N", help="trainings of each form (3)")
    add_flag(parser, "output", metavar="FILE", help="where the table is stored (CSV)")
    add_data_flags(parser)
    add_knob_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    data = data_config(arguments)
    if data.data_root is None:
        raise ConfigError("--data-root is missing; name a folder of .wav recordings in DCASE's layout")
    config = TrialConfig.from_flat(given_knobs(arguments))
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        wav: tuple[dict[str, str], list[float]] = {}, []
        for name, form in forms(data, Path(folder)).items():
            dataset = load_dataset(form, cache_dir=Path(folder) / "cache")
            found, aucs = splits(dataset), held_out_aucs(dataset, config, arguments.seeds)
            wav = wav if rows else (found, aucs)
            row: dict[str, object] = {"form": name, "clips": len(found), "same_split": found == wav[0]}
            row |= {"held_out_auc": round(float(np.mean(aucs)), 4)}
            if rows and found == wav[0] and arguments.seeds > 1:
                row["minus_wav"] = difference(aucs, wav[1])
            rows.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if arguments.output:
        write_table(arguments.output, rows, command_of("formats", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
