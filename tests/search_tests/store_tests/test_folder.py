"""The lock on a run's folder, and what a file system may answer instead of giving it."""

import errno
import fcntl
import os
import re
from pathlib import Path
from unittest import mock

import pytest

from search.store.folder import held
from trainable.errors import RunError


def test_a_second_search_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(RunError, match="another search is running"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_file_system_without_locks_is_not_another_search(code: int, tmp_path: Path) -> None:
    words = re.escape(f"{tmp_path} cannot be locked against a second search: {os.strerror(code)}; name a folder")
    with (
        mock.patch.object(fcntl, "flock", side_effect=OSError(code, os.strerror(code))),
        pytest.raises(RunError, match=words),
        held(tmp_path),
    ):
        pass


def test_what_the_kernel_says_of_a_held_lock_is_another_search(tmp_path: Path) -> None:
    blocked = OSError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))
    with (
        mock.patch.object(fcntl, "flock", side_effect=blocked),
        pytest.raises(RunError, match="another search is running"),
        held(tmp_path),
    ):
        pass


@pytest.mark.parametrize("name", [".lock", "tensorboard", "trials/00000/epochs.jsonl"])
def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    entry = tmp_path / "run" / name
    entry.parent.mkdir(parents=True, exist_ok=True)
    entry.symlink_to(victim)
    with pytest.raises(RunError, match=f"{name} is a symbolic link out of the run's folder"), held(tmp_path / "run"):
        pytest.fail("held")
    assert victim.read_text() == "mine"


def test_a_run_may_lie_behind_a_link_and_link_within_itself(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "latest").symlink_to("space.yaml")
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with held(tmp_path / "run"):
        assert (tmp_path / "disk" / ".lock").exists()
