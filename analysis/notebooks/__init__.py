"""Four notebooks about a run, and the command that executes them: ``python -m analysis.notebooks RUN``.

They compute nothing themselves: every cell calls `search.load` and tested functions of `analysis`.
"""

import os
from pathlib import Path

from trainable.errors import RunError

NAMES = ("best_configs", "search_behaviour", "memory", "codebook")
FOLDER = Path(__file__).parent


def chosen_run() -> str:
    """Path of the run to read: the environment variable ``AD_RUN``, else the newest run below ``runs/``.

    Looks for ``runs/`` in the current folder and in the two above it, because a notebook runs in its own folder, two
    below the project's. Raises RunError if there is no run.
    """
    named = os.environ.get("AD_RUN")
    if named:
        return named
    for folder in (Path.cwd(), *Path.cwd().parents[:2]):
        manifests = list((folder / "runs").glob("*/manifest.json"))
        if manifests:
            newest = max(manifests, key=lambda path: path.stat().st_mtime)
            return os.path.relpath(newest.parent)
    raise RunError(
        "no run was found below runs/; start one with: python -m search.run --space ad_tuning, or name its folder in "
        "the first cell"
    )
