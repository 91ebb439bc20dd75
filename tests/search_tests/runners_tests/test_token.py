"""Ray's token belongs to its owner alone."""

import stat
from pathlib import Path

import pytest

from search.runners.ray_session import keep_token_private


@pytest.mark.parametrize("new", [False, True])
def test_a_token_that_others_could_read_is_taken_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, new: bool
) -> None:
    token = tmp_path / "auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    keep_token_private()  # there is none yet
    token.write_text("secret")
    token.chmod(0o644)
    keep_token_private(new=new)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert ("could be read by every user" in caplog.text) is not new
    caplog.clear()
    keep_token_private()
    assert not caplog.text
