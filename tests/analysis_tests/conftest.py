"""Runs that several test modules read: made once a session, never changed by a test."""

from pathlib import Path
from unittest.mock import patch

import pytest

from analysis.report import render
from analysis.results import RunResults, load_run
from tests.analysis_tests.synthetic import make_run
from tests.analysis_tests.trained import train_run, write_recordings
from trainable.config import Objective


@pytest.fixture(scope="session")
def synthetic_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with patch("os.fsync"):
        return make_run(tmp_path_factory.mktemp("runs") / "synthetic", trials=40)


@pytest.fixture(scope="session")
def synthetic_run(synthetic_path: Path) -> RunResults:
    return load_run(synthetic_path)


@pytest.fixture(scope="session")
def unlabelled_run(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    """A synthetic run that pseudo-anomalies judged, of recordings without labels."""
    with patch("os.fsync"):
        path = tmp_path_factory.mktemp("runs") / "unlabelled"
        return load_run(make_run(path, objective=Objective.NORMAL_ONLY, labelled=False))


@pytest.fixture(scope="session")
def both_run(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    """A synthetic run that labels and pseudo-anomalies judged."""
    with patch("os.fsync"):
        return load_run(make_run(tmp_path_factory.mktemp("runs") / "both", objective=Objective.BOTH))


@pytest.fixture(scope="session")
def unlabelled_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real trials on recordings without any test clip."""
    root = tmp_path_factory.mktemp("unlabelled")
    with patch("os.fsync"):
        found = write_recordings(root / "recordings", test=0)
        return train_run(root / "run", found, root / "cache", objective=Objective.NORMAL_ONLY)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="session")
def trained_path(tmp_path_factory: pytest.TempPathFactory, recordings: Path) -> Path:
    root = tmp_path_factory.mktemp("trained")
    with patch("os.fsync"):  # a busy disk can take seconds for each
        return train_run(root / "trained", recordings, root / "cache")


@pytest.fixture(scope="session")
def synthetic_page(synthetic_run: RunResults) -> str:
    """The report of the synthetic run, without the parts that need a model."""
    return render(synthetic_run, with_model=False)


@pytest.fixture(scope="session")
def trained_page(trained_path: Path) -> str:
    """The whole report of the trained run."""
    return render(load_run(trained_path))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features are cached beside the tests' own data, not in the user's home."""
    monkeypatch.setenv("AD_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "feature-cache"))
