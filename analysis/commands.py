"""The commands that advice names, complete: they use the recordings and the budget of the run."""

import shlex
from typing import TYPE_CHECKING, Any

from trainable.config import DataConfig
from trainable.units import exact_bytes

if TYPE_CHECKING:
    from analysis.results import RunResults


def search_command(run: "RunResults", **flags: Any) -> str:
    """Starts a new search with the run's space, recordings and budget from its best trials.

    `flags` are added, or replace those of the recordings.
    """
    manifest = run.manifest
    space = run.folder.space_path  # its name alone may mean another file elsewhere, or none
    words = ["--space", str(space) if space.exists() else manifest.space_name, "--warm-start", str(run.folder.path)]
    data = {name: flags.pop(name, value) for name, value in manifest.data.items()}
    words += _data_words(data)
    if manifest.gpu_memory_budget_bytes:
        words += ["--gpu-memory-budget", exact_bytes(manifest.gpu_memory_budget_bytes)]
    for name, value in {"num_samples": manifest.num_samples, "max_epochs": manifest.max_epochs, **flags}.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return _line("search.run", words)


def resume_command(run: "RunResults", **flags: Any) -> str:
    """Resumes the search; the address of a shared study comes without credentials, as the run keeps it."""
    words = ["--resume", str(run.folder.path)]
    if run.manifest.study_storage is not None:
        words += ["--study-storage", run.manifest.study_storage]
    for name, value in flags.items():
        words += ["--" + name.replace("_", "-"), str(value)]
    return _line("search.run", words)


def retrain_command(run: "RunResults", number: int | None = None, *, output: str = "detector") -> str:
    """Trains a detector: of the best pairs of trial and density model, or of one trial."""
    words = [str(run.folder.path), "--retrain", *([] if number is None else ["--trial", str(number)])]
    words += [
        *([] if number is None else ["--seeds", "3"]),
        *(["--device", "cuda"] if run.manifest.device.startswith("cuda") else []),
    ]
    return _line("analysis.best", [*words, "--output", output])


def _data_words(data: dict[str, Any]) -> list[str]:
    """Flags for what differs from the defaults, and always the machine type: readers look for it."""
    defaults = DataConfig().to_dict()
    words = []
    for name, value in data.items():
        if value is not None and (name == "machine_type" or value != defaults.get(name)):
            words += ["--" + name.replace("_", "-"), str(value)]
    return words


def _line(module: str, words: list[str]) -> str:
    return f"python -m {module} {shlex.join(words)}"
