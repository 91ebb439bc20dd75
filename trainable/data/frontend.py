"""Log-mel front end, equal to the DCASE 2020 Task 2 baseline's: librosa's melspectrogram, power 2, 20/power·log10.

Written with torch alone, because a machine that only trains has no audio library.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from trainable.config import FrontEndConfig

N_MELS = 64
POWER_FLOOR = float(np.finfo(np.float64).eps)
"""Added before the logarithm, as the baseline does (sys.float_info.epsilon)."""


def hz_to_mel(frequency: float) -> float:
    """Slaney's mel scale (Auditory Toolbox, 1998): linear below 1 kHz, logarithmic above; librosa's default."""
    if frequency < 1000.0:
        return frequency * 3.0 / 200.0
    return 15.0 + math.log(frequency / 1000.0) * 27.0 / math.log(6.4)


def mel_to_hz(mel: Tensor) -> Tensor:
    """The inverse of `hz_to_mel`."""
    return torch.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * torch.exp((mel - 15.0) * math.log(6.4) / 27.0))


@lru_cache(maxsize=8)
def mel_filters(sample_rate: int, n_fft: int) -> Tensor:
    """Triangular filters of unit area, float32 (64, n_fft // 2 + 1), from 0 Hz to half the sample rate."""
    edges = mel_to_hz(torch.linspace(hz_to_mel(0.0), hz_to_mel(sample_rate / 2), N_MELS + 2, dtype=torch.float64))
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    triangles = torch.minimum(rising, falling).clamp_min(0)
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).float()


def log_mel(samples_S: Tensor, config: FrontEndConfig) -> Tensor:
    """Log-mel spectrogram in dB of one recording, or of several of equal length.

    Parameters
    ----------
    samples_S
        float32 (…, samples) at `config.sample_rate`, full scale ± 1.

    Returns
    -------
    Tensor
        float32 (…, frames, 64) with frames = 1 + samples // hop_length (centred, zero-padded as librosa ≥ 0.10 does).
    """
    window = torch.hann_window(config.n_fft)
    spectrum = torch.stft(
        samples_S,
        config.n_fft,
        config.hop_length,
        window=window,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    power = spectrum.real.square() + spectrum.imag.square()
    mel = mel_filters(config.sample_rate, config.n_fft) @ power
    return (10.0 * torch.log10(mel + POWER_FLOOR)).transpose(-1, -2).contiguous()
