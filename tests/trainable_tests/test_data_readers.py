"""Files as they really are: any rate, stereo, cut off, silent, of another shape, or no recording at all."""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.trainable_tests.recording_trees import mel_clip
from trainable.config import FrontEndConfig
from trainable.data.readers import lengthen, read_features, read_npy, read_wav
from trainable.errors import DataError

FRONT_END = FrontEndConfig()


def tone(rate: int, hertz: float = 440.0, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_features(path, FRONT_END)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_any_sample_rate_gives_the_same_sound(tmp_path: Path, rate: int, subtype: str) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate), rate, subtype=subtype)
    samples = read_wav(path, 16_000)
    assert samples.dtype == np.float32
    assert abs(len(samples) - 16_000) <= 1
    middle = slice(1_000, 15_000)  # a resampling filter rings at both ends
    np.testing.assert_allclose(samples[middle], tone(16_000)[middle], atol=2e-3)


def test_resampling_keeps_out_what_the_new_rate_cannot_carry(tmp_path: Path) -> None:
    path = tmp_path / "high.wav"
    soundfile.write(path, tone(48_000, hertz=12_000.0), 48_000)
    assert np.abs(read_wav(path, 16_000)[500:-500]).max() < 0.01


def stored(path: Path, *channels: np.ndarray) -> Path:
    soundfile.write(path, np.stack(channels, axis=1), 16_000, subtype="FLOAT")
    return path


def test_two_channels_are_averaged_and_of_more_the_first_is_heard(tmp_path: Path) -> None:
    left, right = tone(16_000), tone(16_000, hertz=1000.0)
    stereo = stored(tmp_path / "stereo.wav", left, right)
    np.testing.assert_allclose(read_wav(stereo, 16_000), (left + right) / 2, atol=1e-6)
    array = stored(tmp_path / "array.wav", right, left, left, left)
    np.testing.assert_allclose(read_wav(array, 16_000), right, atol=1e-6)
    np.testing.assert_allclose(read_wav(array, 16_000, "mean"), (3 * left + right) / 4, atol=1e-6)
    np.testing.assert_allclose(read_wav(array, 16_000, 3), left, atol=1e-6)


def test_channels_that_cancel_each_other_are_named(tmp_path: Path) -> None:
    left = tone(16_000)
    nearly = -left + 1e-4 * np.random.default_rng(0).standard_normal(len(left))
    for number, right in enumerate((-left, nearly)):
        path = stored(tmp_path / f"opposite{number}.wav", left, right)
        with pytest.raises(DataError, match=r"2 channels cancel each other .*; choose one with --channel 0"):
            read_wav(path, 16_000)
        np.testing.assert_allclose(read_wav(path, 16_000, 0), left, atol=1e-6)
    independent = np.random.default_rng(1).standard_normal((2, 16_000)) * 0.1
    assert len(read_wav(stored(tmp_path / "independent.wav", *independent), 16_000)) == 16_000


def test_a_channel_that_is_not_there_or_silent_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "four.wav", np.zeros(16_000), tone(16_000), np.zeros(16_000), np.zeros(16_000))
    with pytest.raises(DataError, match="has no channel 4; it has channels 0 … 3"):
        read_wav(path, 16_000, 4)
    with pytest.raises(DataError, match="its channel 0 is silent; try --channel 1"):
        read_wav(path, 16_000)


@pytest.mark.parametrize("suffix", [".flac", ".FLAC", ".aiff", ".ogg", ".mp3", ".wav", ".WAV"])
def test_every_format_holds_the_same_sound(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tone{suffix}"
    sound = tone(16_000) + 0.05 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(path, sound, 16_000)
    plain = tmp_path / "plain.wav"
    soundfile.write(plain, sound, 16_000, subtype="FLOAT")
    one, other = (read_features(each, FRONT_END) for each in (path, plain))
    frames = min(len(one), len(other))
    lossless = suffix.lower() in (".flac", ".aiff", ".wav")
    assert np.abs(one[:frames, :32] - other[:frames, :32]).mean() < (0.1 if lossless else 6.0)


def test_a_path_that_is_no_utf_8_is_read(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9cordings")
    os.mkdir(folder)
    for name, content in (("tone.wav", wav(tone(16_000))), ("tone.flac", flac())):
        path = Path(folder) / name
        path.write_bytes(content)
        assert len(read_wav(path, 16_000)) == 16_000


@pytest.mark.parametrize("seconds", [0.001, 0.5, 2.0, 3.7])
def test_any_length_gives_at_least_one_patch(tmp_path: Path, seconds: float) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, tone(16_000, seconds=seconds), 16_000)
    features = read_features(path, FRONT_END)
    assert features.shape == (max(64, 1 + int(16_000 * seconds) // 512), 64)
    assert np.isfinite(features).all()


def test_a_short_clip_repeats_its_own_sound() -> None:
    features = mel_clip(1, frames=20)
    longer = lengthen(features)
    assert longer.shape == (64, 64)
    np.testing.assert_array_equal(longer[20:40], features)
    np.testing.assert_array_equal(longer[60:], features[:4])


def wav(samples: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="WAV", **options)
    return buffer.getvalue()


def with_rate(rate: int) -> bytes:
    content = bytearray(wav(tone(16_000)))
    content[24:28] = struct.pack("<I", rate)
    return bytes(content)


def flac() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(16_000), 16_000, format="FLAC")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: wav(tone(16_000))[:1000], "is truncated"),
        (lambda: wav(tone(16_000))[:-1], "is truncated"),
        (lambda: wav(tone(16_000))[:20], "is not a readable .wav file"),
        (lambda: b"", "is not a readable .wav file"),
        (lambda: b"hello, this is text", "is not a readable .wav file"),
        (lambda: wav(np.zeros(16_000)), "is silent"),
        (lambda: wav(np.zeros(0)), "holds no samples"),
        (lambda: wav(np.array([0.1, np.nan] * 99), subtype="FLOAT"), "holds NaN or infinite samples"),
        (lambda: wav(np.array([0.1, 1e30] * 9_999), subtype="FLOAT"), "holds NaN or infinite values"),
        (lambda: with_rate(1), "has a sample rate of 1 Hz"),
        (lambda: with_rate(2**31 - 1), "has a sample rate of 2147483647 Hz"),
        (flac, "is a FLAC file"),
    ],
)
def test_an_unusable_wav_is_refused_in_one_sentence(tmp_path: Path, content: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(content())
    assert message in refusal(path)


def test_a_stream_that_was_never_closed_is_read(tmp_path: Path) -> None:
    content = bytearray(wav(tone(16_000)))
    content[4:8] = b"\xff\xff\xff\xff"
    path = tmp_path / "stream.wav"
    path.write_bytes(bytes(content))
    assert len(read_wav(path, 16_000)) == 16_000


def test_a_whole_file_whose_size_field_counts_too_much_is_read(tmp_path: Path) -> None:
    """The field leaves out the 8 bytes of its own chunk; some writers count them in, or round up."""
    path = tmp_path / "whole.wav"
    for excess in (1, 8, 44):
        content = bytearray(wav(tone(16_000)))
        content[4:8] = struct.pack("<I", len(content) - 8 + excess)
        path.write_bytes(bytes(content))
        assert len(read_wav(path, 16_000)) == 16_000
        path.write_bytes(bytes(content[:-2]))
        assert "is truncated" in refusal(path)


def test_samples_after_other_chunks_are_found(tmp_path: Path) -> None:
    content = wav(tone(16_000))
    note = b"note" + struct.pack("<I", 3) + b"abc\0"  # of odd length: a byte of padding follows
    longer = content[:36] + note + content[36:]
    path = tmp_path / "noted.wav"
    path.write_bytes(longer)
    assert len(read_wav(path, 16_000)) == 16_000
    path.write_bytes(longer[:-1])
    assert "is truncated" in refusal(path)


def test_a_folder_is_no_recording(tmp_path: Path) -> None:
    for name in ("folder.wav", "folder.npy"):
        (tmp_path / name).mkdir()
        refusal(tmp_path / name)
    assert "is not a readable .npy file" in refusal(tmp_path / "absent.npy")


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_precomputed_features_in_every_float_type_and_order(tmp_path: Path, dtype: str, order: str) -> None:
    clip = mel_clip(3)
    for name, array in (("frames", clip), ("mels", clip.T)):
        path = tmp_path / f"{name}.npy"
        np.save(path, np.asarray(array, dtype=dtype, order=order))  # type: ignore[call-overload]
        features = read_npy(path)
        assert features.dtype == np.float32
        assert features.flags.c_contiguous
        np.testing.assert_allclose(features, clip, rtol=1e-2 if dtype == "<f2" else 1e-6)


def test_a_square_spectrogram_is_mels_by_frames(tmp_path: Path) -> None:
    clip = mel_clip(3, frames=64)
    np.save(tmp_path / "square.npy", clip.T)
    np.testing.assert_array_equal(read_npy(tmp_path / "square.npy"), clip)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=mel_clip(1))
    return buffer.getvalue()


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n" + b"\0" * 64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: npy(np.zeros((63, 80), np.float32)), "has the shape (63, 80); 64 × T or T × 64 is needed"),
        (lambda: npy(np.zeros(64, np.float32)), "has the shape (64,)"),
        (lambda: npy(np.zeros((1, 64, 80), np.float32)), "has the shape (1, 64, 80)"),
        (lambda: npy(np.zeros((0, 64), np.float32)), "has 0 frames; 1 … 1000000 are accepted"),
        (lambda: npy(np.zeros((64, 80), np.int16)), "holds int16; floating-point log-mel values are needed"),
        (lambda: npy(np.zeros((64, 80), np.complex64)), "holds complex64"),
        (lambda: npy(np.full((64, 80), np.nan)), "holds NaN or infinite values"),
        (lambda: npy(np.full((64, 80), 1e300)), "holds NaN or infinite values"),
        (lambda: npy(mel_clip(1))[:-1], "is not a readable .npy file"),
        (lambda: npy(mel_clip(1))[:30], "is not a readable .npy file"),
        (lambda: npy(np.array([{}], dtype=object)), "is not a readable .npy file"),
        (npz, "is not a readable .npy file"),
        (lambda: b"PK\x03\x04 but no archive", "is not a readable .npy file"),
        (lambda: b"", "is not a readable .npy file"),
        (lambda: header("{'descr': '<f4', 'fortran_order': False, 'shape': (64, 10**12)}"), "is not a readable .npy"),
        (
            lambda: header("{'descr': '<f4', 'fortran_order': False, 'shape': (64, 9999999999), }"),
            "is not a readable .npy",
        ),
        (
            lambda: header("{'descr': '<f4', 'fortran_order': False, 'shape': (64, -80), }"),
            "is not a readable .npy file",
        ),
        (lambda: header("{'descr': '<f4"), "is not a readable .npy file"),
        (lambda: header("((((((" * 500), "is not a readable .npy file"),
        (lambda: header("-" * 5000 + "1"), "is not a readable .npy file"),
    ],
)
def test_an_unusable_npy_is_refused_in_one_sentence(tmp_path: Path, content: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "broken.npy"
    path.write_bytes(content())
    assert message in refusal(path)
