"""Estimated against recorded seconds of an epoch, training and scoring, on CPU cores.

    python -m benchmarks.epoch_time

Nothing is trained: the seconds are those beside the recorded curves in `benchmarks/results/curves`, where two trainings
ran at a time. What `trainable.timing` estimates is right up to a factor of the machine and the data, which a search
learns from its first epochs; the last line is what remains when each data set's median is known.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.curves import TABLES, DataSet, read_curves
from benchmarks.gpu_times import Timed, agreement, ratios
from benchmarks.recorded import RECORDED_SPACE
from spaces.loader import load_space
from spaces.space import Space
from trainable.commandline import Parser, add_flag, run
from trainable.memory.predict import DataSizes
from trainable.timing.speed import CPU_ESTIMATE
from trainable.timing.work import epoch_work

CLIPS = DataSizes(train_frames=0, test_frames=0, train_clips=1_000, test_clips=400, n_ids=4)
"""As the data sets have, roughly; more clips are more work by the same factor for all configurations."""
FRAMES = 141
"""Of a clip of the embedded machines, which most data sets are."""


def recorded_epochs(data: DataSet, space: Space) -> list[Timed]:
    """Work and seconds of an epoch of each configuration's first training."""
    found = []
    for training in data.once:
        config = space.config(data.params[training.configuration], epochs=1)
        work = epoch_work(config, CLIPS)
        found.append(Timed(str(training.configuration), work, training.seconds_an_epoch))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.epoch_time", description=__doc__.split("\n")[0])
    add_flag(
        parser, "space", default=str(RECORDED_SPACE), metavar="NAME_OR_PATH", help="that of the recorded trainings"
    )
    add_flag(parser, "curves", metavar="DIR", default=str(TABLES), help="tables of recorded trainings")
    arguments = parser.parse_args(argv)
    space, known = load_space(arguments.space).for_clips(FRAMES), []
    for data in read_curves(space, Path(arguments.curves)):
        timed = recorded_epochs(data, space)
        print(f"{data.name}: {agreement(timed, CPU_ESTIMATE)}")
        factor = median(ratios(timed, CPU_ESTIMATE))
        known += [replace(each, seconds=factor * each.seconds) for each in timed]
    print(f"all, with each one's factor known: {agreement(known, CPU_ESTIMATE)}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
