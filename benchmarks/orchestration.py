"""Overhead of a trial on Ray beyond its training, against plain Ray Tune with Optuna in the same run.

    python -m benchmarks.orchestration --trials 40 --slots 2

Trials report two epochs that take no time, in actors that have imported torch. Ours runs the whole conductor (durable
study, folder, ASHA, budgeted sampler, reused actors); plain Ray Tune runs OptunaSearch and ASHAScheduler on a class
trainable, first with its own defaults (one actor per trial), then with ``reuse_actors``.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.idle_trials import IdleTrial, idle_search, idle_space
from search.runners.packing import cpu_slots
from search.runners.ray_session import ray_session
from trainable.commandline import Parser, add_flag, run
from trainable.config import TrialConfig
from trainable.record import TrialStart

EPOCHS = 2


def ours(trials: int, slots: int) -> float:
    """Seconds of a whole search of ours, with Ray already running."""
    from search.runners.ray_tune import RayRunner

    with tempfile.TemporaryDirectory() as folder:
        conductor, store = idle_search(Path(folder) / "run", trials=trials, slots=slots, epochs=EPOCHS)
        begin = time.perf_counter()
        RayRunner(
            conductor,
            store=store,
            options=conductor.options,
            trial_factory=IdleTrial,
            slots=[cpu_slots(slots, slots)],
        ).run()
        return time.perf_counter() - begin


def plain(trials: int, slots: int, *, reuse: bool) -> float:
    """Seconds of plain Ray Tune with Optuna and ASHA on the same space and idle trial."""
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    from search.engine.optuna_trials import to_optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    class Plain(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            import torch

            torch.set_num_threads(1)
            self.trial = IdleTrial(
                TrialStart(number=0, params={}, config=TrialConfig.from_flat(config), plan=None, predicted_bytes=0)
            )

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            report = self.trial.step()
            return {"validation_auc": report.validation_auc, "done": report.epoch >= EPOCHS}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            self.trial.save(Path(checkpoint_dir))

    space = idle_space()
    search = OptunaSearch(
        {parameter.name: to_optuna(parameter.distribution) for parameter in space.parameters},
        metric="validation_auc",
        mode="max",
    )
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(Plain, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=ConcurrencyLimiter(search, max_concurrent=slots),
                scheduler=ASHAScheduler(metric="validation_auc", mode="max", max_t=EPOCHS, grace_period=1),
                num_samples=trials,
                reuse_actors=reuse,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        begin = time.perf_counter()
        tuner.fit()
        return time.perf_counter() - begin


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.orchestration", description=__doc__.split("\n")[0])
    add_flag(parser, "trials", type=int, default=40)
    add_flag(parser, "slots", type=int, default=2)
    arguments = parser.parse_args(argv)
    trials, slots = arguments.trials, arguments.slots
    with tempfile.TemporaryDirectory() as folder:
        conductor, _ = idle_search(Path(folder) / "run", trials=1, slots=slots, epochs=1)
    with ray_session(conductor.options):
        ours(slots, slots)  # so that no contender pays for cold caches
        seconds = {
            "this project": ours(trials, slots),
            "plain Ray Tune + Optuna": plain(trials, slots, reuse=False),
            "plain Ray Tune + Optuna, reuse_actors": plain(trials, slots, reuse=True),
        }
    base = seconds["this project"]
    print(f"{trials} trials of {EPOCHS} idle epochs, {slots} slots; seconds of wall time per trial")
    for name, total in seconds.items():
        print(f"{name:40s} {total / trials:6.3f} s  {total / base:5.1f}x")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
