"""Which folder may be exported, and into which. Standard library only."""

import json
from fnmatch import fnmatch
from pathlib import Path

from analysis.export.scorer.layout import ARRAYS, KIND, MANIFEST
from trainable.errors import RunError

SCORER, LAUNCHER = "scorer", "score.py"
_WRITTEN = (MANIFEST, ARRAYS, "*.onnx", LAUNCHER, SCORER, "__pycache__", "best.json", "best-*.yaml")
"""Names in an exported folder; the last two are the configurations that `analysis.winners` writes beside the model."""


def is_detector(folder: Path) -> bool:
    """Whether a folder holds a detector, as a search and ``--retrain`` write it."""
    return (folder / MANIFEST).is_file() and (folder / "member-0.pt").is_file()


def check_target(folder: Path) -> None:
    """Raises RunError unless the folder is missing, empty, or an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"--export {folder} is a file; name a folder")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    foreign = [name for name in names if not any(fnmatch(name, pattern) for pattern in _WRITTEN)]
    inside = (folder / SCORER).iterdir() if (folder / SCORER).is_dir() else ()
    foreign += [f"{SCORER}/{path.name}" for path in inside if path.suffix != ".py" and path.name != "__pycache__"]
    if names and (foreign or not _was_exported(folder)):
        raise RunError(
            f"--export {folder} holds {(foreign or names)[0]}, which no export wrote; name a new or an empty folder"
        )


def _was_exported(folder: Path) -> bool:
    if (folder / "best.json").is_file():
        return True
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == KIND
