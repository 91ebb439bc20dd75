"""The log-mel front end: librosa's melspectrogram with power 2, then 10 · log10."""

import math

import numpy as np

from .errors import DetectorError

N_MELS = 64
POWER_FLOOR = float(np.finfo(np.float64).eps)
"""Added before the logarithm."""
_BLOCK_FRAMES = 4096
"""Frames transformed at a time, for bounded memory."""


def mel_filters(sample_rate: int, n_fft: int) -> np.ndarray:
    """Triangular filters of unit area on Slaney's mel scale, float64 (64, n_fft // 2 + 1)."""
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(sample_rate / 2), N_MELS + 2))
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.minimum(rising, falling).clip(min=0)
    return triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]


def _hz_to_mel(frequency: float) -> float:
    if frequency < 1000.0:
        return frequency * 3.0 / 200.0
    return 15.0 + math.log(frequency / 1000.0) * 27.0 / math.log(6.4)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((mel - 15.0) * math.log(6.4) / 27.0))


class FrontEnd:
    """Samples → log-mel frames, with what depends on rate and lengths alone made once."""

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int):
        if min(sample_rate, n_fft, hop_length) < 1:
            raise DetectorError("detector.json: its front end has a length or a rate below 1; export it again")
        self.n_fft, self.hop_length = n_fft, hop_length
        # Filters and window of 32 bits, as in training.
        self.filters = mel_filters(sample_rate, n_fft).astype(np.float32).astype(np.float64)
        phases = 2 * np.pi * np.arange(n_fft) / n_fft
        self.window = (0.5 - 0.5 * np.cos(phases)).astype(np.float32).astype(np.float64)

    def log_mel(self, samples_S: np.ndarray) -> np.ndarray:
        """Log-mel spectrogram in dB, float32 (1 + samples // hop_length, 64), centred and padded with zeros."""
        padded = np.pad(samples_S.astype(np.float64), self.n_fft // 2)
        windows = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop_length]
        blocks = [windows[begin : begin + _BLOCK_FRAMES] for begin in range(0, len(windows), _BLOCK_FRAMES)]
        return np.concatenate([self._block(block) for block in blocks])

    def _block(self, windows_TN: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(windows_TN * self.window)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        return (10.0 * np.log10(power @ self.filters.T + POWER_FLOOR)).astype(np.float32)
