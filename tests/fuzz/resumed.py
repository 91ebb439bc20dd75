"""A small run that was interrupted, and how it is resumed, for inputs that damage one of its files."""

import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optuna.storages._rdb.storage import _VersionManager

import search.store.manifest
from search.engine.conductor import Conductor
from search.flags import build_parser
from search.options import SearchOptions
from search.request import Request, read_request
from search.runners.local import LocalRunner
from search.store.manifest import new_manifest, resumed_manifest
from search.store.study import SearchStudy
from tests.search_tests.synthetic import SPACE, SyntheticTrial, conductor_of, small_space
from trainable.checkpoint_place import CheckpointPlace, begin_or_resume
from trainable.record import RunFolder, RunManifest, TrialStart

# Optuna reads its migrations, ten modules, each time it opens a database: most of an input's time, and no input's file.
_VersionManager.get_head_version = functools.cache(_VersionManager.get_head_version)  # type: ignore[method-assign]
search.store.manifest._commit = functools.cache(search.store.manifest._commit)  # git in a process of its own, likewise
OPTIONS = SearchOptions(
    space="synthetic", local=True, num_samples=6, max_epochs=4, grace_period=1, concurrency=2, storage_path=None
)


class Interrupted(SyntheticTrial):
    """Ctrl-C when trial 4 has trained two epochs."""

    def step(self):
        if self.start.number == 4 and self.epoch == 2:
            raise KeyboardInterrupt
        return super().step()


class Checked(SyntheticTrial):
    """Builds its configuration as a real trial does."""

    def __init__(self, start: TrialStart):
        super().__init__(start)


@functools.cache
def _template() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """Trials that ended, two that run with checkpoints, a study in one file."""
    root = tempfile.TemporaryDirectory(prefix="fuzz-")
    folder = RunFolder(Path(root.name) / "run")
    folder.write_manifest(new_manifest("run", small_space(), OPTIONS, argv=["x"], data_digest="0", device="cpu"))
    folder.write_text(folder.space_path, SPACE)
    conductor = _conductor(folder, OPTIONS)
    conductor.asha.rungs.clear()  # none is stopped: trial 4 is there to be interrupted
    try:
        LocalRunner(conductor, store=conductor.store, options=OPTIONS, trial_factory=Interrupted).run()
    except KeyboardInterrupt:
        assert len(conductor.running) == 2
    close(conductor.store.study)
    return root, folder.path


def _conductor(folder: RunFolder, options: SearchOptions) -> Conductor:
    manifest = folder.read_manifest()
    study = SearchStudy.in_folder(folder.study_path, manifest.study_name, manifest.identity)
    try:
        return conductor_of(folder, study, small_space(), options)
    except BaseException:
        close(study)
        raise


def close(study: SearchStudy) -> None:
    study.optuna_study._storage._backend.engine.dispose()  # type: ignore[attr-defined]


def files(pattern: str) -> Sequence[str]:
    """Names, below the run, of what a mutation may hit."""
    path = _template()[1]
    return sorted(str(each.relative_to(path)) for each in path.glob(pattern))


def content(name: str) -> bytes:
    return (_template()[1] / name).read_bytes()


def damaged(name: str, content: bytes, folder: Path) -> Path:
    """A run with content in place of one of its files."""
    path = folder / "resumed"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(_template()[1], path)
    (path / name).write_bytes(content)
    return path


def request(path: Path) -> tuple[Request, RunManifest]:
    """What ``--resume`` asks of the run, as far as that is known before its study is opened."""
    asked = read_request(build_parser().parse_args(["--resume", str(path)]), ("--resume", str(path)))
    assert asked.resumed is not None
    manifest = resumed_manifest(
        asked.resumed,
        asked.space,
        asked.options,
        argv=asked.argv,
        data_digest="0",
        device="cpu",
        allow_changes=True,
        old_space=asked.old_space,
        clips={"train": 3},
    )
    [asked.space.holds(params) for params in manifest.initial]
    return asked, manifest


def ask(name: str) -> Callable[[bytes, Path], Any]:
    return lambda content, folder: request(damaged(name, content, folder))


def resume(name: str) -> Callable[[bytes, Path], Any]:
    """Puts content in place of a file of the run and resumes that up to every running trial's next report."""

    def read(content: bytes, folder: Path) -> Conductor:
        asked, manifest = request(damaged(name, content, folder))
        study = SearchStudy.in_folder(asked.folder.study_path, manifest.study_name, manifest.identity)
        try:
            conductor = conductor_of(asked.folder, study, asked.space, asked.options)
            for start in conductor.unfinished():
                place = CheckpointPlace(str(asked.folder.checkpoint_path(start.number)))
                reported = conductor.running[start.number].epoch
                trial = begin_or_resume(lambda start=start: Checked(start), place, reported)
                report = trial.step()
                assert report.epoch <= reported + 1, "no epoch is left out"
                conductor.report(start.number, report)
        finally:
            close(study)
        return conductor

    return read


def sound(conductor: Conductor) -> bool:
    """Nothing is lost and nothing is there twice."""
    numbers = conductor.store.folder.numbers()
    for number in numbers:
        record = conductor.store.folder.read_trial(number)
        if record.outcome is None and number not in conductor.running:
            return False
    return len(set(numbers)) == len(numbers) and len(numbers) >= len(files("trials/*/trial.json"))
