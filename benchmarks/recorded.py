"""Recorded trainings of a data set: what every cheap density model scored after every epoch, and after the last.

    python -m benchmarks.recorded --machine-type fan --configurations 60 --store runs/recorded/fan
    python -m benchmarks.recorded --machine-type pump --configurations 60 --store runs/recorded/pump

Configurations are drawn uniformly from the space, the same for every data set, and trained to the end, never stopped.
The first few (`--repeated`) are trained with three seeds. ``--portfolio`` trains those that a search proposes first
(`search/portfolio.yaml`) in place of drawn ones, numbered from `PORTFOLIO` on. A training is kept as one file when it
ends; the command goes on where an earlier one stopped. The store keeps scores of single clips; `benchmarks.curves`
makes the small, committed tables of AUCs from it, or adds to them what a store has that they lack (``--first`` leaves
out what they have).

A search's detector may average trials that were stopped, so the clips that judge it are scored after a few early epochs
(`EARLY`) as well.

`fresh` clips of an embedded machine are new ones of the same machines, in neither validation nor held-out clips: their
AUC is as near to the truth as their number. Recordings of one's own have none.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from search.engine.space_draws import uniform_params
from search.first_proposals import of_portfolio
from spaces.loader import load_space
from trainable.commandline import Parser, add_data_flags, add_flag, data_config, run
from trainable.config import EMBEDDED_TEST_CLIPS, DataConfig
from trainable.data.cache import default_cache_dir
from trainable.data.clips import Split, TestClips
from trainable.data.embedded import Amount, make_recordings
from trainable.data.load import Dataset, load_dataset
from trainable.durable import replacing
from trainable.scoring.codes import ClipCodes
from trainable.scoring.density import DensityModel
from trainable.trial import PlannedTrial, Trial

SEEDS = 3
SEED_STEP = 100_003
EARLY = (1, 2, 3, 4, 6)
"""Epochs after which all clips are scored, beside the last: those at which ASHA stops trials."""
RECORDED_SPACE = Path(__file__).with_name("results") / "curves" / "space.yaml"
"""What the trainings of the tables beside it were drawn from: `ad_tuning` before it had finer rows."""
PORTFOLIO = 900
"""Number of the portfolio's first configuration."""


@dataclass(frozen=True)
class Training:
    """One training of the bench."""

    configuration: int
    repeat: int
    """0, or 1 … for the same configuration with another seed."""

    @property
    def seed(self) -> int:
        return self.configuration + SEED_STEP * self.repeat

    @property
    def file_name(self) -> str:
        return f"{self.configuration:03d}-{self.repeat}.npz"


def trainings(configurations: int, repeated: int, first: int = 0) -> Iterator[Training]:
    """Every configuration from `first` on once, then the first `repeated` of all with more seeds."""
    yield from (Training(index, 0) for index in range(first, configurations))
    yield from (Training(index, repeat) for index in range(repeated) for repeat in range(1, SEEDS))


def fresh_clips(data: DataConfig, dataset: Dataset, count: int) -> TestClips:
    """New clips of an embedded machine, `count` of each kind and id, normalised like the data set's."""
    amount = Amount(test_clips=EMBEDDED_TEST_CLIPS + count)
    test = make_recordings(data.machine_type, data.front_end, default_cache_dir(), amount=amount).test
    # Clips are numbered within their kind and id, and the numbers decide their sounds.
    new = test.take([at for at, name in enumerate(test.names) if int(Path(name).stem[-8:]) >= EMBEDDED_TEST_CLIPS])
    return TestClips(*dataset.norm.packed(new), Split.HELD_OUT, labels=np.array(new.labels, dtype=np.int64))


def record(arguments: argparse.Namespace) -> None:
    """Trains what the store lacks."""
    space = load_space(arguments.space)
    data = data_config(arguments, {**space.data, "objective": "labels"})
    dataset = load_dataset(data)
    fitted = space.for_clips(int(dataset.train.lengths.max()))
    judged = {"validation": dataset.validation, "held_out": dataset.held_out}
    if data.source is None:
        judged["fresh"] = fresh_clips(data, dataset, arguments.fresh)
    store = Path(arguments.store)
    store.mkdir(parents=True, exist_ok=True)
    with replacing(store / "clips.npz") as file:
        said: dict[str, np.ndarray] = {}
        for name, clips in judged.items():
            said |= {f"{name}/ids": np.array(clips.machine_ids), f"{name}/labels": clips.labels}
        np.savez(file, **said)  # type: ignore[arg-type]
    proposed = of_portfolio(space)
    wanted = trainings(arguments.configurations, arguments.repeated, arguments.first)
    for training in trainings(PORTFOLIO + len(proposed), 0, PORTFOLIO) if arguments.portfolio else wanted:
        path = store / training.file_name
        if path.exists():
            continue
        begin = time.perf_counter()
        if training.configuration >= PORTFOLIO:
            params = proposed[training.configuration - PORTFOLIO]
        else:
            params = uniform_params(space, np.random.RandomState(SEED_STEP * arguments.seed + training.configuration))
        config = fitted.config(params, epochs=arguments.epochs, seed=training.seed)
        kept = _trained(Trial(PlannedTrial.whole_batch(config), dataset), judged)
        with replacing(path) as file:
            np.savez(file, params=np.array(json.dumps(params)), **kept)  # type: ignore[arg-type]
        print(f"{path}: {time.perf_counter() - begin:.0f} s", flush=True)


def _trained(trial: Trial, judged: dict[str, TestClips]) -> dict[str, np.ndarray]:
    """Scores, float32: by ``density/validation`` (epochs, clips), after every epoch; by ``density/split`` of the other
    splits (clips,), after the last one, and by ``density/split/epoch`` after each of `EARLY`."""
    validation: dict[str, list[np.ndarray]] = {}
    kept: dict[str, np.ndarray] = {}
    seconds: list[float] = []
    others = {split: clips for split, clips in judged.items() if split != "validation"}
    while not trial.done:
        begin = time.perf_counter()
        epoch = len(seconds) + 1
        trial.trainer.train_epoch()
        densities = trial.densities()
        for name, scores in _scores(densities, trial.codes(judged["validation"])).items():
            validation.setdefault(name, []).append(scores)
        seconds.append(time.perf_counter() - begin)
        if trial.done or epoch in EARLY:
            end = "" if trial.done else f"/{epoch}"
            for split, clips in others.items():
                found = _scores(densities, trial.codes(clips))
                kept |= {f"{name}/{split}{end}": scores for name, scores in found.items()}
    kept |= {f"{name}/validation": np.stack(scores) for name, scores in validation.items()}
    return {"seconds": np.array(seconds), **kept}


def _scores(densities: Mapping[str, DensityModel], codes: ClipCodes) -> dict[str, np.ndarray]:
    return {name: density.score_samples(codes).astype(np.float32) for name, density in densities.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.recorded", description=__doc__.split("\n")[0])
    add_flag(parser, "space", default=str(RECORDED_SPACE))
    add_flag(parser, "configurations", type=int, default=60)
    add_flag(
        parser, "first", type=int, default=0, help="number of the first configuration that is trained (default: 0)"
    )
    add_flag(parser, "portfolio", action="store_true", help="train the portfolio in place of drawn configurations")
    add_flag(parser, "repeated", type=int, default=10, help=f"configurations trained with {SEEDS} seeds (default: 10)")
    add_flag(parser, "epochs", type=int, default=12)
    add_flag(parser, "fresh", type=int, default=100, help="new clips of each kind and embedded id (default: 100)")
    add_flag(parser, "seed", type=int, default=0, help="seed of the drawn configurations (default: 0)")
    add_flag(parser, "store", metavar="DIR", default="runs/recorded/fan", help="where the trainings are kept")
    add_flag(parser, "threads", type=int, default=1, help="torch's CPU threads (default: 1)")
    add_data_flags(parser)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    record(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
