"""Driver of kill tests: ``python -m tests.kill.driver FOLDER TRIALS SLOTS LOCAL``; run again, it resumes."""

import sys
from dataclasses import replace
from pathlib import Path

from search.conductor import Conductor
from search.local_runner import LocalRunner
from tests.kill.slow_trial import SlowTrials
from tests.search_tests.synthetic import make_conductor

MAX_EPOCHS = 9


def conductor_in(folder: Path, trials: int, slots: int) -> Conductor:
    return make_conductor(
        folder / "run",
        num_samples=trials,
        max_epochs=MAX_EPOCHS,
        grace_period=2,
        concurrency=slots,
        max_failures=1000,
        seed=3,
    )


def main() -> None:
    folder, trials, slots, local = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "local"
    factory = SlowTrials(str(folder / "epochs.log"))
    conductor = conductor_in(folder, trials, slots)
    if local:
        LocalRunner(conductor, run_folder=conductor.folder, options=conductor.options, trial_factory=factory).run()
        return
    from search.ray_runner import RayRunner
    from search.ray_session import ray_session

    options = replace(conductor.options, local=False)
    with ray_session(options) as ray:
        slots_of = ray.slots(options, "cpu")
        RayRunner(conductor, run_folder=conductor.folder, options=options, trial_factory=factory, slots=slots_of).run()


if __name__ == "__main__":
    main()
