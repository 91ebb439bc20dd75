"""AUC and cost of each density model on held-out clips, compared with the yardsticks.

    python -m benchmarks.density --seeds 5 --epochs 20
    python -m benchmarks.density --data-root DIR --machine-type spoken --sample-rate 8000 --n-fft 512 --hop-length 16

Trains one configuration (any flag of ``python -m trainable.train`` sets a knob) once per seed and fits every density
model to the same codes. AUC is the mean over machine ids, then over seeds. Intervals are 95 % percentile bootstraps
over clips, with the same resamples for every seed and detector; one column per machine id gives its mean over seeds.
`validation` is a density model's mean AUC on the validation clips, by which a configuration may be chosen; one row is,
for every seed, the model with the highest, and one the same for a model of the same configuration whose codebook has
learned an epoch and whose encoder has not: the cosines of the linear path.
`over_yardstick` is the interval of the difference to the yardstick with the highest AUC, whose own cell says so, and
`over_pca_codes` that of the difference to codes that need no training.
`share` is the time to fit and score training and held-out clips, relative to the training time of one epoch in the same
run; the last row is the whole scoring pass at the end of every epoch of a trial.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_data_flags, add_flag, add_knob_flags, data_config, given_knobs, run
from trainable.config import TrialConfig
from trainable.data.clips import TestClips
from trainable.data.load import Dataset, load_dataset
from trainable.registry import DENSITIES
from trainable.scoring.codes import ClipCodes
from trainable.scoring.metrics import auc, bootstrap_aucs, groups_by_id, mean_auc, pauc, percentile_interval
from trainable.scoring.registry import make_density
from trainable.train import read_config_file
from trainable.training.seeds import derived_seed
from trainable.trial import PlannedTrial, Trial
from trainable.yardsticks.base import Yardstick
from trainable.yardsticks.catalogue import YARDSTICKS
from trainable.yardsticks.pca_codes import PCACodes
from trainable.yardsticks.stacked_frames import FramePredictor

CHOSEN = "the density model with the highest validation AUC"
UNTRAINED = "the same, encoder as it starts"
LEAST_RATE = 1e-7
"""A learning rate at which an epoch leaves the encoder as it is."""
SCORING_PASS = "scoring pass of an epoch"


@dataclass
class Measured:
    """Measurements of one detector over the seeds."""

    aucs: list[float] = field(default_factory=list)
    aucs_by_id: list[dict[str, float]] = field(default_factory=list)
    paucs: list[float] = field(default_factory=list)
    resamples: list[np.ndarray] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    validation_aucs: list[float] = field(default_factory=list)

    def add(self, clips: TestClips, scores: np.ndarray, share: float | None = None) -> None:
        """Adds one seed's scores, and their cost in epochs if codes were scored."""
        self.aucs.append(mean_auc(clips.labels, scores, clips.machine_ids))
        groups = groups_by_id(clips.machine_ids, clips.labels)
        self.aucs_by_id.append({name: auc(clips.labels[members], scores[members]) for name, members in groups.items()})
        self.paucs.append(float(np.mean([pauc(clips.labels[members], scores[members]) for members in groups.values()])))
        self.resamples.append(bootstrap_aucs(clips.labels, scores, clips.machine_ids))
        if share is not None:
            self.shares.append(share)


def row_name(yardstick: type[Yardstick]) -> str:
    """What the table calls a yardstick."""
    return f"{yardstick.title} (yardstick)"


PCA_CODES = row_name(PCACodes)


def measure(
    config: TrialConfig,
    dataset: Dataset,
    seeds: int,
    network_epochs: int,
    progress: Callable[[str], None],
    *,
    densities: Sequence[str],
) -> dict[str, Measured]:
    """Measures detectors on the held-out clips, for seeds 0 … seeds − 1."""
    table: dict[str, Measured] = {}

    def add(name: str, scores: np.ndarray, share: float | None = None) -> None:
        table.setdefault(name, Measured()).add(dataset.held_out, scores, share)

    for seed in range(seeds):
        trial = Trial(PlannedTrial.whole_batch(config.replace(seed=seed)), dataset)
        begin = time.perf_counter()
        for _ in range(config.phase.epochs - 1):
            trial.trainer.train_epoch()
        before_seconds = time.perf_counter() - begin
        report = trial.step()
        epoch_seconds = (before_seconds + report.train_seconds) / config.phase.epochs
        table.setdefault(SCORING_PASS, Measured()).shares.append(report.score_seconds / epoch_seconds)
        begin = time.perf_counter()
        train, held_out = trial.codes(dataset.train), trial.codes(dataset.held_out)
        encode_share = (time.perf_counter() - begin) / epoch_seconds
        _, encoded = trial.trainer.encode(dataset.held_out, with_errors=True)
        progress(f"seed {seed}: {epoch_seconds:.2f} s an epoch; encoding costs {encode_share:.2f} epochs")
        found = scored(trial, train, held_out, densities)
        for name, each in found.items():
            add(name, each.held_out_B, each.seconds / epoch_seconds)
            table[name].validation_aucs.append(each.validation_auc)
        add(CHOSEN, best(found))
        start = Trial(PlannedTrial.whole_batch(config.replace(seed=seed, epochs=1, learning_rate=LEAST_RATE)), dataset)
        start.trainer.train_epoch()
        add(UNTRAINED, best(scored(start, start.codes(dataset.train), start.codes(dataset.held_out), densities)))
        add("reconstruction error", encoded.reconstruction_error_B.double().numpy())
        add("quantization error", encoded.quantization_error_B.double().numpy())
        for kind in YARDSTICKS:
            begin = time.perf_counter()
            yardstick = kind.beside(trial.config)
            if isinstance(yardstick, FramePredictor):
                yardstick.epochs = network_epochs
            scores = yardstick.fit(dataset.train).score_samples(dataset.held_out)
            add(row_name(kind), scores, (time.perf_counter() - begin) / epoch_seconds)
    return table


@dataclass(frozen=True)
class Scored:
    """What one density model makes of a training."""

    held_out_B: np.ndarray
    """Scores of the held-out clips."""
    seconds: float
    """To fit, and to score them."""
    validation_auc: float


def scored(trial: Trial, train: ClipCodes, held_out: ClipCodes, densities: Sequence[str]) -> dict[str, Scored]:
    """Each density model on the same codes."""
    clips = trial.dataset.validation
    validation, found = trial.codes(clips), {}
    for name in densities:
        model = make_density(trial.config.score, name=name, seed=derived_seed(trial.config.seed, "density"))
        begin = time.perf_counter()
        scores = model.fit(train, trial.codebook()).score_samples(held_out)
        seconds = time.perf_counter() - begin
        heard = mean_auc(clips.labels, model.score_samples(validation), clips.machine_ids)
        found[name] = Scored(scores, seconds, heard)
    return found


def best(found: dict[str, Scored]) -> np.ndarray:
    """Scores by the density model with the highest validation AUC."""
    return max(found.values(), key=lambda each: each.validation_auc).held_out_B


def strongest(table: dict[str, Measured]) -> str:
    """The row of the yardstick with the highest AUC."""
    return max(map(row_name, YARDSTICKS), key=lambda name: float(np.mean(table[name].aucs)))


def rows(table: dict[str, Measured]) -> list[dict[str, str]]:
    """Formats the table's rows, best AUC first."""
    yardstick = strongest(table)
    detectors = {name: measured for name, measured in table.items() if measured.aucs}
    resamples = {name: np.mean(measured.resamples, axis=0) for name, measured in detectors.items()}

    def over(name: str, other: str) -> str:
        low, high = percentile_interval(resamples[name] - resamples[other])
        return f"{low:+.3f} … {high:+.3f}"

    result = []
    for name, measured in sorted(detectors.items(), key=lambda item: -float(np.mean(item[1].aucs))):
        low, high = percentile_interval(resamples[name])
        result.append(
            {
                "detector": name,
                "auc": f"{np.mean(measured.aucs):.3f}",
                "interval": f"{low:.3f} … {high:.3f}",
                "seeds": f"{min(measured.aucs):.3f} … {max(measured.aucs):.3f}",
                "pauc": f"{np.mean(measured.paucs):.3f}",
                "over_yardstick": "the strongest" if name == yardstick else over(name, yardstick),
                "over_pca_codes": "" if name == PCA_CODES else over(name, PCA_CODES),
                "share": f"{np.mean(measured.shares):.2f}" if measured.shares else "",
                "validation": f"{np.mean(measured.validation_aucs):.3f}" if measured.validation_aucs else "",
            }
            | {
                name: f"{np.mean([by_id[name] for by_id in measured.aucs_by_id]):.3f}"
                for name in measured.aucs_by_id[0]
            }
        )
    scoring = {"detector": SCORING_PASS, "share": f"{np.mean(table[SCORING_PASS].shares):.2f}"}
    return [*result, {key: scoring.get(key, "") for key in result[0]}]


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.density", description=__doc__.split("\n")[0])
    add_flag(parser, "seeds", type=int, default=5, help="trainings, with seeds 0, 1, … (default: 5)")
    add_flag(parser, "network_epochs", type=int, default=10, help="epochs of autoencoder and IDNN (default: 10)")
    add_flag(parser, "densities", metavar="NAMES", help="density models, with commas (default: all)")
    add_flag(parser, "config", metavar="FILE", help="configuration and data, such as a search's best.yaml")
    add_flag(parser, "output", metavar="FILE", help="also write the table as CSV")
    add_data_flags(parser)
    add_knob_flags(parser)
    arguments = parser.parse_args(argv)
    saved_config, saved_data = read_config_file(Path(arguments.config)) if arguments.config else ({}, {})
    config = TrialConfig.from_flat({**saved_config, **given_knobs(arguments)})
    dataset = load_dataset(data_config(arguments, saved_data))
    default = TrialConfig().flat()
    changed = {name: value for name, value in config.flat().items() if value != default[name]}
    print(
        f"{dataset.machine_type}: {len(dataset.train)} training and {len(dataset.held_out)} held-out clips, "
        f"{len(dataset.ids)} machine ids; {arguments.seeds} seeds; defaults except {changed}"
    )
    table = measure(
        config,
        dataset,
        arguments.seeds,
        arguments.network_epochs,
        lambda line: print(line, flush=True),
        densities=arguments.densities.split(",") if arguments.densities else DENSITIES.names(),
    )
    lines = rows(table)
    widths = {key: max(len(key), *(len(line[key]) for line in lines)) for key in lines[0]}
    print("  ".join(key.ljust(width) for key, width in widths.items()))
    for line in lines:
        print("  ".join(line[key].ljust(width) for key, width in widths.items()))
    if arguments.output:
        write_table(arguments.output, lines, command_of("density", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
