"""False alarms and power of a long recording's p-value, for several ways to combine the p-values of its stretches.

    python -m benchmarks.long_recordings --machine-type fan --embedded-test-clips 250

Trains one configuration and scores the test clips, none of which it was trained on. Each draw splits an id's normal
clips into a calibration and the rest, and joins clips of the rest to a long recording: *normal*, *foreign* throughout
(clips labelled anomalous), or with *one* anomalous clip among normal ones. With ``--within`` a long recording is one
clip, cut into stretches of the model's windows: its stretches are as alike as a recording's are.

`least` is the smallest p-value that the calibration allows, 1/(n + 1). The other columns are shares of the draws, in
per cent, with p ≤ 0.01 and p ≤ 0.05: what a way claims to be at most 1 and 5 for normal recordings.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_data_flags, add_flag, add_knob_flags, data_config, given_knobs, run
from trainable.config import TrialConfig
from trainable.data.clips import TestClips
from trainable.data.load import load_dataset
from trainable.data.windows import Windows
from trainable.detection.calibration import Calibration, calibrated, simes
from trainable.detection.detector import Member, raw_scores
from trainable.detection.stretches import cut_clips
from trainable.trial import PlannedTrial, Trial

LEVELS = (0.01, 0.05)


def sidak(p_m: np.ndarray) -> float:
    """Of the lowest, as if the stretches were independent: what detectors did before format 4."""
    return float(1.0 - (1.0 - p_m.min()) ** len(p_m))


def twice_the_mean(p_m: np.ndarray) -> float:
    """Valid whatever the dependence (Rüschendorf 1982; Vovk & Wang 2020)."""
    return float(min(1.0, 2.0 * p_m.mean()))


def harmonic(p_m: np.ndarray) -> float:
    """e · ln m times the harmonic mean, valid whatever the dependence (Vovk & Wang 2020)."""
    return float(min(1.0, np.e * np.log(max(len(p_m), 3)) / (1.0 / p_m).mean()))


def cauchy(p_m: np.ndarray) -> float:
    """Cauchy combination (Liu & Xie 2020), for small p-values of any correlation."""
    return float(0.5 - np.arctan(np.tan((0.5 - np.minimum(p_m, 1 - 1e-3)) * np.pi).mean()) / np.pi)


WAYS: Mapping[str, Callable[[np.ndarray], float]] = {
    "simes": simes,
    "sidak": sidak,
    "twice_the_mean": twice_the_mean,
    "harmonic": harmonic,
    "cauchy": cauchy,
}


@dataclass(frozen=True)
class Scored:
    """Raw scores of the stretches of one machine id's clips."""

    raw_S: np.ndarray
    owners_S: np.ndarray
    normal: np.ndarray
    """Numbers of the normal clips."""
    anomalous: np.ndarray

    def stretches(self, clips: np.ndarray) -> np.ndarray:
        """Which stretches are of some clips, in the order of the clips."""
        return np.concatenate([np.flatnonzero(self.owners_S == clip) for clip in clips])


def score(trial: Trial, clips: TestClips, *, within: bool) -> list[Scored]:
    """Scores of every machine id."""
    member = Member.of_trial(trial)
    most = member.state.geometry.patch_frames if within else int(trial.dataset.train.lengths.max())
    cut = cut_clips(clips, most)
    (raw_S,) = raw_scores([member], cut, Windows.ALL)
    ids = np.array(clips.machine_ids)
    return [
        Scored(
            raw_S,
            cut.owners,
            np.flatnonzero((ids == machine_id) & (clips.labels == 0)),
            np.flatnonzero((ids == machine_id) & (clips.labels == 1)),
        )
        for machine_id in trial.dataset.ids
    ]


def drawn(scored: Scored, size: int, joined: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Stretch p-values of a normal, a foreign and a mixed long recording of one calibration."""
    order = random.permutation(scored.normal)
    stretches = scored.stretches(order[:size])
    owners = scored.owners_S[stretches]
    centres, scales, scores = calibrated(scored.raw_S[None, stretches], owners)
    weights = 1.0 / np.array([(owners == owner).sum() for owner in owners])
    ascending = np.argsort(scores)
    calibration = Calibration(tuple(centres), tuple(scales), tuple(scores[ascending]), tuple(weights[ascending]))
    rest = order[size:]
    normal = random.choice(rest, joined, replace=len(rest) < joined)
    foreign = random.choice(scored.anomalous, joined, replace=len(scored.anomalous) < joined)
    recordings = {"normal": normal, "foreign": foreign, "one": np.append(normal[1:], foreign[:1])}

    def p_values(clips: np.ndarray) -> np.ndarray:
        return calibration.stretch_p_values((scored.raw_S[scored.stretches(clips)] - centres[0]) / scales[0])

    return {kind: p_values(clips) for kind, clips in recordings.items()}


def rows_of(scored: Sequence[Scored], size: int, joined: int, draws: int) -> list[dict[str, object]]:
    """A row for each way of combining; draws of all machine ids together."""
    random = np.random.default_rng(0)
    found = [drawn(each, size, joined, random) for each in scored for _ in range(draws)]
    rows = []
    for way, combine in WAYS.items():
        row: dict[str, object] = {
            "calibration": size,
            "stretches": int(np.mean([len(each["normal"]) for each in found])),
            "way": way,
            "least": f"{1 / (size + 1):.4f}",
        }
        for kind in ("normal", "foreign", "one")[: 3 if joined > 1 else 2]:
            p_values = np.array([combine(each[kind]) for each in found])
            for level in LEVELS:
                row[f"{kind} p ≤ {level}"] = f"{100 * (p_values <= level * (1 + 1e-9)).mean():.1f}"
        rows.append(row)
    return rows


def build_parser() -> Parser:
    parser = Parser(prog="python -m benchmarks.long_recordings", description=__doc__.partition("\n")[0])
    add_flag(parser, "calibration", default="20,100", metavar="N,…", help="calibration clips of an id (20,100)")
    add_flag(parser, "joined", type=int, default=60, metavar="M", help="clips of a long recording (60)")
    add_flag(parser, "within", action="store_true", help="cut single clips instead of joining several")
    add_flag(parser, "draws", type=int, default=500, metavar="N", help="draws of each id (500)")
    add_flag(parser, "output", metavar="FILE", help="write the table as CSV")
    add_data_flags(parser)
    add_knob_flags(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments: argparse.Namespace = build_parser().parse_args(argv)
    dataset = load_dataset(data_config(arguments, {"objective": "labels"}))
    trial = Trial(PlannedTrial.whole_batch(TrialConfig.from_flat(given_knobs(arguments))), dataset)
    while not trial.done:
        trial.trainer.train_epoch()
    scored = score(trial, TestClips.joined([dataset.validation, dataset.held_out]), within=arguments.within)
    sizes = [int(size) for size in arguments.calibration.split(",")]
    most = min(len(each.normal) for each in scored) - 1
    rows = [
        row
        for size in sorted({min(size, most) for size in sizes})
        for row in rows_of(scored, size, 1 if arguments.within else arguments.joined, arguments.draws)
    ]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    if arguments.output:
        write_table(arguments.output, rows, command_of("long_recordings", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
