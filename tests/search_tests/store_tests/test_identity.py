"""A run is itself wherever its folder lies: runs of one name never meet, a moved one finds what is its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from search.run import main
from search.store.manifest import new_run_id
from tests.analysis_tests.trained import write_recordings
from tests.search_tests.test_run import SPACE
from trainable.commandline import run
from trainable.record import RunFolder
from trainable.trial import Trial

TRIALS = 4


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recordings(tmp_path_factory.mktemp("machines"), machine_type="press", train=6, test=4)


@pytest.fixture
def arguments(machine: Path, tmp_path: Path) -> list[str]:
    space = tmp_path / "space.yaml"
    space.write_text(SPACE.replace("width: 0.25", "width: 0.125"))
    words = ["--space", str(space), "--data-root", str(machine), "--machine-type", "press", "--local", "--quiet"]
    return [*words, "--grace-period", "3"]


@pytest.fixture
def interrupted_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a search that Ctrl-C ends before the given step."""
    step = Trial.step

    def go(count: int, words: list[str]) -> None:
        steps: list[Trial] = []

        def stepping(trial: Trial):
            steps.append(trial)
            if len(steps) == count:
                raise KeyboardInterrupt
            return step(trial)

        with monkeypatch.context() as patch:
            patch.setattr(Trial, "step", stepping)
            assert run(main, words) == 130

    return go


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Epochs of the checkpoints that trials went on from."""
    epochs: list[int] = []
    load = Trial.load

    def loading(trial: Trial, folder: Path, *at_most: int) -> int:
        epochs.append(load(trial, folder, *at_most))
        return epochs[-1]

    monkeypatch.setattr(Trial, "load", loading)
    return epochs


def epochs(path: Path) -> list[list[int]]:
    return [[report.epoch for report in record.epochs] for record in RunFolder(path).read_trials()]


def test_runs_of_one_name_share_storages_without_meeting(arguments, tmp_path, interrupted_at, loaded):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    shared = [*arguments, "--study-storage", url, "--storage-path", str(tmp_path / "store")]
    first, second = tmp_path / "x/run", tmp_path / "y/run"
    interrupted_at(3, [*shared, "--output", str(first)])
    assert main([*shared, "--output", str(second)]) == 0
    assert set(loaded) == {3}, "nothing but the winner at its last epoch"
    loaded.clear()
    assert main(["--resume", str(first), "--quiet", "--study-storage", url]) == 0
    assert loaded[0] == 2
    whole = [[1, 2, 3]] * TRIALS
    assert epochs(first) == epochs(second) == whole
    ids = [RunFolder(path).read_manifest().identity for path in (first, second)]
    for identity in ids:
        trials = optuna.load_study(study_name=identity, storage=url).trials
        assert [trial.user_attrs["run"] for trial in trials] == [identity] * TRIALS
    assert {path.name for path in (tmp_path / "store").iterdir()} == set(ids)


def test_a_moved_run_goes_on_from_its_checkpoints_whatever_folder_it_is_resumed_from(
    arguments, tmp_path, interrupted_at, loaded, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    interrupted_at(3, [*arguments, "--storage-path", "store", "--output", "first"])
    (tmp_path / "here/first").rename(tmp_path / "there/moved")
    monkeypatch.chdir(tmp_path / "there")
    assert main(["--resume", "moved", "--quiet"]) == 0
    assert loaded[0] == 2
    assert epochs(tmp_path / "there/moved") == [[1, 2, 3]] * TRIALS
    assert not (tmp_path / "there/store").exists()


def test_a_run_deleted_and_begun_again_begins_from_nothing(arguments, tmp_path, interrupted_at, loaded):
    words = [*arguments, "--storage-path", str(tmp_path / "store"), "--output", str(tmp_path / "run")]
    interrupted_at(3, words)
    shutil.rmtree(tmp_path / "run")
    assert main(words) == 0
    assert set(loaded) == {3}
    assert epochs(tmp_path / "run") == [[1, 2, 3]] * TRIALS


def test_identities_differ_and_suit_every_storage():
    ids = {new_run_id("a run: ü/?#%") for _ in range(100)}
    assert len(ids) == 100
    assert all(identity.startswith("a-run-") and identity.replace("-", "").isalnum() for identity in ids)
