"""The contribution of each part of the detector: one change at a time, over seeds, on held-out clips.

    python -m benchmarks.ablations --seeds 5 --epochs 12
    python -m benchmarks.ablations --data-root DIR --machine-type spoken --sample-rate 8000 --n-fft 512 --hop-length 16

Every variant is trained with the same seeds; `difference` is its mean AUC minus the base's, with a 95 % interval of the
mean over seeds (Student's t, paired by seed). `alive` is the share of codes used in the last epoch. `epoch` is the
median CPU time of training an epoch (one of phase 2), relative to the base's in the same run.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_data_flags, add_flag, add_knob_flags, data_config, given_knobs, run
from trainable.config import TrialConfig
from trainable.data.load import Dataset, load_dataset
from trainable.scoring.metrics import mean_auc
from trainable.scoring.registry import make_density
from trainable.training.seeds import derived_seed
from trainable.trial import PlannedTrial, Trial

BASE: Mapping[str, Any] = {
    "num_embeddings": 512,
    "latent_dim": 16,
    "width": 0.5,
    "batch_size": 4,
    "learning_rate": 4e-3,
}
"""Small batches as in `spaces/ad_tuning.yaml`, and a large codebook, which a plain quantizer does not keep alive."""
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "plain quantizer (no k-means start, no revival)": {"kmeans_start": False, "revival": False},
    "no revival": {"revival": False},
    "no k-means start": {"kmeans_start": False},
    "cosine distance": {"distance": "cosine"},
    "rotation trick": {"code_gradient": "rotation"},
    "codebook dimension 8 (projection)": {"codebook_dim": 8},
    "no VQ-only phase": {"vq_only_share": 0.0},
    "no frozen phase": {"frozen_share": 0.0},
    "commitment warm-up 3 epochs from 0": {"commitment_warmup_epochs": 3, "commitment_warmup_start": 0.0},
    "texture loss, weight 5": {"texture_weight": 5.0},
    "texture loss, weight 5, no semantic heads": {"texture_weight": 5.0, "id_weight": 0.0, "transform_weight": 0.0},
    "no semantic heads": {"id_weight": 0.0, "transform_weight": 0.0},
    "no machine-id head": {"id_weight": 0.0},
    "no transformation head": {"transform_weight": 0.0},
}
DENSITIES = ("mahalanobis", "grid_neighbours")


@dataclass
class Measured:
    """Measurements of one variant over the seeds."""

    aucs: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in DENSITIES})
    alive: list[float] = field(default_factory=list)
    perplexity: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)


def measure(config: TrialConfig, dataset: Dataset, into: Measured) -> None:
    """Trains once and adds the results."""
    trial = Trial(PlannedTrial.whole_batch(config), dataset)
    seconds = []
    while not trial.done:
        begin = time.process_time()
        losses = trial.trainer.train_epoch()
        seconds.append(time.process_time() - begin)
    into.epoch_seconds.append(median(seconds))
    into.alive.append(1.0 - losses.dead_code_share)
    into.perplexity.append(losses.perplexity)
    train, held_out, clips = trial.train_codes(), trial.codes(dataset.held_out), dataset.held_out
    for name in DENSITIES:
        model = make_density(config.score, name=name, seed=derived_seed(config.seed, "density"))
        scores = model.fit(train, trial.codebook()).score_samples(held_out)
        into.aucs[name].append(mean_auc(clips.labels, scores, clips.machine_ids))


def difference(values: Sequence[float], base: Sequence[float]) -> str:
    """Formats the mean of paired differences with its 95 % interval."""
    gaps = np.array(values) - np.array(base)
    if len(gaps) < 2:
        return f"{gaps.mean():+.3f}"
    half = student.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return f"{gaps.mean():+.3f} ± {half:.3f}"


def row(name: str, measured: Measured, base: Measured) -> dict[str, str]:
    """Formats the row of a variant."""
    line = {"variant": name}
    for density in DENSITIES:
        line[density] = f"{np.mean(measured.aucs[density]):.3f}"
        line[f"{density} difference"] = "" if name == "base" else difference(measured.aucs[density], base.aucs[density])
    line["alive"] = f"{np.mean(measured.alive):.0%}"
    line["perplexity"] = f"{np.mean(measured.perplexity):.0f}"
    line["epoch"] = f"{np.mean(measured.epoch_seconds) / np.mean(base.epoch_seconds):.2f}"
    return line


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.ablations", description=__doc__.split("\n")[0])
    add_flag(parser, "seeds", type=int, default=5)
    add_flag(parser, "threads", type=int, default=1, help="torch's CPU threads (default: 1)")
    add_flag(parser, "only", metavar="TEXT", help="only the base and variants whose names contain TEXT")
    add_flag(parser, "output", metavar="FILE", help="also write the table as CSV")
    add_data_flags(parser)
    add_knob_flags(parser, leave_out=("seed",))
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    base = TrialConfig.from_flat({"epochs": 12, **BASE, **given_knobs(arguments)})
    dataset = load_dataset(data_config(arguments))
    print(f"{dataset.machine_type}: {len(dataset.held_out)} held-out clips, {arguments.seeds} seeds", flush=True)
    table: dict[str, Measured] = {}
    lines = []
    for name, changes in VARIANTS.items():
        if name != "base" and arguments.only and arguments.only not in name:
            continue
        table[name] = Measured()
        for seed in range(arguments.seeds):
            measure(base.replace(**changes, seed=seed), dataset, table[name])
        lines.append(row(name, table[name], table["base"]))
        print("  ".join(f"{key} {value}" for key, value in lines[-1].items() if value), flush=True)
    if arguments.output:
        write_table(arguments.output, lines, command_of("ablations", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
