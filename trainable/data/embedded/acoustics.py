"""What every embedded machine is made of: noise, impacts, harmonics, and the factory hall around it."""

import numpy as np
from scipy.signal import lfilter

SAMPLE_RATE = 16_000
CLIP_SECONDS = 4.5
SAMPLES = int(SAMPLE_RATE * CLIP_SECONDS)

Array = np.ndarray


def hall_background(rng: np.random.Generator) -> Array:
    """A factory hall: brown rumble, a distant machine's tones, and a few clanks, float64 (samples,)."""
    sound = coloured_noise(0.97, rng) + 0.25 * coloured_noise(rng.uniform(0.3, 0.8), rng)
    times = np.arange(SAMPLES) / SAMPLE_RATE
    for _ in range(3):
        frequency = rng.uniform(150.0, 3000.0)
        sound += rng.uniform(0.02, 0.2) * np.sin(2 * np.pi * frequency * times + rng.uniform(0, 6.28))
    clanks = rng.integers(0, SAMPLES, rng.poisson(2.0))
    return sound + impacts(clanks, rng.uniform(0.5, 4.0, len(clanks)), rng.uniform(900.0, 5000.0), 0.03)


def mix(machine: Array, background: Array, rng: np.random.Generator) -> Array:
    """Machine and hall at a signal-to-noise ratio of 0 … 9 dB and any gain, float32 (samples,)."""
    decibels = rng.uniform(0.0, 9.0)
    background = background * (np.std(machine) / np.std(background)) * 10.0 ** (-decibels / 20)
    sound = machine + background
    return (sound * (0.05 * 10.0 ** (rng.uniform(-4.0, 4.0) / 20) / np.std(machine))).astype(np.float32)


def coloured_noise(pole: float, rng: np.random.Generator) -> Array:
    """Noise through a first-order low-pass, scaled to unit variance, float64 (samples,)."""
    return lfilter([np.sqrt(1 - pole**2)], [1.0, -pole], rng.standard_normal(SAMPLES))


def band_noise(centre_hz: float, width_hz: float, rng: np.random.Generator) -> Array:
    """Noise through a resonance with zeros at 0 Hz and at half the sample rate, about unit variance, (samples,)."""
    radius = np.exp(-np.pi * width_hz / SAMPLE_RATE)
    angle = 2 * np.pi * centre_hz / SAMPLE_RATE
    # For a narrow band the variance of this filter's output is (1 − r²) of its peak's square, which is 1.
    gain = np.sqrt(1 - radius**2)
    poles = [1.0, -2 * radius * np.cos(angle), radius**2]
    return lfilter([gain / np.sqrt(2), 0.0, -gain / np.sqrt(2)], poles, rng.standard_normal(SAMPLES))


def impacts(positions: Array, gains: Array | float, resonance_hz: float, decay_seconds: float) -> Array:
    """Impulses at sample positions, each ringing a resonance: a second-order filter, float64 (samples,)."""
    train = np.zeros(SAMPLES)
    np.add.at(train, np.asarray(positions, dtype=np.int64), gains)
    radius = np.exp(-1.0 / (decay_seconds * SAMPLE_RATE))
    angle = 2 * np.pi * min(resonance_hz, 0.45 * SAMPLE_RATE) / SAMPLE_RATE
    return lfilter([np.sin(angle)], [1.0, -2 * radius * np.cos(angle), radius**2], train)


def harmonics(phase_S: Array, gains: Array) -> Array:
    """Σ gain_k sin(k φ), by powers of one complex rotation instead of a sine each."""
    rotation = np.exp(1j * phase_S)
    # Horner's scheme: Σ g_k z^k = z (g_1 + z (g_2 + …)).
    total = np.full_like(rotation, gains[-1])
    for gain in gains[-2::-1]:
        total *= rotation
        total += gain
    return (total * rotation).imag
