"""Ways of the original recipe that the product does not have, as parts that a benchmark adds (docs/recipe.md).

Importing this module registers the quantizer ``detached`` and the model ``batch_norm``. Batch norm mixes the patches of
a micro-batch, so that model is for whole batches only.
"""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from trainable.config import ModelConfig
from trainable.data.clips import ClipSet
from trainable.model.architecture import CONVOLUTIONAL, register_model, register_quantizer
from trainable.model.codebook import Codebook
from trainable.model.decoder import Decoder
from trainable.model.encoder import Encoder
from trainable.model.geometry import Geometry
from trainable.model.quantizer import Quantized
from trainable.model.transforms import apply_transforms, draw_transforms, noise_template

Clips = TypeVar("Clips", bound=ClipSet)


class Detached(Codebook):
    """A codebook whose vectors reach the decoder without a gradient: reconstruction never trains the encoder."""

    def quantize(self, rows_ND: torch.Tensor, *, chunk_rows: int) -> Quantized:
        quantized = super().quantize(rows_ND, chunk_rows=chunk_rows)
        return replace(quantized, vectors_ND=quantized.vectors_ND.detach())


def with_batch_norm(network: nn.Module) -> nn.Module:
    """The network with each of its group norms replaced by a batch norm."""
    for name, layer in list(network.named_children()):
        if isinstance(layer, nn.GroupNorm):
            setattr(network, name, nn.BatchNorm2d(layer.num_channels))
        else:
            with_batch_norm(layer)
    return network


def _encoder(config: ModelConfig, geometry: Geometry) -> nn.Module:
    return with_batch_norm(Encoder(config, geometry))


def _decoder(config: ModelConfig, geometry: Geometry) -> nn.Module:
    return with_batch_norm(Decoder(config, geometry))


register_quantizer("detached", Detached)
register_model("batch_norm", replace(CONVOLUTIONAL, encoder=_encoder, decoder=_decoder))


def augmented(clips: Clips, generator: torch.Generator) -> Clips:
    """The clips, each transformed in one of the ways of `trainable.model.transforms`, one of which changes nothing."""
    frames_TF = np.empty_like(clips.frames_TF)
    for index, begin in enumerate(clips.offsets[:-1].tolist()):
        clip_TF = torch.from_numpy(clips.clip(index))
        geometry = Geometry(patch_frames=len(clip_TF), rows=1, columns=1)
        draws = draw_transforms(1, geometry, generator)
        whole_BPFT = apply_transforms(clip_TF.T[None, None], draws, noise_template(geometry))
        frames_TF[begin : begin + len(clip_TF)] = whole_BPFT[0, 0].T.numpy()
    return replace(clips, frames_TF=frames_TF)
