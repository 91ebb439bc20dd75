"""Where checkpoints go: the same place, whichever process asks and wherever it runs."""

from pathlib import Path

import pytest

from search.options import SearchOptions
from search.store.checkpoints import checkpoint_place
from trainable.record import RunFolder


@pytest.mark.parametrize("storage", [None, "shared"])
def test_a_relative_folder_is_one_place_for_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str | None
) -> None:
    """Ray's workers run in folders of their own; a relative path would send their checkpoints there."""
    monkeypatch.chdir(tmp_path)
    address = checkpoint_place(
        SearchOptions(space="ad_smoke", storage_path=storage), RunFolder("runs/first"), "first-1", 3
    ).address
    assert Path(address).is_absolute()
    assert Path(address).is_relative_to(tmp_path)


def test_an_object_store_keeps_its_address() -> None:
    options = SearchOptions(space="ad_smoke", storage_path="s3://bucket/checkpoints/")
    place = checkpoint_place(options, RunFolder("runs/first"), "first-1", 3)
    assert place.address == "s3://bucket/checkpoints/first-1/00003"
