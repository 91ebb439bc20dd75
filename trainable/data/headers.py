"""Headers of sound files, which libsndfile believes: streams that were never closed, files cut off, wrong sizes.

RIFF, RIFX and RF64 (``.wav``; EBU Tech 3306) and AIFF hold their samples in one chunk whose header announces its size.
Other formats check themselves.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trainable.errors import DataError

MOST_CHUNKS = 1_000
"""Chunks searched for the samples; recorders write a dozen at most."""
NEVER_CLOSED = 0x7FFF_F000
"""Bytes; a stream writes 0 or a size from here on, and its true size only when it is closed (sox, arecord, ffmpeg)."""
MOST_TRAILING = 0.1
"""Share of the samples' bytes that may follow them and be no chunk: padding, or a note of the recorder's own."""
_SAMPLE_CHUNKS = (b"data", b"SSND")
_UNCOMPRESSED = (1, 3, 0xFFFE)
"""Format tags of WAV files whose samples all have the same number of bits: integers, floats, and either with a mask."""


@dataclass(frozen=True)
class Samples:
    """Where a file's samples are."""

    begin: int
    """Offset of the first one in bytes."""
    announced: int
    """Bytes, as the header has it."""
    size_field: tuple[int, str]
    """Offset of the field that announces them, and its `struct` format."""
    sample_frames: int | None
    """Of a compressed file, how many there are: the last block is padded with zeros."""


def find_samples(path: Path) -> Samples | None:
    """Where a chunked file has its samples; None for another format, or where there are none."""
    with path.open("rb") as file:
        kind, _, form = (file.read(4) for _ in range(3))
        if (kind, form) in ((b"RIFF", b"WAVE"), (b"RF64", b"WAVE")):
            return _search(file, "<")
        if (kind, form) in ((b"RIFX", b"WAVE"), (b"FORM", b"AIFF"), (b"FORM", b"AIFC")):
            return _search(file, ">")
    return None


def stated_samples(path: Path) -> tuple[bytes | None, int | None]:
    """What to read instead of the file, and how many sample frames of it; None where the file says both itself.

    A stream that was never closed gets a header that announces the bytes it holds. A size that counts
    the header too (some recorders do) is no loss.

    Raises
    ------
    DataError
        If the file holds fewer bytes than announced, or far more of them than its header admits.
    """
    found = find_samples(path)
    if found is None:
        return None, None
    size_bytes = path.stat().st_size
    held = size_bytes - found.begin
    open_ended = found.announced >= NEVER_CLOSED and found.announced > held
    if open_ended or (found.announced == 0 and held > 0 and not _are_chunks(path, found.begin, size_bytes)):
        return _closed(path.read_bytes(), found, held), found.sample_frames
    if found.announced > held and found.announced not in (size_bytes, size_bytes - 8):
        raise DataError(f"{path}: is truncated; its header announces more samples than it holds")
    after = found.begin + found.announced + found.announced % 2
    if size_bytes - after > MOST_TRAILING * found.announced and not _are_chunks(path, after, size_bytes):
        raise DataError(
            f"{path}: its header announces {found.announced} bytes of samples, but {size_bytes - after} more follow; "
            "write it again with a header that counts all of them (for example sox --ignore-length IN OUT)"
        )
    return None, found.sample_frames


def _search(file: BinaryIO, order: str) -> Samples | None:
    wide: tuple[int, tuple[int, str]] | None = None
    frames, tag = None, 1
    for name, size, begin in _chunks(file, order):
        if name == b"ds64":
            # Of RF64: size of the file, of the samples, and their number, 64 bits each.
            wide = int.from_bytes(file.read(16)[8:], "little"), (begin + 8, "<Q")
        elif name == b"fmt ":
            tag = int.from_bytes(file.read(2), "little" if order == "<" else "big")
        elif name == b"fact" and size >= 4 and tag not in _UNCOMPRESSED:
            frames = int(struct.unpack(order + "I", file.read(4).ljust(4, b"\0"))[0])
        elif name in _SAMPLE_CHUNKS:
            announced, field = wide if wide is not None and size == 0xFFFF_FFFF else (size, (begin - 4, order + "I"))
            return Samples(begin, announced, field, frames or None)
    return None


def _chunks(file: BinaryIO, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, announced size and first byte of each chunk from here on."""
    for _ in range(MOST_CHUNKS):
        header = file.read(8)
        if len(header) < 8:
            return
        size, begin = int(struct.unpack(order + "I", header[4:])[0]), file.tell()
        yield header[:4], size, begin
        file.seek(begin + size + size % 2)


def _are_chunks(path: Path, begin: int, end: int) -> bool:
    """Whether the bytes from `begin` on are chunks, each with a name and within the file, up to some padding."""
    with path.open("rb") as file:
        return any(_is_chunk_list(file, order, begin, end) for order in ("<", ">"))


def _is_chunk_list(file: BinaryIO, order: str, begin: int, end: int) -> bool:
    file.seek(begin)
    reached = begin
    for name, size, first in _chunks(file, order):
        if not all(32 <= letter < 127 for letter in name) or first + size > end:
            return False
        reached = first + size
    return end - reached < 8


def _closed(content: bytes, found: Samples, held: int) -> bytes:
    closed = bytearray(content)
    offset, form = found.size_field
    struct.pack_into(form, closed, offset, held)
    if form != "<Q":
        struct.pack_into(form, closed, 4, len(content) - 8)
    return bytes(closed)
