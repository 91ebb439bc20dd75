"""The embedded default: recordings of the embedded machines, named as DCASE names files, made when first asked for."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.signal import resample_poly

from trainable.config import EMBEDDED_TEST_CLIPS, FrontEndConfig, nearest
from trainable.data.cache import cached, content_key
from trainable.data.embedded import machines
from trainable.data.embedded.acoustics import SAMPLE_RATE, hall_background, mix
from trainable.data.features import ClipFeatures, ClipInfo, Recordings, pack, unpack
from trainable.data.frontend import log_mel
from trainable.data.readers import lengthen
from trainable.errors import DataError

_FORMAT = "embedded-1"
"""Change it whenever the same names would give other sounds or features, so that old cache entries are not used."""
MAKER_THREADS = 4
"""NumPy and SciPy release the interpreter's lock in the long operations, so threads use every core."""


@dataclass(frozen=True)
class Amount:
    """How many clips are generated per machine id."""

    train_clips: int = 100
    """Normal training clips."""
    test_clips: int = EMBEDDED_TEST_CLIPS
    """Normal test clips, and as many anomalous ones."""
    machine_ids: tuple[str, ...] = machines.MACHINE_IDS


@dataclass(frozen=True)
class EmbeddedClip:
    """One clip to generate: which machine, for which folder, healthy or not."""

    machine_id: str
    part: Literal["train", "test"]
    label: Literal[0, 1]
    number: int

    @property
    def name(self) -> str:
        """The file name the clip would have in DCASE's layout."""
        return f"{'anomaly' if self.label else 'normal'}_id_{self.machine_id}_{self.number:08d}.wav"


def embedded_clips(amount: Amount) -> list[EmbeddedClip]:
    """Names and kinds of the embedded machines' clips, training first."""
    ids = amount.machine_ids
    train = [EmbeddedClip(one, "train", 0, number) for one in ids for number in range(amount.train_clips)]
    normal = [EmbeddedClip(one, "test", 0, number) for one in ids for number in range(amount.test_clips)]
    anomalous = [EmbeddedClip(one, "test", 1, number) for one in ids for number in range(amount.test_clips)]
    return train + sorted(normal + anomalous, key=lambda clip: (clip.machine_id, clip.label, clip.number))


def embedded_fault(machine_type: str, clip: EmbeddedClip) -> tuple[machines.Fault, float] | None:
    """Which fault a clip has and how severe it is (0 … 1); None for a normal one. All of them come round by turns."""
    if clip.label == 0:
        return None
    faults, severities = machines.MACHINES[machine_type].faults, machines.SEVERITIES
    return faults[clip.number % len(faults)], severities[clip.number // len(faults) % len(severities)]


def embedded_sound(machine_type: str, clip: EmbeddedClip) -> np.ndarray:
    """Samples of one clip at 16 kHz, float32, full scale ± 1; the same every time."""
    index = machines.MACHINE_IDS.index(clip.machine_id)
    kind, part = machines.MACHINE_TYPES.index(machine_type), ("train", "test").index(clip.part)
    rng = np.random.default_rng([kind, index, part, clip.label, clip.number])
    family, fault = machines.MACHINES[machine_type], embedded_fault(machine_type, clip)
    machine = family.make(index)
    sound = family.healthy(machine, rng) if fault is None else family.faulty(machine, *fault, rng)
    return mix(sound, hall_background(rng), rng)


def make_recordings(
    machine_type: str, front_end: FrontEndConfig, cache_dir: Path, *, amount: Amount | None = None
) -> Recordings:
    """Features of one embedded machine type. Raises DataError for a type that is not embedded."""
    if machine_type not in machines.MACHINE_TYPES:
        raise DataError(
            f"there is no embedded machine {machine_type!r}{nearest(machine_type, machines.MACHINE_TYPES)}; "
            f"there are {', '.join(machines.MACHINE_TYPES)}; name your own recordings with --data-root"
        )
    amount = amount or Amount()
    clips = embedded_clips(amount)
    digest = content_key(_FORMAT, machine_type, json.dumps(asdict(amount)), json.dumps(front_end.spectrum))
    make = partial(_make_all, machine_type, clips, front_end)
    features = unpack(cached(cache_dir, digest, make, needs=("frames", "lengths")))
    count = len([clip for clip in clips if clip.part == "train"])
    train, test = _clip_features(clips[:count], features[:count]), _clip_features(clips[count:], features[count:])
    return Recordings(train, test, (), digest)


def _clip_features(clips: list[EmbeddedClip], features: list[np.ndarray]) -> ClipFeatures:
    return ClipFeatures(features, [ClipInfo(clip.machine_id, clip.name, clip.label) for clip in clips])


def _make_all(machine_type: str, clips: list[EmbeddedClip], front_end: FrontEndConfig) -> Mapping[str, np.ndarray]:
    def features(clip: EmbeddedClip) -> np.ndarray:
        samples = embedded_sound(machine_type, clip)
        if front_end.sample_rate != SAMPLE_RATE:
            samples = resample_poly(samples, front_end.sample_rate, SAMPLE_RATE).astype(np.float32)
        return lengthen(log_mel(torch.from_numpy(samples), front_end).numpy())

    with ThreadPoolExecutor(MAKER_THREADS) as pool:
        return pack(list(pool.map(features, clips)))
