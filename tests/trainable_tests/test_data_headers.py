"""Headers that are wrong, and files that were cut off: read as what they hold, or refused; never read as whole."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from trainable.data.audio import read_sound
from trainable.errors import DataError

SAMPLES = (np.random.default_rng(0).standard_normal(48_000) * 3000).astype("<i2")
BYTES = SAMPLES.tobytes()
SIZE = len(BYTES)


def riff(announced: int, total: int | None = None, data: bytes = BYTES, after: bytes = b"") -> bytes:
    """A WAV file whose header says `announced` bytes of samples and `total` bytes of file."""
    total = (announced + 36) & 0xFFFF_FFFF if total is None else total
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    return b"RIFF" + struct.pack("<I", total) + b"WAVE" + form + b"data" + struct.pack("<I", announced) + data + after


def rf64(announced: int = SIZE) -> bytes:
    sizes = b"ds64" + struct.pack("<IQQQI", 28, SIZE + 72, announced, 48_000, 0)
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + form + b"data\xff\xff\xff\xff" + BYTES


def rifx() -> bytes:
    form = b"fmt " + struct.pack(">IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    data = b"data" + struct.pack(">I", SIZE) + SAMPLES.astype(">i2").tobytes()
    return b"RIFX" + struct.pack(">I", SIZE + 36) + b"WAVE" + form + data


def read(path: Path, content: bytes) -> int:
    path.write_bytes(content)
    return len(read_sound(path, 16_000).samples)


NOTE = b"note" + struct.pack("<I", 4) + b"abcd"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(riff(SIZE), id="whole"),
        pytest.param(riff(0, 0), id="a stream of size 0"),
        pytest.param(riff(0, SIZE + 36), id="size 0 of the samples alone"),
        pytest.param(riff(0x7FFF_F000), id="sox into a pipe"),
        pytest.param(riff(0x8000_0000), id="arecord that was killed"),
        pytest.param(riff(0x7FFF_FFFF), id="the largest signed number"),
        pytest.param(riff(0xFFFF_FFFE, 0xFFFF_FFFF), id="the largest even number"),
        pytest.param(riff(0xFFFF_FFFF, 0xFFFF_FFFF), id="ffmpeg into a pipe"),
        pytest.param(riff(SIZE + 44), id="samples that count the header"),
        pytest.param(riff(SIZE, after=NOTE), id="another chunk behind"),
        pytest.param(riff(SIZE, after=b"\0" * 100), id="a little padding behind"),
        pytest.param(rf64(), id="RF64"),
        pytest.param(rf64(0xFFFF_FFFF_FFFF_FFFF), id="RF64 that was never closed"),
        pytest.param(rifx(), id="RIFX"),
    ],
)
def test_three_seconds_are_read_whatever_the_header_says(tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path / "stream.wav", content) == 48_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(riff(2 * SIZE), "is truncated", id="half is missing"),
        pytest.param(riff(SIZE)[:-1], "is truncated", id="a byte is missing"),
        pytest.param(rf64()[: -SIZE // 2], "is truncated", id="RF64"),
        pytest.param(rifx()[: -SIZE // 2], "is truncated", id="RIFX"),
        pytest.param(riff(SIZE // 2, SIZE + 36), "48000 more follow; write it again", id="half is announced"),
        pytest.param(riff(0, data=b"", after=NOTE), "holds no samples", id="empty, with another chunk behind"),
    ],
)
def test_what_the_header_hides_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path / "damaged.wav", content)


@pytest.mark.parametrize("suffix", [".aiff", ".flac", ".mp3"])
def test_other_formats_cut_off_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"whole{suffix}"
    soundfile.write(path, SAMPLES, 16_000)
    content = path.read_bytes()
    with pytest.raises(DataError, match=r"is truncated|is not a readable"):
        read(tmp_path / f"half{suffix}", content[: len(content) // 2])


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
def test_the_padding_of_a_compressed_files_last_block_is_no_sound(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "compressed.wav"
    soundfile.write(path, SAMPLES[:40_001], 16_000, subtype=subtype)
    with soundfile.SoundFile(path) as file:
        assert file.frames > 40_001
    content = bytearray(path.read_bytes())
    # As other writers do; libsndfile counts its own padding in for one of the two.
    begin = content.index(b"fact") + 8
    content[begin : begin + 4] = struct.pack("<I", 40_001)
    path.write_bytes(content)
    assert len(read_sound(path, 16_000).samples) == 40_001
