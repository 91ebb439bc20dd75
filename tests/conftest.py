"""Fixtures that tests of every room use: a tiny real data set, and the real recordings where they are."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported, and for the processes that tests start: tiny tensors on many threads only wait for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

from tests.fixtures_data import make_tiny_dataset
from trainable.data.load import Dataset

# The same examples every time: a failure is one that a change has caused. `make test-properties` draws others.
settings.register_profile("same", derandomize=True)
settings.register_profile("drawn", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

PACKAGES = ("trainable", "search", "spaces", "analysis")


@pytest.fixture(scope="session")
def tiny_dataset() -> Dataset:
    """Embedded fans of two ids: 24 training, 8 validation and 8 held-out clips of 141 frames, made in memory."""
    return make_tiny_dataset()


@pytest.fixture(scope="session")
def recordings_root() -> Path:
    """The real recordings (machine type ``spoken``, 8 kHz); skips where they are absent."""
    named = os.environ.get("AD_RECORDINGS")
    default = Path(__file__).parents[2] / "shared" / "data" / "spoken-dcase-layout"
    root = Path(named) if named else default
    if not (root / "spoken" / "train").is_dir():
        pytest.skip(f"the real recordings are not at {root}; name their folder with AD_RECORDINGS")
    return root


@pytest.fixture(scope="session", autouse=True)
def _features_of_tests_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests read and write their own cache of features, in subprocesses too, never the user's."""
    with pytest.MonkeyPatch.context() as patch:
        if "AD_CACHE_DIR" not in os.environ:
            patch.setenv("AD_CACHE_DIR", str(tmp_path_factory.mktemp("features")))
        yield


@pytest.fixture(autouse=True)
def _process_as_at_the_start() -> None:
    """A command sets how much is logged and how many threads work for its whole process, and making a study's tables
    may switch loggers off (alembic's fileConfig, where no handler is there yet); each test begins as if none had run
    before it."""
    torch.set_num_threads(1)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.split(".")[0] in PACKAGES and isinstance(logger, logging.Logger):
            logger.disabled = False
            logger.setLevel(logging.NOTSET)
