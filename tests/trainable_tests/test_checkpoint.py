"""Checkpoints survive: whole or not there, checksummed, the one before still stands."""

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainable.config import TrialConfig
from trainable.data.load import Dataset
from trainable.errors import CheckpointError, OtherConfigError
from trainable.training.checkpoint import (
    list_checkpoints,
    load_newest,
    read_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from trainable.trial import PlannedTrial, Trial

STATE = {"weights": torch.arange(5), "epoch": 3, "names": ["a", "b"], "nested": {"loss": 0.5, "none": None}}


def ours(payload: bytes) -> bytes:
    """A file with our magic and a right checksum around anything."""
    return b"vqvae-ad checkpoint 1\n" + hashlib.sha256(payload).digest() + payload


def test_what_is_written_is_read_back_in_its_types(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "new" / "one.ckpt", STATE)
    state = read_checkpoint(tmp_path / "new" / "one.ckpt")
    assert torch.equal(state.pop("weights"), torch.arange(5))
    assert state == {name: value for name, value in STATE.items() if name != "weights"}


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for epoch in range(1, 7):
        save_checkpoint(tmp_path, epoch, {"epoch": epoch})
    assert list(list_checkpoints(tmp_path)) == [5, 6]
    assert read_checkpoint(list_checkpoints(tmp_path)[5]) == {"epoch": 5}
    assert list(tmp_path.iterdir()) == list(tmp_path.glob("epoch-*.ckpt")), "no temporary file stays behind"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = save_checkpoint(tmp_path, 1, {"value": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, full)
        for epoch in (1, 2):
            with pytest.raises(CheckpointError, match="cannot be written: No space left on device; make room"):
                save_checkpoint(tmp_path, epoch, {"value": 2})
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert load_newest(tmp_path) == (1, {"value": 1})


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "foreign", "header", "folder"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, 1, {"value": torch.arange(3)})
    newest = save_checkpoint(tmp_path, 2, {"value": torch.arange(4)})
    content = newest.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    newest.unlink()
    if damage == "folder":
        newest.mkdir()
    else:
        contents = {"truncated": content[:-7], "flipped": bytes(flipped), "header": content[:30], "emptied": b""}
        newest.write_bytes(contents.get(damage, b"PK\x03\x04" * 30))
    epoch, state = load_newest(tmp_path)
    assert epoch == 1
    assert torch.equal(state["value"], torch.arange(3))
    assert str(newest) in caplog.text
    assert "trying the one before" in caplog.text


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "one.ckpt"
    write_checkpoint(path, {"value": 1})
    content = path.read_bytes()
    for place in [*range(80), *range(80, len(content), 23)]:  # the whole header, then here and there
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


class Trap:
    """Unpickled with a full pickle reader, it would make a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("trap",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not one of ours"),
        (b"vqvae-ad checkpoint 1\n short", "is not one of ours"),
        (b"vqvae-ad checkpoint 1\n" + b"0" * 40, "is damaged: its checksum does not match"),
        (ours(b""), "cannot be loaded"),
        (ours(b"no pickle at all"), "cannot be loaded"),
        (ours(saved([1, 2])), "holds a list instead of a state"),
        (ours(saved({"trap": Trap()})), "cannot be loaded"),
    ],
)
def test_what_is_no_checkpoint_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(tmp_path / "one.ckpt")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "trap").exists()


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read_checkpoint(tmp_path / "epoch-000001.ckpt")
    with pytest.raises(CheckpointError, match=r"no intact checkpoint \(0 damaged\)"):
        load_newest(tmp_path / "nowhere")
    for epoch in (1, 2):
        save_checkpoint(tmp_path, epoch, {}).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"no intact checkpoint \(2 damaged\)"):
        load_newest(tmp_path)


def test_only_checkpoints_are_listed_in_the_order_of_their_epochs(tmp_path: Path) -> None:
    for epoch in (20, 3, 1_000_000, 100):
        write_checkpoint(tmp_path / f"epoch-{epoch:06d}.ckpt", {})
    for stranger in (".epoch-000004.ckpt.123.tmp", "epoch-5.ckpt", "epoch-00000².ckpt", "epoch-000006.ckpt\n", "best"):
        (tmp_path / stranger).write_text("")
    assert list(list_checkpoints(tmp_path)) == [3, 20, 100, 1_000_000]
    assert list_checkpoints(tmp_path / "nowhere") == {}


def test_a_trial_resumed_from_an_earlier_epoch_abandons_the_later_ones(tmp_path: Path) -> None:
    for epoch in (4, 5, 6):
        save_checkpoint(tmp_path, epoch, {"epoch": epoch})
    assert load_newest(tmp_path, at_most=5) == (5, {"epoch": 5})
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        load_newest(tmp_path, at_most=4)
    save_checkpoint(tmp_path, 6, {"epoch": 6, "again": True})
    assert load_newest(tmp_path) == (6, {"epoch": 6, "again": True})
    assert save_checkpoint(tmp_path, 5, {"epoch": 5}).name == "epoch-000005.ckpt"
    assert list(list_checkpoints(tmp_path)) == [5]


def raising(error: Exception, on_epoch: int) -> Callable[[dict[str, Any]], None]:
    """Restores any state but one."""

    def restore(state: dict[str, Any]) -> None:
        if state["epoch"] == on_epoch:
            raise error

    return restore


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (CheckpointError("of no trial"), "cannot resume from checkpoint {path}: of no trial"),
        (KeyError("model"), "checkpoint {path} does not hold a trial's state (KeyError: 'model')"),
        (ValueError("one\ntwo"), "checkpoint {path} does not hold a trial's state (ValueError: one)"),
        (RuntimeError(""), "checkpoint {path} does not hold a trial's state (RuntimeError: )"),
    ],
)
def test_a_state_that_cannot_be_restored_is_skipped_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, message: str
) -> None:
    paths = [save_checkpoint(tmp_path, epoch, {"epoch": epoch}) for epoch in (1, 2)]
    assert load_newest(tmp_path, raising(error, 2)) == (1, {"epoch": 1})
    (record,) = caplog.records
    assert record.getMessage() == message.format(path=paths[1]) + "; trying the one before it"


@pytest.mark.parametrize(
    "error", [OtherConfigError("of another configuration"), torch.OutOfMemoryError("CUDA out of memory.")]
)
def test_what_says_nothing_against_a_checkpoint_is_no_reason_to_skip_it(tmp_path: Path, error: Exception) -> None:
    for epoch in (1, 2):
        save_checkpoint(tmp_path, epoch, {"epoch": epoch})
    with pytest.raises(type(error)) as caught:
        load_newest(tmp_path, raising(error, 2))
    assert caught.value is error


def test_a_checkpoint_that_remembers_a_best_epoch_still_loads_and_the_third_file_goes(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """As version 0.1.0 left them: its best epoch's beside the newest two, each with two more keys."""
    config = TrialConfig.from_flat(
        {"width": 0.125, "latent_dim": 8, "head_hidden": 8, "n_patches": 1, "num_embeddings": 8, "density": "counts"}
        | {"epochs": 5, "id_weight": 0.0, "transform_weight": 0.0, "kmeans_start": False}
    )
    trial = Trial(PlannedTrial.whole_batch(config), tiny_dataset)
    for epoch in range(1, 5):
        trial.trainer.train_epoch()
        old = {"trainer": trial.trainer.state_dict(), "best_auc": 0.7, "best_epoch": 1}
        if epoch != 2:
            write_checkpoint(tmp_path / f"epoch-{epoch:06d}.ckpt", old)
    again = Trial(PlannedTrial.whole_batch(config), tiny_dataset)
    assert again.load(tmp_path) == 4
    assert torch.equal(again.codebook(), trial.codebook())
    again.trainer.train_epoch()
    again.save(tmp_path)
    assert list(list_checkpoints(tmp_path)) == [4, 5]
    assert read_checkpoint(list_checkpoints(tmp_path)[5]).keys() == {"trainer"}
