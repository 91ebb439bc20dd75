"""Checkpoints that survive: atomic, checksummed, newest two kept, damaged ones skipped.

A checkpoint is one file: a magic line, the SHA-256 of the payload, and the payload, a `torch.save` of tensors and
plain values read back with ``weights_only=True``.
"""

import hashlib
import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from trainable.checkpoint_place import CHECKPOINT_NAME
from trainable.device.out_of_memory import is_out_of_memory
from trainable.durable import write_bytes
from trainable.errors import CheckpointError, OtherConfigError

_log = logging.getLogger(__name__)
_MAGIC = b"vqvae-ad checkpoint 1\n"
_DIGEST_BYTES = 32
KEPT_NEWEST = 2
"""A failing disk may damage the newest; the one before it is then still intact."""


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint atomically, with its checksum.

    Raises CheckpointError if the file system refuses it; the previous file then stays.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getbuffer()
    try:
        write_bytes(path, _MAGIC, hashlib.sha256(payload).digest(), payload)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be written: {error.strerror}; make room or name another folder"
        ) from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What `write_checkpoint` wrote, on the CPU. Raises CheckpointError if the file is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from None
    begin = len(_MAGIC) + _DIGEST_BYTES
    if not content.startswith(_MAGIC) or len(content) < begin:
        raise CheckpointError(f"checkpoint {path} is not one of ours; delete it or name another folder")
    payload = content[begin:]
    if hashlib.sha256(payload).digest() != content[len(_MAGIC) : begin]:
        raise CheckpointError(f"checkpoint {path} is damaged: its checksum does not match")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no error type of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"checkpoint {path} cannot be loaded: {reason}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path} holds a {type(state).__name__} instead of a state")
    return state


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Epoch → file of the checkpoints in a folder, oldest first; empty if there is none."""
    if not folder.is_dir():
        return {}
    found = {int(match[1]): entry for entry in folder.iterdir() if (match := CHECKPOINT_NAME.fullmatch(entry.name))}
    return dict(sorted(found.items()))


def save_checkpoint(folder: Path, epoch: int, state: Mapping[str, Any]) -> Path:
    """Writes the checkpoint of an epoch; keeps the newest of the older ones."""
    path = folder / f"epoch-{epoch:06d}.ckpt"
    write_checkpoint(path, state)
    checkpoints = list_checkpoints(folder)
    # Later ones belong to an abandoned history: the trial resumed from an epoch before them.
    keep = set(sorted(each for each in checkpoints if each <= epoch)[-KEPT_NEWEST:])
    for old_epoch, old_path in checkpoints.items():
        if old_epoch not in keep:
            old_path.unlink(missing_ok=True)
    return path


def load_newest(
    folder: Path, restore: Callable[[dict[str, Any]], object] = id, *, at_most: int | None = None
) -> tuple[int, dict[str, Any]]:
    """Epoch and state of the newest intact checkpoint; damaged ones are skipped with a warning.

    Parameters
    ----------
    restore
        Restores the state. A state that it cannot restore is skipped too, even if the checksum matches.
    at_most
        Checkpoints of later epochs are ignored.

    Raises
    ------
    CheckpointError
        If the folder holds no intact checkpoint; an OtherConfigError if an intact one is from another configuration.
    """
    checkpoints = {
        epoch: path for epoch, path in list_checkpoints(folder).items() if at_most is None or epoch <= at_most
    }
    for epoch, path in reversed(checkpoints.items()):
        try:
            state = read_checkpoint(path)
            _restored(path, state, restore)
            return epoch, state
        except OtherConfigError:
            raise
        except CheckpointError as error:
            _log.warning("%s; trying the one before it", error)
    raise CheckpointError(f"{folder} holds no intact checkpoint ({len(checkpoints)} damaged)")


def _restored(path: Path, state: dict[str, Any], restore: Callable[[dict[str, Any]], object]) -> None:
    try:
        restore(state)
    except OtherConfigError:
        raise
    except CheckpointError as error:
        raise CheckpointError(f"cannot resume from checkpoint {path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        if is_out_of_memory(error):
            raise  # says nothing about the checkpoint
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"checkpoint {path} does not hold a trial's state ({type(error).__name__}: {reason})"
        ) from None
