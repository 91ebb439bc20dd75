"""The front end beside an independent one: numpy and scipy, librosa's formulas written out again."""

import numpy as np
import pytest
import scipy.signal
import torch

from trainable.config import FrontEndConfig
from trainable.data.frontend import log_mel, mel_filters


def slaney_hz(mels: np.ndarray) -> np.ndarray:
    """librosa.mel_to_hz(htk=False), term by term."""
    linear = 200.0 / 3 * mels
    step = np.log(6.4) / 27.0
    first_log_mel = 1000.0 / (200.0 / 3)
    return np.where(mels >= first_log_mel, 1000.0 * np.exp(step * (mels - first_log_mel)), linear)


def slaney_mel(hertz: float) -> float:
    if hertz >= 1000.0:
        return 15.0 + np.log(hertz / 1000.0) / (np.log(6.4) / 27.0)
    return hertz / (200.0 / 3)


def reference_filters(rate: int, n_fft: int) -> np.ndarray:
    """librosa.filters.mel(norm="slaney"), float64 (64, n_fft // 2 + 1), one triangle after the other."""
    edges = slaney_hz(np.linspace(0.0, slaney_mel(rate / 2), 66))
    bins = np.arange(n_fft // 2 + 1) * rate / n_fft
    filters = np.zeros((64, len(bins)))
    for row in range(64):
        left, centre, right = edges[row : row + 3]
        height = 2.0 / (right - left)
        filters[row] = height * np.interp(bins, [left, centre, right], [0.0, 1.0, 0.0])
    return filters


def reference_log_mel(samples: np.ndarray, config: FrontEndConfig) -> np.ndarray:
    """DCASE 2020's 20 / 2 · log10(mel + eps), frame by frame, float64 (frames, 64)."""
    window = scipy.signal.get_window("hann", config.n_fft, fftbins=True)
    padded = np.pad(samples, config.n_fft // 2)
    starts = range(0, len(padded) - config.n_fft + 1, config.hop_length)
    frames = np.stack([padded[start : start + config.n_fft] * window for start in starts])
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    mel = power @ reference_filters(config.sample_rate, config.n_fft).T
    return 20.0 / 2.0 * np.log10(mel + np.finfo(float).eps)


CONFIGS = [
    FrontEndConfig(),
    FrontEndConfig(sample_rate=8_000, n_fft=512, hop_length=160),
    FrontEndConfig(sample_rate=48_000, n_fft=2048, hop_length=2048),
    FrontEndConfig(n_fft=1000, hop_length=333),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_log_mel_is_librosas(config: FrontEndConfig) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(20_000)
    ours = log_mel(torch.from_numpy(samples.astype(np.float32)), config).numpy()
    assert ours.shape == (1 + 20_000 // config.hop_length, 64)
    assert ours.dtype == np.float32
    reference = reference_log_mel(samples, config)
    # A filter between two bins of the spectrum is empty: both give the floor, −156.5 dB.
    np.testing.assert_allclose(ours, reference, atol=2e-3)


@pytest.mark.parametrize("config", CONFIGS)
def test_mel_filters_are_librosas(config: FrontEndConfig) -> None:
    ours = mel_filters(config.sample_rate, config.n_fft).numpy()
    reference = reference_filters(config.sample_rate, config.n_fft)
    np.testing.assert_allclose(ours, reference, atol=1e-7)


def test_values_worked_by_hand() -> None:
    """40 slaney mels are 1000 · 6.4^(25/27) Hz; a full-scale sine at a bin has power (n_fft / 4)² in a Hann window."""
    assert slaney_hz(np.array([15.0, 42.0])) == pytest.approx([1000.0, 6400.0])
    config = FrontEndConfig()
    bin_hz = 64 * 16_000 / 1024
    sine = torch.sin(2 * torch.pi * bin_hz * torch.arange(16_000, dtype=torch.float64) / 16_000).float()
    row = log_mel(sine, config)[10]
    filters = mel_filters(16_000, 1024)
    power = (1024 / 4) ** 2
    loudest = int(row.argmax())
    # Hann spreads a sine over three bins: amplitudes ½, 1, ½.
    expected = 10 * torch.log10(power * (filters[loudest, 64] + (filters[loudest, 63] + filters[loudest, 65]) / 4))
    assert float(row[loudest]) == pytest.approx(float(expected), abs=1e-3)


def test_several_recordings_at_once_are_each_alone() -> None:
    batch = torch.randn(3, 5_000, generator=torch.Generator().manual_seed(1))
    together = log_mel(batch, FrontEndConfig())
    assert together.shape == (3, 10, 64)
    for row, alone in zip(together, batch, strict=True):
        torch.testing.assert_close(row, log_mel(alone, FrontEndConfig()))


def test_ten_times_louder_is_twenty_decibels_more() -> None:
    samples = torch.randn(8_000, generator=torch.Generator().manual_seed(2))
    difference = log_mel(10 * samples, FrontEndConfig()) - log_mel(samples, FrontEndConfig())
    torch.testing.assert_close(difference, torch.full_like(difference, 20.0), atol=1e-3, rtol=0)
