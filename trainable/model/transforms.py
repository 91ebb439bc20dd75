"""Spectrogram transformations that the transformation head has to distinguish.

Each is a choice of parameters for one vectorised operation, so that a batch with all of them costs a single pass:

    out[f, t] = keep[f, t] · in[f_index[f], t_index[t]] + gain + noise_scale · noise[f, t]

Parameters are drawn on the CPU for the whole effective batch from the step's seed, never from the split.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from trainable.model.geometry import Geometry

TRANSFORMS = (
    "identity",
    "time_reversal",
    "frequency_shift",
    "time_shift",
    "frequency_mask",
    "time_mask",
    "gain",
    "noise",
    "speed",
)


@dataclass(frozen=True)
class TransformDraws:
    """Parameters of one transformation per clip (B clips)."""

    labels_B: Tensor
    """Index into TRANSFORMS, int64."""
    mel_index_BF: Tensor
    """Source mel bin of each mel bin, int64, 0 … F − 1."""
    frame_index_BT: Tensor
    """Source frame of each frame, int64, 0 … T − 1."""
    keep_mel_BF: Tensor
    """0 where a mel bin is masked, else 1."""
    keep_frame_BT: Tensor
    gain_B: Tensor
    """Added everywhere, in standard deviations of the normalised log-mel."""
    noise_B: Tensor
    """Standard deviation of the added noise, likewise."""
    noise_roll_B: Tensor
    """Where in the fixed noise template a clip's noise begins, int64, 0 … F · T − 1."""

    def clips(self, begin: int, end: int) -> "TransformDraws":
        """The draws of some clips of the batch."""
        return TransformDraws(*(getattr(self, field.name)[begin:end] for field in fields(self)))

    def to(self, device: torch.device) -> "TransformDraws":
        return TransformDraws(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


def draw_transforms(n_clips: int, geometry: Geometry, generator: torch.Generator) -> TransformDraws:
    """Draws one transformation per clip, every kind equally likely, strong enough that the label stays audible."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n_clips, generator=generator)

    def integers(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (n_clips,), generator=generator)

    def sign() -> Tensor:
        return 2.0 * torch.randint(0, 2, (n_clips,), generator=generator) - 1.0

    n_mels, n_frames = geometry.patch_mels, geometry.patch_frames
    labels = integers(0, len(TRANSFORMS))
    mels, frames = torch.arange(n_mels), torch.arange(n_frames)
    mel_shift = (integers(6, 17) * sign()).long()
    # A quarter to three quarters of a patch.
    time_shift = (integers(n_frames // 4, 3 * n_frames // 4 + 1) * sign()).long()
    speed = torch.where(sign() > 0, uniform(1.25, 1.6), uniform(0.6, 0.8))
    # An eighth to a third of a patch, on the axis that is masked.
    mask_share, mask_place = integers(8, 21), uniform(0.0, 1.0)
    gain = uniform(0.75, 2.0) * sign()
    noise = uniform(0.5, 1.0)
    noise_roll = integers(0, n_mels * n_frames)

    def chosen(name: str) -> Tensor:
        return (labels == TRANSFORMS.index(name))[:, None]

    def masked(length: int) -> Tensor:
        width = mask_share * length // 64
        begin = (mask_place * (length - width)).long()
        steps = torch.arange(length)
        return (steps >= begin[:, None]) & (steps < (begin + width)[:, None])

    shifted_mels = (mels + mel_shift[:, None]).clamp(0, n_mels - 1)
    mel_index = torch.where(chosen("frequency_shift"), shifted_mels, mels.expand(n_clips, n_mels))
    frame_index = torch.where(chosen("time_reversal"), frames.flip(0), frames.expand(n_clips, n_frames))
    # Vacated frames repeat the edge: shifted circularly, a steady machine would sound as before.
    shifted = (frames + time_shift[:, None]).clamp(0, n_frames - 1)
    frame_index = torch.where(chosen("time_shift"), shifted, frame_index)
    stretched = (frames * speed[:, None]).long() % n_frames
    frame_index = torch.where(chosen("speed"), stretched, frame_index)
    return TransformDraws(
        labels_B=labels,
        mel_index_BF=mel_index,
        frame_index_BT=frame_index,
        keep_mel_BF=torch.where(chosen("frequency_mask") & masked(n_mels), 0.0, torch.ones(n_clips, n_mels)),
        keep_frame_BT=torch.where(chosen("time_mask") & masked(n_frames), 0.0, torch.ones(n_clips, n_frames)),
        gain_B=torch.where(chosen("gain")[:, 0], gain, 0.0),
        noise_B=torch.where(chosen("noise")[:, 0], noise, 0.0),
        noise_roll_B=noise_roll,
    )


def noise_template(geometry: Geometry) -> Tensor:
    """A fixed patch of Gaussian noise (F · T,), the same for every trial; clips read it from different offsets."""
    size = geometry.patch_mels * geometry.patch_frames
    return torch.randn(size, generator=torch.Generator().manual_seed(0))


def apply_transforms(patches_BPFT: Tensor, draws: TransformDraws, noise_template_M: Tensor) -> Tensor:
    """Every clip's patches (B, P, F, T), transformed as `draws` says; same shape, device and dtype."""
    dtype = patches_BPFT.dtype
    n_mels, n_frames = patches_BPFT.shape[2:]
    by_mel = draws.mel_index_BF[:, None, :, None].expand(patches_BPFT.shape)
    by_frame = draws.frame_index_BT[:, None, None, :].expand(patches_BPFT.shape)
    moved = patches_BPFT.gather(2, by_mel).gather(3, by_frame)
    keep = draws.keep_mel_BF[:, None, :, None] * draws.keep_frame_BT[:, None, None, :]
    size = n_mels * n_frames
    rolled = (torch.arange(size, device=patches_BPFT.device) + draws.noise_roll_B[:, None]) % size
    noise = draws.noise_B[:, None] * noise_template_M[rolled]
    added = noise.unflatten(1, (n_mels, n_frames)) + draws.gain_B[:, None, None]
    return moved * keep.to(dtype) + added.to(dtype)[:, None]
