"""Configurations by name: YAML files in this folder, laid out as a search's ``best.yaml``. Standard library only."""

import os
from pathlib import Path

from trainable.config import nearest
from trainable.errors import ConfigError


def preset_names() -> list[str]:
    """Names of the presets that come with the project."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def configuration_path(name_or_path: str | Path) -> Path:
    """The file of a preset, given by its name, or the path itself.

    Raises
    ------
    ConfigError
        If it looks like the name of a preset (no folder, no suffix) and is neither that nor a file.
    """
    path, names = Path(name_or_path), preset_names()
    if str(name_or_path) in names:
        return Path(__file__).parent / f"{name_or_path}.yaml"
    if not path.suffix and path.name == str(path) and not os.path.exists(path):
        raise ConfigError(
            f"there is no preset {str(name_or_path)!r}{nearest(str(name_or_path), names)}; there are "
            f"{', '.join(names)}, or name a file such as the best.yaml in a run's folder"
        )
    return path
