"""The folder of a Ray on this machine: short enough for its sockets, writable, and said where it is not the usual."""

import logging
import os
from pathlib import Path

import pytest

from search.runners import ray_folder as module
from search.runners.ray_folder import LONGEST_SOCKET, LONGEST_SOCKET_BYTES, ray_folder
from trainable.durable import readable
from trainable.errors import RunError

REMEDY = "; set RAY_TMPDIR to a short folder that you may write to, or use --local"


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that takes the place of /tmp, with nothing chosen by the environment."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(module, "LONGEST_SOCKET_BYTES", len(os.fsencode(tmp_path / "enough" / LONGEST_SOCKET)))
    monkeypatch.setattr(module, "SHORT", tmp_path / "short")
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "short"


def test_what_ray_appends_leaves_room_for_a_usual_folder() -> None:
    assert len(LONGEST_SOCKET) + len("/tmp/user-of-a-long-name/") < LONGEST_SOCKET_BYTES


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_folder_that_suits_ray_is_the_environments(
    name: str, short: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, str(short.parent / "other"))
    with ray_folder():
        assert os.environ["RAY_TMPDIR"] == str(short.parent / "other")
        left = Path(os.environ["TMPDIR"])
        assert left.parent == short.parent / "other"
        (left / "pymp-killed").mkdir()
    assert not left.exists()
    assert os.environ.get("RAY_TMPDIR") == (None if name == "TMPDIR" else str(short.parent / "other"))
    assert caplog.messages == []


def unsuitable(folder: Path) -> dict[Path | str, str]:
    """Folders, and what is said of them."""
    (folder / "f").touch()
    (folder / "taken").mkdir()
    (folder / "taken/ray").touch()
    return {
        folder / "too_long": "is 2 bytes too long for Ray's sockets",
        folder / "f": "is a file",
        folder / "f/g": "lies below a file",
        folder / "taken": "holds a file named ray",
        os.fsdecode(os.fsencode(folder) + b"/\xe9"): "is no UTF-8, which Ray needs",
    }


def test_a_named_folder_that_does_not_suit_ray_is_one_line(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, fault in unsuitable(short.parent).items():
        monkeypatch.setenv("RAY_TMPDIR", str(folder))
        with pytest.raises(RunError) as caught, ray_folder():
            pass
        assert str(caught.value) == f"RAY_TMPDIR {folder} {fault}{REMEDY}"
        assert os.environ["RAY_TMPDIR"] == str(folder)


def test_a_folder_for_everything_that_does_not_suit_ray_gives_way_to_a_short_one(
    short: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for folder, fault in unsuitable(short.parent).items():
        caplog.clear()
        monkeypatch.setenv("TMPDIR", str(folder))
        with caplog.at_level(logging.WARNING), ray_folder():
            assert os.environ["RAY_TMPDIR"] == str(short)
            assert Path(os.environ["TMPDIR"]).parent == short
        assert os.environ["TMPDIR"] == str(folder)
        assert caplog.messages == [
            f"TMPDIR {readable(str(folder))} {fault}; Ray writes to {short} instead (RAY_TMPDIR names another folder)"
        ]
    assert "RAY_TMPDIR" not in os.environ


def test_no_folder_that_suits_ray_is_one_line(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short.touch()
    with pytest.raises(RunError) as caught, ray_folder():
        pass
    assert str(caught.value) == f"{short} is a file{REMEDY}"
    monkeypatch.setenv("TMPDIR", str(short.parent / "too_long"))
    with pytest.raises(RunError, match=rf"^TMPDIR .*too_long is 2 bytes too long for Ray's sockets, and {short} is a"):
        ray_folder().__enter__()
