"""What the ceiling on checkpoints may take from a trial that runs, and what is counted as freed."""

import errno
import os
from pathlib import Path
from unittest import mock

import pytest

from search.engine.standing import Standing
from search.options import SearchOptions
from search.store.checkpoints import CheckpointKeeper
from tests.search_tests.synthetic import report_at
from trainable.config import TrialConfig
from trainable.record import RunFolder, TrialEnd, TrialOutcome, TrialStart
from trainable.training.checkpoint import list_checkpoints


def keeper_of(folder: RunFolder, limit_bytes: int) -> CheckpointKeeper:
    options = SearchOptions(space="x", checkpoint_limit_bytes=limit_bytes)
    return CheckpointKeeper(options, folder, "run")


def write_trial(folder: RunFolder, number: int, *, reported: int, saved: tuple[int, ...]) -> None:
    """A trial that reported its first epochs, and a kilobyte for each saved one."""
    folder.write_start(TrialStart(number=number, params={}, config=TrialConfig(), plan=None, predicted_bytes=0))
    for epoch in range(1, reported + 1):
        folder.append_epoch(number, report_at(epoch, 0.5))
    folder.checkpoint_path(number).mkdir(parents=True, exist_ok=True)
    for epoch in saved:
        (folder.checkpoint_path(number) / f"epoch-{epoch:06d}.ckpt").write_bytes(b"x" * 1000)


@pytest.mark.parametrize(
    ("reported", "saved", "kept"),
    [
        (4, (3, 4), [4]),
        (4, (4, 5), [4, 5]),  # 5 is saved and not reported: a resumed trial goes on from 4
        (4, (2, 3, 5), [3, 5]),
        (4, (5, 6), [5, 6]),
        (0, (1, 2), [1, 2]),
    ],
)
def test_a_running_trial_keeps_the_newest_checkpoint_that_it_has_reported(
    reported: int, saved: tuple[int, ...], kept: list[int], tmp_path: Path
) -> None:
    """Another driver held the run before, so what was reported stands in the folder; then trial 1 reports."""
    folder = RunFolder(tmp_path)
    write_trial(folder, 0, reported=reported, saved=saved)
    write_trial(folder, 1, reported=1, saved=(1,))
    keeper = keeper_of(folder, 1)
    keeper.sweep({0, 1}, Standing(1))
    keeper.reported(1, 2, {0, 1}, [])
    assert list(list_checkpoints(folder.checkpoint_path(0))) == kept
    assert list(list_checkpoints(folder.checkpoint_path(1))) == [1]


def test_what_a_trial_reports_while_the_keeper_watches_counts_too(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_trial(folder, 0, reported=2, saved=(1, 2))
    keeper = keeper_of(folder, 1)
    keeper.sweep({0}, Standing(1))
    write_trial(folder, 0, reported=0, saved=(3, 4))
    keeper.reported(0, 3, {0}, [])
    assert list(list_checkpoints(folder.checkpoint_path(0))) == [3, 4]
    keeper.reported(0, 4, {0}, [])
    assert list(list_checkpoints(folder.checkpoint_path(0))) == [4]


def test_in_an_object_store_too_what_comes_after_a_removal_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the files of a trial are not looked at after every report."""
    monkeypatch.setattr("search.store.checkpoints.is_url", lambda address: True)
    folder = RunFolder(tmp_path)
    write_trial(folder, 0, reported=5, saved=(4, 5))
    write_trial(folder, 1, reported=1, saved=(1,))
    keeper = keeper_of(folder, 2000)
    keeper.sweep({0, 1}, Standing(1))
    keeper.reported(1, 2, {0, 1}, [])
    assert list(list_checkpoints(folder.checkpoint_path(0))) == [5]
    write_trial(folder, 0, reported=0, saved=(6,))
    keeper.reported(0, 6, {0, 1}, [])
    assert list(list_checkpoints(folder.checkpoint_path(0))) == [6]


def test_what_cannot_be_removed_is_not_counted_as_freed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Trial 0 is beaten by trial 1 and one of its two files stays, so there is room for one file of trial 2 only."""
    folder = RunFolder(tmp_path)
    for number in range(3):
        write_trial(folder, number, reported=2, saved=(1, 2))
    keeper = keeper_of(folder, 4000)
    standing = Standing(1)
    standing.ended(0, TrialOutcome(end=TrialEnd.COMPLETED, reason="", epochs=2, best_auc=0.5, final_auc=0.5))
    keeper.sweep({1, 2}, standing)
    stuck = folder.checkpoint_path(0) / "epoch-000001.ckpt"
    unlink = os.unlink

    def refusing(path: str, *, dir_fd: int | None = None) -> None:
        if stuck.exists() and os.path.samestat(os.stat(path, dir_fd=dir_fd), stuck.stat()):
            raise PermissionError(errno.EPERM, "Operation not permitted", str(stuck))
        unlink(path, dir_fd=dir_fd)

    with mock.patch.object(os, "unlink", refusing):
        keeper.ended(1, [1], {2})
        keeper.ended(1, [1], {2})
    assert list(list_checkpoints(folder.checkpoint_path(0))) == [1], "the other file went"
    assert list(list_checkpoints(folder.checkpoint_path(2))) == [2]
    assert caplog.text.count(f"{stuck}: Operation not permitted") == 1
    keeper.ended(1, [1], {2})
    assert not folder.checkpoint_path(0).exists(), "tried again"
