"""The contribution of each part of the detector: one change at a time, over seeds, on held-out clips.

    python -m benchmarks.ablations --seeds 5 --epochs 12
    python -m benchmarks.ablations --data-root DIR --machine-type spoken --sample-rate 8000 --n-fft 512 --hop-length 16

Every variant is trained with the same seeds; `difference` is its mean AUC minus the base's, with a 95 % interval of the
mean over seeds (Student's t, paired by seed). `validation` is the mean AUC of the fused model on validation clips:
where variants are chosen among, it is what may choose. `alive` is the share of codes used in the last epoch. `epoch` is
the median CPU time of training an epoch (one of phase 2), and `memory` the predicted peak of a training step on CUDA,
both relative to the base's in the same run. The tasks beside reconstruction are of `benchmarks/tasks.py`. The last
variants are ways of the recipe that this project starts from, and its preset as a whole, whose knobs take the place of
all that are given but the epochs (docs/recipe.md). The small recipe has the base's width, batch, patches and learning
rate.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import tasks
from benchmarks.differences import difference
from benchmarks.original import Clips, augmented
from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_data_flags, add_flag, add_knob_flags, data_config, given_knobs, run
from trainable.config import DensityName, TrialConfig
from trainable.data.clips import TestClips
from trainable.data.load import Dataset, load_dataset
from trainable.execution_plan import ExecutionPlan
from trainable.memory.predict import DataSizes, Predictor
from trainable.scoring.metrics import mean_auc
from trainable.scoring.registry import make_density
from trainable.train import read_config_file
from trainable.training.seeds import derived_seed
from trainable.trial import PlannedTrial, Trial

BASE: Mapping[str, Any] = {
    "num_embeddings": 64,
    "codebooks": 4,
    "linear_path": True,
    "columns": 16,
    "latent_dim": 32,
    "width": 0.5,
    "batch_size": 4,
    "n_patches": 4,
    "stride": 8,
    "learning_rate": 2e-3,
    "id_weight": 0.0,
    "transform_weight": 0.0,
    "score_patches": 10,
    "radius_power": 0.5,
}
"""In the middle of `spaces/ad_tuning.yaml`."""
ONE_CODEBOOK: Mapping[str, Any] = {"num_embeddings": 512, "codebooks": 1}
RECIPE: Mapping[str, Any] = {
    name: value
    for name, value in TrialConfig.from_flat(read_config_file("recipe")[0]).flat().items()
    if name not in ("epochs", "seed")
}
OF_ITS_SIZE = ("width", "batch_size", "n_patches", "stride", "learning_rate", "score_patches")
SMALL_RECIPE: Mapping[str, Any] = {**RECIPE, **{name: BASE[name] for name in OF_ITS_SIZE}}
"""The recipe with as many steps of as few patches as the base, so that neither is favoured by a short training."""
DETACHED_BATCH_NORM: Mapping[str, Any] = {"quantizer": "detached", "model": "batch_norm"}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "8 columns": {"columns": 8},
    "32 columns": {"columns": 32},
    "16 rows": {"rows": 16},
    "32 rows": {"rows": 32},
    "no linear path": {"linear_path": False},
    "one codebook of 512": ONE_CODEBOOK,
    "no linear path, one codebook of 512": {"linear_path": False, **ONE_CODEBOOK},
    "eight codebooks": {"codebooks": 8},
    "codebooks of 256": {"num_embeddings": 256},
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
    "context, weight 1": {"context_weight": 1.0},
    "context, weight 5": {"context_weight": 5.0},
    "resolutions, weight 5": {"resolutions_weight": 5.0},
    "detached decoder, context, weight 1": {"quantizer": "detached", "context_weight": 1.0},
    "machine-id head": {"id_weight": 0.1},
    "transformation head": {"transform_weight": 0.1},
    "twice as wide": {"width": 1.0},
    "twice as long": {"epochs": 24},
    "hardly trained (learning rate / 1000)": {"learning_rate": 2e-6},
    "full stem": {"stem": "full"},
    "depth 1": {"depth": 1},
    "depth 2": {"depth": 2},
    "detached decoder": {"quantizer": "detached"},
    "batch norm": {"model": "batch_norm"},
    "always augmented": {},
    "small recipe": SMALL_RECIPE,
    "small recipe with k-means start and revival": {**SMALL_RECIPE, "kmeans_start": True, "revival": True},
    "small recipe with these three": {**SMALL_RECIPE, **DETACHED_BATCH_NORM},
    "preset recipe": RECIPE,
    "preset recipe with these three": {**RECIPE, **DETACHED_BATCH_NORM},
}
AUGMENTED = ("always augmented", "small recipe with these three", "preset recipe with these three")
"""Variants whose clips are transformed whenever they are read: anew in each epoch, and for scoring."""
DENSITIES: tuple[DensityName, ...] = ("mahalanobis", "fused", "counts")
"""Of `fused` the validation AUC is reported too."""


@dataclass
class Measured:
    """Measurements of one variant over the seeds."""

    aucs: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in DENSITIES})
    alive: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    perplexity: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    epoch_seconds: list[float] = field(default_factory=list)


def measure(config: TrialConfig, dataset: Dataset, into: Measured, *, always_augmented: bool = False) -> None:
    """Trains once and adds the results."""
    trial = Trial(PlannedTrial.whole_batch(config), dataset)
    generator = torch.Generator().manual_seed(config.seed)

    def heard(clips: Clips) -> Clips:
        return augmented(clips, generator) if always_augmented else clips

    seconds = []
    while not trial.done:
        trial.trainer.train = heard(dataset.train)
        begin = time.process_time()
        losses = trial.trainer.train_epoch()
        seconds.append(time.process_time() - begin)
    into.epoch_seconds.append(median(seconds))
    into.alive.append(1.0 - losses.dead_code_share)
    into.perplexity.append(losses.perplexity)
    plan = ExecutionPlan(micro_batch_clips=config.patch.batch_size)
    into.peak_bytes = Predictor(DataSizes.of(dataset)).predict(config, plan).allocated_bytes
    train, held_out, validation = (
        trial.codes(heard(clips)) for clips in (dataset.train, dataset.held_out, dataset.validation)
    )
    for name in DENSITIES:
        model = make_density(config.score, name=name, seed=derived_seed(config.seed, "density"))
        model.fit(train, trial.codebook())
        into.aucs[name].append(_auc(dataset.held_out, model.score_samples(held_out)))
        if name == "fused":
            into.validation.append(_auc(dataset.validation, model.score_samples(validation)))


def _auc(clips: TestClips, scores: np.ndarray) -> float:
    return mean_auc(clips.labels, scores, clips.machine_ids)


def row(name: str, measured: Measured, base: Measured) -> dict[str, str]:
    """Formats the row of a variant."""
    line = {"variant": name}
    for density in DENSITIES:
        line[density] = f"{np.mean(measured.aucs[density]):.3f}"
        line[f"{density} difference"] = "" if name == "base" else difference(measured.aucs[density], base.aucs[density])
    line["validation"] = f"{np.mean(measured.validation):.3f}"
    line["alive"] = f"{np.mean(measured.alive):.0%}"
    line["perplexity"] = f"{np.mean(measured.perplexity):.0f}"
    line["epoch"] = f"{np.mean(measured.epoch_seconds) / np.mean(base.epoch_seconds):.2f}"
    line["memory"] = f"{measured.peak_bytes / base.peak_bytes:.2f}"
    return line


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.ablations", description=__doc__.split("\n")[0])
    add_flag(parser, "seeds", type=int, default=5)
    add_flag(parser, "threads", type=int, default=1, help="torch's CPU threads (default: 1)")
    add_flag(parser, "only", metavar="TEXT,…", help="only the base and variants whose names contain a TEXT")
    add_flag(parser, "output", metavar="FILE", help="also write the table as CSV")
    add_data_flags(parser)
    add_knob_flags(parser, leave_out=("seed",))
    arguments = parser.parse_args(argv)
    tasks.register()
    torch.set_num_threads(arguments.threads)
    base = TrialConfig.from_flat({"epochs": 12, **BASE, **given_knobs(arguments)})
    dataset = load_dataset(data_config(arguments))
    print(f"{dataset.machine_type}: {len(dataset.held_out)} held-out clips, {arguments.seeds} seeds", flush=True)
    table: dict[str, Measured] = {}
    lines = []
    wanted = (arguments.only or "").split(",")
    for name, changes in VARIANTS.items():
        if name != "base" and not any(text in name for text in wanted):
            continue
        table[name] = Measured()
        for seed in range(arguments.seeds):
            config = base.replace(**changes, seed=seed)
            measure(config, dataset, table[name], always_augmented=name in AUGMENTED)
        lines.append(row(name, table[name], table["base"]))
        print("  ".join(f"{key} {value}" for key, value in lines[-1].items() if value), flush=True)
        if arguments.output:  # after each variant, so that a table stopped early keeps what was measured
            write_table(arguments.output, lines, command_of("ablations", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
